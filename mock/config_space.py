"""PCI configuration space of a card: header, power management, PCI Express, MSI, resizable BAR, AER, ATS.

Layout as in Linux 6.1, nbio_4_3_0_offset.h (BIF_CFG_DEV0_EPF0_*); meaning from the PCI Local Bus Specification 3.0 and
the PCI Express Base Specification 4.0. What a bit switches, it switches here: memory decode, bus mastering, the
interrupt, BAR sizes, AtomicOps, power state, function level reset.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from mock.bus import BAR_BASE, BAR_BASE_32, BusError
from mock.vbios import ROM_BYTES

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["BAR_DOORBELLS", "BAR_IO", "BAR_REGISTERS", "BAR_VRAM", "ConfigSpace"]

SIZE = 4096
BAR_VRAM, BAR_DOORBELLS, BAR_IO, BAR_REGISTERS = 0, 2, 4, 5
DOORBELL_BYTES, IO_BYTES, REGISTER_BYTES = 2 << 20, 256, 1 << 20
MIB = 1 << 20

COMMAND, STATUS, BARS, ROM, CAPABILITY_POINTER, INTERRUPT_LINE = 0x04, 0x06, 0x10, 0x30, 0x34, 0x3C
ROM_ENABLE = 1
COMMAND_MEMORY, COMMAND_MASTER = 1 << 1, 1 << 2
COMMAND_WRITABLE = 0x0547       # I/O, memory, master, parity, SERR, INTx disable
STATUS_WRITE_1_CLEARS = 0xF900
BAR_IS_IO, BAR_IS_64_BIT, BAR_PREFETCHABLE = 1, 1 << 2, 1 << 3

CAP_VENDOR, CAP_PM, CAP_PCIE, CAP_MSI = 0x48, 0x50, 0x64, 0xA0
PM_CONTROL = CAP_PM + 4
DEVICE_CONTROL, DEVICE_STATUS, LINK_STATUS = CAP_PCIE + 0x8, CAP_PCIE + 0xA, CAP_PCIE + 0x12
DEVICE_CONTROL_2, LINK_CONTROL_2 = CAP_PCIE + 0x28, CAP_PCIE + 0x30
DEVICE_CONTROL_FLR = 1 << 15
DEVICE_CONTROL_2_ATOMIC = 1 << 6
LINK_16GT, LINK_X16 = 4, 16 << 4
MSI_CONTROL, MSI_ADDRESS, MSI_DATA, MSI_MASK, MSI_PENDING = (CAP_MSI + o for o in (2, 4, 12, 16, 20))
MSI_ENABLE, MSI_64BIT, MSI_MASKABLE = 1 << 0, 1 << 7, 1 << 8
MSI_WINDOW = range(0xFEE00000, 0xFEF00000)
"""Where a PC's interrupt controllers take messages; anywhere else a message is a write to memory."""

EXT_VENDOR, EXT_AER, EXT_REBAR, EXT_ATS, EXT_LTR = 0x100, 0x150, 0x200, 0x2B0, 0x320
REBAR_CAPABILITY, REBAR_CONTROL = EXT_REBAR + 4, EXT_REBAR + 8
REBAR_MIN = 256 * MIB
BOARD_WINDOW = 512 << 30        # of bus addresses, so that a BAR0 can grow in place
BOARD_WINDOW_32 = 16 * MIB


