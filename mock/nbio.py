"""NBIO: the way in. Memory size, indirect access, doorbells, the HDP flush, and the firmware that readies the card.

What a driver must do here for the rest to work, and what happens without:

* wait for MP0_SMN_C2PMSG_33 bit 31 after a reset (Linux 6.12, amdgpu_discovery.c,
  amdgpu_discovery_read_binary_from_mem): before it, the memory size reads all ones and the
  discovery table is not there;
* RCC_DOORBELL_APER_EN: doorbells are lost;
* S2A_DOORBELL_ENTRY_0 (compute), _1 (IH) and _2 (SDMA), beyond the register BAR and reached through RSMU_INDEX: the
  doorbells of that client are lost;
* REMAP_HDP_MEM_FLUSH_CNTL: the remapped page is not there, a flush through it does nothing (from power-on it names the
  flush register itself).

An S2A entry holds a first doorbell in dwords and a count in 64-bit doorbells: Linux's figures are consistent with
that only (SDMA: 0x200 and 20 for two engines of 10; nbio_v4_3.c, nbio_v4_3_sdma_doorbell_range, and
amdgpu_doorbell.h). Count 0 takes what no other entry takes. What entry 3 (AWID 6) is for is not known; here it has
no effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mock import discovery
from mock.block import Block, on_read, on_write

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Nbio"]

ALL_ONES = 0xFFFFFFFF
MIB = 1 << 20
IN_PAGE = 0x3FF                     # dwords of a page of doorbells
ASIC_INIT_COMPLETE = 1 << 9
"""BIOS scratch 7 (Linux 6.1, atombios.h, ATOM_S7_ASIC_INIT_COMPLETE_MASK): the card was posted."""
FIRMWARE_READY = 1 << 31
READY_POLLS, READY_SECONDS = 3, 0.1
"""After a reset the firmware is ready at the third look at C2PMSG_33, or after so long."""

S2A_CLIENTS = {0: "cp", 1: "ih", 2: "sdma"}
S2A_ROUTES = {"cp": (0x3, 0x3), "ih": (0x0, 0x0), "sdma": (0xE, 0x3)}
"""Client -> (AWID, AWADDR_31_28) that lead to it (Linux 6.1, nbio_v4_3.c, the *_doorbell_range functions)."""

HDP_FLUSH_REGISTERS = ("BIF_BX_PF0_HDP_MEM_COHERENCY_FLUSH_CNTL", "BIF_BX_PF0_HDP_REG_COHERENCY_FLUSH_CNTL",
                       "BIF_BX_PF0_HDP_MEM_COHERENCY_FLUSH_ONLY_CNTL")
REMAP_REGISTERS = {"BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL": 0x385C, "BIF_BX0_REMAP_HDP_REG_FLUSH_CNTL": 0x3858}
"""And their power-on values: the flush registers themselves (Linux 6.1, nbio_2_3_default.h; the header of 4.3 has no
defaults). A driver may read where to flush instead of choosing a place."""


class Nbio(Block):
    ip = "NBIF"
    reset_values: ClassVar = {"BIF_BX0_BIF_FB_EN": 3,         # reads and writes, as the VBIOS leaves it
                              "BIF_BX0_BIOS_SCRATCH_7": ASIC_INIT_COMPLETE, **REMAP_REGISTERS}

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._polls: int | None = None      # None: ready
        self._reset_at = 0.0
        self._remapped: dict[str, int] = {}
        self._doorbells: dict[int, int] = {}
        self._routes: tuple[list[tuple[int, int, str | None]], str | None] | None = None
        self._s2a = {n: board.regs.register(f"S2A_DOORBELL_ENTRY_{n}_CTRL") for n in S2A_CLIENTS}
        self._own_flushes = {board.regs.dword(name) for name in HDP_FLUSH_REGISTERS}
        self._made = False

    def reset(self) -> None:
        board = self.board
        strap = board.regs.register("RCC_STRAP0_RCC_DEV0_EPF0_STRAP0")
        board.regs["RCC_STRAP0_RCC_DEV0_EPF0_STRAP0"] = strap.pack(STRAP_DEVICE_ID_DEV0_F0=board.arch.device)
        for dword in self._remapped.values():
            board.regs.on_write_dword(dword, None)
        self._remapped.clear()
        self._doorbells.clear()
        self._routes = None
        if not self._made:              # powered on long ago
            self._made = True
            self._ready()
        else:
            self._polls, self._reset_at = 0, time.monotonic()
            offset = discovery.offset(board.vram.size)
            board.vram.view[offset:offset + discovery.TABLE_SIZE] = 0
            board.vram.written(offset, discovery.TABLE_SIZE)

    def restored(self) -> None:
        for dword in self._remapped.values():
            self.board.regs.on_write_dword(dword, self.hdp_flush)

    # ---- readiness

    def _ready(self) -> None:
        """The card's own firmware is done: the discovery table is in memory."""
        self._polls = None
        table = np.frombuffer(discovery.build(self.board.gpu), np.uint8)
        offset = discovery.offset(self.board.vram.size)
        self.board.vram.view[offset:offset + len(table)] = table
        self.board.vram.written(offset, len(table))
        self.board.psp.firmware_up()

    @property
    def ready(self) -> bool:
        """Is the card's firmware up? A fault may keep it from that."""
        if self.board.resetting:
            return False
        if self._polls is not None and (self._polls >= READY_POLLS
                                        or time.monotonic() - self._reset_at > READY_SECONDS):
            if self.board.faults.active("firmware-never-ready"):
                return False
            self._ready()
        return self._polls is None

    @on_read("MP0_SMN_C2PMSG_33")
    def firmware_ready(self) -> int:
        if self._polls is not None and not self.board.resetting:
            self._polls += 1
        return FIRMWARE_READY if self.ready else 0

    @on_read("MP0_SMN_C2PMSG_35")
    def boot_loader_status(self) -> int:
        return self.board.regs["MP0_SMN_C2PMSG_35"] if self.ready else 0

    @on_read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE")
    def memory_size(self) -> int:
        """All ones in a reset and until the firmware is up: Linux takes anything else for the end of a reset, and then
        for the size (Linux 6.1, amdgpu_device.c, amdgpu_device_mode1_reset)."""
        return self.board.vram.size // MIB if self.ready else ALL_ONES

    # ---- indirect access

    def _smn(self, index: str) -> int:
        return self.board.regs[index] >> 2

    @on_read("BIF_BX_PF0_RSMU_DATA", "BIF_BX0_PCIE_DATA", "BIF_BX0_PCIE_DATA2")
    def smn_read(self, name: str) -> int:
        return self.board.regs.read(self._smn(name.replace("DATA", "INDEX")))

    @on_write("BIF_BX_PF0_RSMU_DATA", "BIF_BX0_PCIE_DATA", "BIF_BX0_PCIE_DATA2")
    def smn_write(self, value: int, name: str) -> None:
        self.board.regs.write(self._smn(name.replace("DATA", "INDEX")), value)

    def _mm(self) -> tuple[bool, int]:
        """(video memory?, byte offset) that MM_INDEX selects."""
        index = self.board.regs["BIF_BX_PF0_MM_INDEX"]
        return bool(index >> 31), self.board.regs["BIF_BX_PF0_MM_INDEX_HI"] << 31 | index & 0x7FFFFFFF

    @on_read("BIF_BX_PF0_MM_DATA")
    def mm_read(self) -> int:
        memory, offset = self._mm()
        vram = self.board.vram
        if memory:
            return int.from_bytes(vram.view[offset:offset + 4].tobytes(), "little") \
                if offset + 4 <= vram.size else ALL_ONES
        return self.board.regs.read(offset >> 2)

    @on_write("BIF_BX_PF0_MM_DATA")
    def mm_write(self, value: int) -> None:
        memory, offset = self._mm()
        vram = self.board.vram
        if not memory:
            self.board.regs.write(offset >> 2, value)
        elif offset + 4 <= vram.size:
            vram.view[offset:offset + 4] = np.frombuffer(value.to_bytes(4, "little"), np.uint8)
            vram.written(offset, 4)
        else:
            self.board.note("mm-index", f"MM_DATA write at {offset:#x} of video memory, which has {vram.size:#x} bytes")

    # ---- HDP

    def frame_buffer_on(self, bit: int) -> bool:
        """Does BIF_FB_EN let the CPU's reads (bit 0) or writes (bit 1) through to video memory?"""
        return bool(self.board.regs["BIF_BX0_BIF_FB_EN"] & bit)

    @on_write(*HDP_FLUSH_REGISTERS)
    def hdp_flush(self, _value: int) -> None:
        """Stores of the CPU through BAR0 reach memory."""
        self.board.hdp_flush()

    @on_write("BIF_BX_PF0_GPU_HDP_FLUSH_REQ")
    def hdp_flush_request(self, value: int) -> None:
        self.board.hdp_flush()
        self.board.regs["BIF_BX_PF0_GPU_HDP_FLUSH_DONE"] = value

    @on_write(*REMAP_REGISTERS)
    def hdp_remap(self, value: int, name: str) -> None:
        regs = self.board.regs
        if name in self._remapped:
            regs.on_write_dword(self._remapped.pop(name), None)
        dword = (value & 0x7FFFC) >> 2
        if dword and dword not in self._own_flushes:
            self._remapped[name] = dword
            regs.on_write_dword(dword, self.hdp_flush)

    # ---- doorbells

    @property
    def doorbells_enabled(self) -> bool:
        return bool(self.board.regs["RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN"] & 1)

    def read_doorbell(self, offset: int, width: int) -> int:
        """What was written last; the aperture is no memory, and reading it has no use on silicon either."""
        if not self.doorbells_enabled:
            return (1 << 8 * width) - 1
        low = self._doorbells.get(offset >> 2, 0)
        return low if width == 4 else self._doorbells.get((offset >> 2) + 1, 0) << 32 | low

    def write_doorbell(self, offset: int, width: int, value: int) -> None:
        """One store into BAR2."""
        board = self.board
        dword = offset >> 2
        if not self.doorbells_enabled:
            board.note("doorbell-aperture", f"doorbell {dword:#x} was rung while RCC_DOORBELL_APER_EN is off")
            return
        self._doorbells[dword] = value & ALL_ONES
        if width == 8:
            self._doorbells[dword + 1] = value >> 32
        client = self.doorbell_client(dword)
        if client is None:
            board.note("doorbell-route", f"doorbell {dword:#x}: no enabled S2A_DOORBELL_ENTRY leads it anywhere")
        elif not board.faults.any or not self._lost_doorbell(client):
            if client == "cp":
                board.mec.doorbell(offset, value, width)
            elif client == "sdma":
                board.sdma.doorbell(offset, value, width)
            else:
                board.ih.doorbell(dword, value)

    def _lost_doorbell(self, client: str) -> bool:
        self.board.faults.event("doorbell", client=client)
        return self.board.lost or self.board.faults.strike("doorbell-lost", client=client) is not None

    def doorbell_client(self, dword: int) -> str | None:
        """Where the S2A entries lead a doorbell: "cp", "ih", "sdma" or nowhere. The place in its page decides, so that
        processes' pages are divided as the card's own is (Linux, amdgpu_amdkfd.c,
        amdgpu_amdkfd_device_init: BIF routes by the lower 12 bits of an address)."""
        if self._routes is None:
            self._routes = self._decode_routes()
        ranges, rest = self._routes
        dword &= IN_PAGE
        for first, end, client in ranges:
            if first <= dword < end:
                return client
        return rest

    @on_write(*(f"S2A_DOORBELL_ENTRY_{n}_CTRL" for n in S2A_CLIENTS))
    def route(self, _value: int) -> None:
        self._routes = None

    def _decode_routes(self) -> tuple[list[tuple[int, int, str | None]], str | None]:
        """([(first, end, client or None where the entry leads astray)], client of the rest)."""
        ranges: list[tuple[int, int, str | None]] = []
        rest: str | None = None
        for number, client in S2A_CLIENTS.items():
            register = self._s2a[number]
            entry = {name.removeprefix(f"S2A_DOORBELL_PORT{number}_"): value
                     for name, value in register.unpack(self.board.regs[register.name]).items()}
            if not entry["ENABLE"]:
                continue
            leads = client if (entry["AWID"], entry["AWADDR_31_28_VALUE"]) == S2A_ROUTES[client] else None
            if entry["RANGE_SIZE"]:
                ranges.append((entry["RANGE_OFFSET"], entry["RANGE_OFFSET"] + 2 * entry["RANGE_SIZE"], leads))
            else:
                rest = rest or leads
        return ranges, rest

    # ---- what others hang on

    def on_smn(self, address: int, *, read: Callable[[], int] | None = None,
               write: Callable[[int], None] | None = None) -> None:
        """Handlers at an SMN byte address that has no register name."""
        if read is not None:
            self.board.regs.on_read_dword(address >> 2, read)
        if write is not None:
            self.board.regs.on_write_dword(address >> 2, write)
