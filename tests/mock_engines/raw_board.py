"""Register pokes and page tables by hand, so that the engines' tests need no driver."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mock.board import Board

V, S, C, X, R, W = 1, 2, 4, 0x10, 0x20, 0x40
PDE_PTE, PRT = 1 << 54, 1 << 51
RWX = V | R | W | X
INVALIDATE_EVERYTHING = 0x00F80000        # all four L2 levels and L1, without VMIDs


class RawBoard:
    """A board, poked by register names through BAR5; page tables in its own VRAM."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._free = board.vram.size // 2       # tables and buffers come from the upper half

    # ---- registers

    def poke(self, name: str, value: int = 0, /, **fields: int) -> None:
        register = self.board.regs.register(name)
        self.board.write_bar(5, 4 * self.board.regs.dword(name), 4, register.merge(value, fields))

    def peek(self, name: str) -> int:
        return self.board.read_bar(5, 4 * self.board.regs.dword(name), 4)

    def field(self, name: str, field: str) -> int:
        return self.board.regs.register(name)[field].get(self.peek(name))

    def update(self, name: str, **fields: int) -> None:
        self.poke(name, self.peek(name), **fields)

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what} did not happen; notes:\n{self.board.notes}"
            time.sleep(0.0005)

    def load_firmware(self) -> None:
        """As after the PSP's work: everything loaded, RLC's autoload complete."""
        self.board.psp.loaded |= {"SDMA_UCODE_TH0", "SDMA_UCODE_TH1", "RS64_MEC", "RS64_MEC_P0_STACK", "RLC_G"}
        self.board.psp.autoload_done = True

    @property
    def rules(self) -> set[str]:
        """Names of the rules that notes are about."""
        return {note.rule for note in self.board.notes}

    # ---- memory

    def vram(self, nbytes: int, fill: int | None = 0) -> int:
        """Offset in VRAM of fresh, page-aligned memory."""
        at = self._free
        self._free += -(-nbytes // 4096) * 4096
        assert self._free <= self.board.vram.size
        if fill is not None:
            self.board.vram.view[at:at + nbytes] = fill
        return at

    def words(self, offset: int, count: int, dtype: type = np.uint32) -> np.ndarray:
        """Live view of VRAM as engines see it."""
        return self.board.vram.view[offset:offset + count * np.dtype(dtype).itemsize].view(dtype)

    # ---- hubs

    def start_hub(self, p: str) -> None:
        """What gart_enable writes, less what is only performance. ``p`` is GC or MM."""
        last = self.board.vram.size - 1
        base = self.peek(f"{p}MC_VM_FB_LOCATION_BASE") << 24
        self.poke(f"{p}MC_VM_AGP_BOT", 0xFFFFFF)
        self.poke(f"{p}MC_VM_AGP_TOP", 0)
        self.poke(f"{p}MC_VM_SYSTEM_APERTURE_LOW_ADDR", base >> 18)
        self.poke(f"{p}MC_VM_SYSTEM_APERTURE_HIGH_ADDR", base + last >> 18)
        self.poke(f"{p}MC_VM_MX_L1_TLB_CNTL", ENABLE_L1_TLB=1, SYSTEM_ACCESS_MODE=3, ENABLE_ADVANCED_DRIVER_MODEL=1,
                  MTYPE=3)
        self.poke(f"{p}VM_L2_CNTL", ENABLE_L2_CACHE=1, CONTEXT1_IDENTITY_ACCESS_MODE=1)
        self.poke(f"{p}VM_L2_CNTL2", INVALIDATE_ALL_L1_TLBS=1, INVALIDATE_L2_CACHE=1)
        aperture = f"{p}VM_L2_CONTEXT1_IDENTITY_APERTURE_"
        self.poke(aperture + "LOW_ADDR_LO32", 0xFFFFFFFF)
        self.poke(aperture + "LOW_ADDR_HI32", 0xF)
        for n in range(18):
            self.poke(f"{p}VM_INVALIDATE_ENG{n}_ADDR_RANGE_LO32", 0xFFFFFFFF)
            self.poke(f"{p}VM_INVALIDATE_ENG{n}_ADDR_RANGE_HI32", 0x1F)

    def context(self, p: str, vmid: int, root: int, *, depth: int = 3, block: int = 0, start: int = 0,
                end: int = (1 << 36) - 1, interrupts: bool = True) -> None:
        name = f"{p}VM_CONTEXT{vmid}_"
        for kind, value in (("BASE", root | V), ("START", start), ("END", end)):
            self.poke(f"{name}PAGE_TABLE_{kind}_ADDR_LO32", value & 0xFFFFFFFF)
            self.poke(f"{name}PAGE_TABLE_{kind}_ADDR_HI32", value >> 32)
        kinds = ("RANGE", "PDE0", "VALID", "READ", "WRITE", "EXECUTE") if interrupts else ()
        self.poke(name + "CNTL", ENABLE_CONTEXT=1, PAGE_TABLE_DEPTH=depth, PAGE_TABLE_BLOCK_SIZE=block,
                  **{f"{kind}_PROTECTION_FAULT_ENABLE_INTERRUPT": 1 for kind in kinds})

    def invalidate(self, p: str, vmids: int, engine: int = 17) -> None:
        name = f"{p}VM_INVALIDATE_ENG{engine}_"
        if p == "MM":
            assert self.peek(name + "SEM") & 1
        self.poke(name + "REQ", INVALIDATE_EVERYTHING | vmids)
        assert self.peek(name + "ACK") & vmids == vmids
        if p == "MM":
            self.poke(name + "SEM", 0)


class Tables:
    """Four-level page tables, written straight into VRAM."""

    def __init__(self, raw: RawBoard) -> None:
        self.raw = raw
        self.root = raw.vram(4096)

    def entry(self, address: int, level: int) -> np.ndarray:
        """The entry (one live uint64) for an address at a level: 0 is the PTB. Directories are made on the way."""
        table = self.root
        for above in range(3, level, -1):
            row = self.raw.words(table, 512, np.uint64)[address >> 12 + 9 * above & 511:][:1]
            if not row[0]:
                row[0] = self.raw.vram(4096) | V
            table = int(row[0]) & 0xFFFF_FFFF_F000
        return self.raw.words(table, 512, np.uint64)[address >> 12 + 9 * level & 511:][:1]

    def map(self, address: int, physical: int, nbytes: int, flags: int = RWX) -> None:
        for at in range(0, nbytes, 4096):
            self.entry(address + at, 0)[0] = physical + at | flags

    def buffer(self, address: int, nbytes: int, flags: int = RWX, fill: int | None = 0) -> int:
        """Fresh VRAM, mapped at an address. Returns its offset."""
        offset = self.raw.vram(nbytes, fill)
        self.map(address, offset, nbytes, flags)
        return offset
