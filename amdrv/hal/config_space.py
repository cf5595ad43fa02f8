"""PCI configuration space: checked access and the walk over capabilities, the same for every HAL.

Offsets and bits: PCI Local Bus Specification 3.0, 6.1 and 6.2.5; PCI Express Base Specification 4.0, 7.5 and 7.6.
"""

from __future__ import annotations

from collections.abc import Callable

from amdrv.errors import HalError

__all__ = ["BAR0", "CAP_EXPRESS", "CAP_MSI", "CheckedConfig", "COMMAND", "COMMAND_MASTER", "COMMAND_MEMORY"]

COMMAND, STATUS, BAR0, CAPABILITY_POINTER = 0x04, 0x06, 0x10, 0x34
COMMAND_MEMORY, COMMAND_MASTER = 1 << 1, 1 << 2
STATUS_CAPABILITIES = 1 << 4
CAP_MSI, CAP_EXPRESS = 0x05, 0x10
EXTENDED_CAPABILITIES, SIZE = 0x100, 4096


class CheckedConfig:
    """:class:`amdrv.hal.ConfigSpace` over two functions that make the access."""

    def __init__(self, read: Callable[[int, int], int], write: Callable[[int, int, int], None]) -> None:
        self._read, self._write = read, write

    def read(self, offset: int, width: int) -> int:
        self._check(offset, width)
        return self._read(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        self._check(offset, width)
        self._write(offset, width, value)

    def update(self, offset: int, width: int, *, set: int = 0, clear: int = 0) -> None:
        """Read, change bits, write back."""
        self.write(offset, width, self.read(offset, width) & ~clear | set)

    def capability(self, capability_id: int) -> int | None:
        if not self.read(STATUS, 2) & STATUS_CAPABILITIES:
            return None
        offset, seen = self.read(CAPABILITY_POINTER, 1) & ~3, set[int]()
        while offset and offset not in seen:
            seen.add(offset)
            if self.read(offset, 1) == capability_id:
                return offset
            offset = self.read(offset + 1, 1) & ~3
        return None

    def extended_capability(self, capability_id: int) -> int | None:
        offset, seen = EXTENDED_CAPABILITIES, set[int]()
        try:
            self.read(offset, 4)
        except HalError:                # conventional PCI, or a machine that reaches no more than 256 bytes of it
            return None
        while offset and offset not in seen:
            seen.add(offset)
            header = self.read(offset, 4)
            if header in (0, 0xFFFFFFFF):
                return None
            if header & 0xFFFF == capability_id:
                return offset
            offset = header >> 20 & ~3
        return None

    @staticmethod
    def _check(offset: int, width: int) -> None:
        if width not in (1, 2, 4) or offset % width or not 0 <= offset <= SIZE - width:
            raise HalError(f"config access at {offset:#x} of {width} bytes: must be 1, 2 or 4 bytes, aligned, "
                           f"below {SIZE}")