class ConfigSpace:
    def __init__(self, board: Board) -> None:
        self._board = board
        self._bytes = bytearray(SIZE)
        self._writable = bytearray(SIZE)
        self._clears = bytearray(SIZE)      # bits that a written 1 clears
        self._sizes = {BAR_VRAM: board.gpu.bar0_bytes, BAR_DOORBELLS: DOORBELL_BYTES, BAR_IO: IO_BYTES,
                       BAR_REGISTERS: REGISTER_BYTES}
        self.memory_enabled = False
        self.bus_master = False
        self._build()

    # ---- the image

    def _put(self, offset: int, width: int, value: int, writable: int = 0, clears: int = 0) -> None:
        for target, what in ((self._bytes, value), (self._writable, writable), (self._clears, clears)):
            target[offset:offset + width] = what.to_bytes(width, "little")

    def _build(self) -> None:
        arch, put = self._board.arch, self._put
        put(0x00, 2, arch.vendor)
        put(0x02, 2, arch.device)
        put(COMMAND, 2, 0, COMMAND_WRITABLE)
        put(STATUS, 2, 1 << 4, clears=STATUS_WRITE_1_CLEARS)            # has a capability list
        put(0x08, 4, arch.class_code << 8 | arch.revision)
        put(0x0C, 1, 0, 0xFF)                                           # cache line size
        for index, flags in ((BAR_VRAM, BAR_IS_64_BIT | BAR_PREFETCHABLE), (BAR_IO, BAR_IS_IO), (BAR_REGISTERS, 0),
                             (BAR_DOORBELLS, BAR_IS_64_BIT | BAR_PREFETCHABLE)):
            put(BARS + 4 * index, 4, flags)
        self._size_bars()
        put(0x2C, 4, arch.subsystem[1] << 16 | arch.subsystem[0])
        put(ROM, 4, 0, ~(ROM_BYTES - 1) & 0xFFFFFFFF | ROM_ENABLE)
        put(CAPABILITY_POINTER, 1, CAP_VENDOR)
        put(INTERRUPT_LINE, 2, 1 << 8 | 0xFF, 0xFF)                     # INTA
        put(CAP_VENDOR, 4, 8 << 16 | CAP_PM << 8 | 0x09)
        put(CAP_VENDOR + 4, 4, arch.subsystem[1] << 16 | arch.subsystem[0], 0xFFFFFFFF)
        put(CAP_PM, 4, 0xC803 << 16 | CAP_PCIE << 8 | 0x01)             # version 3, PME from D0, D3hot, D3cold
        put(PM_CONTROL, 2, 1 << 3, 0x0103, 1 << 15)                     # no soft reset
        put(CAP_PCIE, 4, 0x0012 << 16 | CAP_MSI << 8 | 0x10)            # version 2, legacy endpoint
        put(CAP_PCIE + 4, 4, 1 << 28 | 1 << 15 | 1 << 5 | 1)            # FLR, role-based errors, 256 bytes
        put(DEVICE_CONTROL, 2, 0x2810, 0x7FFF | DEVICE_CONTROL_FLR)
        put(DEVICE_STATUS, 2, 0, clears=0xF)
        put(CAP_PCIE + 0xC, 4, 0x3 << 10 | LINK_X16 | LINK_16GT)        # ASPM L0s and L1, x16, 16 GT/s
        put(CAP_PCIE + 0x10, 2, 1 << 6, 0x0FFB)
        put(LINK_STATUS, 2, 1 << 12 | LINK_X16 | LINK_16GT)             # slot clock, negotiated x16 at 16 GT/s
        put(CAP_PCIE + 0x24, 4, 1 << 11 | 7 << 7 | 1 << 6 | 0x1F)       # LTR, AtomicOp completer 32 64 128, timeouts
        put(DEVICE_CONTROL_2, 2, 0, 0x07FF)
        put(CAP_PCIE + 0x2C, 4, 0x1E)
        put(LINK_CONTROL_2, 2, LINK_16GT, 0xFFFF)
        put(CAP_PCIE + 0x32, 2, 0x1E)                                   # equalization complete, phases 1 to 3
        put(CAP_MSI, 4, (MSI_64BIT | MSI_MASKABLE) << 16 | 0x05, MSI_ENABLE << 16)
        put(MSI_ADDRESS, 4, 0, 0xFFFFFFFC)
        put(MSI_ADDRESS + 4, 4, 0, 0xFFFFFFFF)
        put(MSI_DATA, 2, 0, 0xFFFF)
        put(MSI_MASK, 4, 0, 1)
        put(EXT_VENDOR, 4, EXT_AER << 20 | 1 << 16 | 0x000B)
        put(EXT_VENDOR + 4, 4, 0x010 << 20 | 1 << 16 | 1)
        put(EXT_AER, 4, EXT_REBAR << 20 | 2 << 16 | 0x0001)
        put(EXT_AER + 4, 4, 0, clears=0x07FFFFF0)                       # uncorrectable status
        put(EXT_AER + 8, 4, 0, 0x07FFFFF0)
        put(EXT_AER + 12, 4, 0x00462030, 0x07FFFFF0)
        put(EXT_AER + 16, 4, 0, clears=0x0000F1C1)                      # correctable status
        put(EXT_AER + 20, 4, 0x2000, 0x0000F1C1)
        put(EXT_REBAR, 4, EXT_ATS << 20 | 1 << 16 | 0x0015)
        largest = max(self._board.gpu.bar0_bytes, 1 << (self._board.gpu.vram_bytes - 1).bit_length(), REBAR_MIN)
        smallest = min(REBAR_MIN, self._board.gpu.bar0_bytes)
        sizes = (largest // MIB * 2 - 1) & ~(smallest // MIB - 1)       # bit n: 1 MiB << n
        put(REBAR_CAPABILITY, 4, sizes << 4 & 0xFFFFFFFF)
        put(REBAR_CONTROL, 4, (self._board.gpu.bar0_bytes // MIB).bit_length() - 1 << 8 | 1 << 5, 0x3F00)
        put(EXT_ATS, 4, EXT_LTR << 20 | 1 << 16 | 0x000F)
        put(EXT_ATS + 4, 4, 1 << 5, 0x801F << 16)                       # page-aligned requests; STU, enable
        put(EXT_LTR, 4, 1 << 16 | 0x0018)
        put(EXT_LTR + 4, 4, 0, 0x1FFF1FFF)

    def _size_bars(self) -> None:
        for index, size in self._sizes.items():
            mask = ~(size - 1) & 0xFFFFFFFFFFFFFFFF
            low = mask & (0xFFFFFFFC if index == BAR_IO else 0xFFFFFFF0)
            self._writable[BARS + 4 * index:BARS + 4 * index + 4] = low.to_bytes(4, "little")
            if index in (BAR_VRAM, BAR_DOORBELLS):
                self._writable[BARS + 4 * index + 4:BARS + 4 * index + 8] = (mask >> 32).to_bytes(4, "little")

    def _get(self, offset: int, width: int) -> int:
        return int.from_bytes(self._bytes[offset:offset + width], "little")

    # ---- access

    def _legal(self, offset: int, width: int, what: str) -> bool:
        if width in (1, 2, 4) and not offset % width and 0 <= offset <= SIZE - width:
            return True
        self._board.note("config-access", f"{what} of {width} bytes at {offset:#x} of configuration space: must be "
                                          "1, 2 or 4 bytes, aligned, below 4096")
        return False

    def read(self, offset: int, width: int) -> int:
        if not self._legal(offset, width, "read"):
            return (1 << 8 * max(width, 0)) - 1
        return self._get(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        if not self._legal(offset, width, "write"):
            return
        for i, byte in enumerate((value & (1 << 8 * width) - 1).to_bytes(width, "little")):
            at = offset + i
            mask = self._writable[at]
            self._bytes[at] = (self._bytes[at] & ~mask | byte & mask) & ~(byte & self._clears[at])
        self._written(offset, width)

    def _written(self, offset: int, width: int) -> None:
        def touches(register: int, size: int) -> bool:
            return offset < register + size and register < offset + width

        if touches(DEVICE_CONTROL, 2) and self._get(DEVICE_CONTROL, 2) & DEVICE_CONTROL_FLR:
            self._board.note("flr", "function level reset")
            self.reset()
            self._board.reset_blocks()
            return
        if touches(REBAR_CONTROL, 4):
            self._resize()
        if touches(COMMAND, 2) or touches(PM_CONTROL, 2) or touches(BARS, 24) or touches(REBAR_CONTROL, 4):
            self._decode()
        if touches(CAP_MSI, 24):
            self._deliver_pending()

    def _decode(self) -> None:
        command = self._get(COMMAND, 2)
        awake = self._get(PM_CONTROL, 2) & 3 == 0       # in D1 to D3 only configuration space answers
        self.memory_enabled = bool(command & COMMAND_MEMORY) and awake
        self.bus_master = bool(command & COMMAND_MASTER) and awake
        self._board.bus.bars_changed()

    def _resize(self) -> None:
        wanted = 1 << (self._get(REBAR_CONTROL, 4) >> 8 & 0x3F)
        supported = self._get(REBAR_CAPABILITY, 4) >> 4
        current = self._sizes[BAR_VRAM]
        if wanted * MIB == current:
            return                      # put back with the rest of the state, as Linux's pci_restore_rebar_state does
        if self.memory_enabled:
            self._board.note("resizable-bar", "BAR0's size was written while memory decode is on; it stays "
                                              f"{current // MIB} MiB (PCI Express 4.0, 7.8.6.3)")
        elif not wanted & supported:
            self._board.note("resizable-bar", f"BAR0 cannot have {wanted} MiB; the capability lists {supported:#x} MiB")
        else:
            self._sizes[BAR_VRAM] = wanted * MIB
            self._size_bars()
            for i in range(BARS, BARS + 8):             # address bits below the size read as zero
                keep = self._writable[i] | (0xF if i == BARS else 0)
                self._bytes[i] &= keep
            return
        control = self._get(REBAR_CONTROL, 4) & ~0x3F00 | (current // MIB).bit_length() - 1 << 8
        self._bytes[REBAR_CONTROL:REBAR_CONTROL + 4] = control.to_bytes(4, "little")

    # ---- what the rest of the card asks

    def bar_bytes(self, index: int) -> int:
        return self._sizes.get(index, 0)

    def bar_address(self, index: int) -> int:
        low = self._get(BARS + 4 * index, 4)
        high = self._get(BARS + 4 * index + 4, 4) if index in (BAR_VRAM, BAR_DOORBELLS) else 0
        return high << 32 | low & ~(0x3 if index == BAR_IO else 0xF)

    @property
    def atomics_enabled(self) -> bool:
        """DEVCTL2.AtomicOp Requester Enable: may the card send AtomicOps to host memory?"""
        return bool(self._get(DEVICE_CONTROL_2, 2) & DEVICE_CONTROL_2_ATOMIC)

    def msi_message(self, vector: int) -> int | None:
        """The vector if a message goes out now; a masked one stays pending; None otherwise."""
        if not self._get(MSI_CONTROL, 2) & MSI_ENABLE or not self.bus_master or vector != 0:
            return None
        if self._get(MSI_MASK, 4) & 1 << vector:
            self._bytes[MSI_PENDING] |= 1 << vector
            return None
        address = self._get(MSI_ADDRESS, 4) | self._get(MSI_ADDRESS + 4, 4) << 32
        if address not in MSI_WINDOW:
            self._message_to_memory(address)
            return None
        return vector

    def _message_to_memory(self, address: int) -> None:
        import ctypes
        try:
            where = self._board.bus.translate(address, 4)
        except BusError as error:
            self._board.note("msi", f"an MSI went to {error}")
        else:
            self._board.note("msi", f"an MSI went to memory at {address:#x}, outside the interrupt window")
            ctypes.memmove(where, struct.pack("<I", self._get(MSI_DATA, 2)), 4)

    def _deliver_pending(self) -> None:
        if self._bytes[MSI_PENDING] & 1 and not self._get(MSI_MASK, 4) & 1:
            self._bytes[MSI_PENDING] &= ~1
            self._board.raise_msi(0)

    def assign(self, number: int) -> None:
        """What the platform's firmware does for the machine's card ``number``: give the BARs addresses. Decode and bus
        mastering stay off."""
        base, base_32 = BAR_BASE + number * BOARD_WINDOW, BAR_BASE_32 + number * BOARD_WINDOW_32
        doorbells = base + BOARD_WINDOW - DOORBELL_BYTES
        for index, address in ((BAR_VRAM, base), (BAR_DOORBELLS, doorbells), (BAR_IO, 0x1000 * (number + 1)),
                               (BAR_REGISTERS, base_32)):
            self.write(BARS + 4 * index, 4, address & 0xFFFFFFFF)
            if index in (BAR_VRAM, BAR_DOORBELLS):
                self.write(BARS + 4 * index + 4, 4, address >> 32)

    def reset(self, keep_bars: bool = False) -> None:
        """Everything to its power-on value; with ``keep_bars`` the host puts the BARs back, as it does around resets
        that it asks for. BAR0's size is sticky."""
        bars, rebar = self._bytes[BARS:BARS + 24], self._bytes[REBAR_CONTROL:REBAR_CONTROL + 4]
        self._bytes[:] = bytes(SIZE)
        self._build()
        self._bytes[REBAR_CONTROL:REBAR_CONTROL + 4] = rebar
        if keep_bars:
            self._bytes[BARS:BARS + 24] = bars
        self._decode()
