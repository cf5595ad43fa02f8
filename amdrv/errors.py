"""Every error that the driver raises: one tree, rooted at :class:`AmdrvError`.

A message says what was tried, what was seen, and what to do next. ``hcq`` and the compiler
have roots of their own (they stand above the driver and never import it); errors of the
driver pass through them unchanged.
"""

from __future__ import annotations

__all__ = [
    "AmdrvError", "HalError", "NoCardError", "CardBusyError", "CardLostError", "MappingError",
    "DiscoveryError", "UnknownIpError", "FirmwareError", "RegisterError", "PacketError",
    "BootError", "WaitTimeout", "OutOfMemoryError", "PageTableError", "GpuFault", "GpuHang", "PowerError",
]


class AmdrvError(Exception):
    """Root of the driver's errors."""


class HalError(AmdrvError):
    """The machine below refused something: a file, a mapping, a setting."""


class NoCardError(HalError):
    """No card that this HAL may open. The message names ``AMDRV_HAL=mock``."""


class CardBusyError(HalError):
    """The card is held by another process (or twice by this one)."""


class CardLostError(HalError):
    """The card no longer answers: registers read as all ones."""


class MappingError(HalError):
    """A BAR or DMA mapping cannot be had as asked."""


class DiscoveryError(AmdrvError):
    """The IP discovery table is damaged or not there."""


class UnknownIpError(DiscoveryError):
    """The table is sound, but names an IP version that this driver does not know."""


class FirmwareError(AmdrvError):
    """A firmware image is missing, damaged, of the wrong kind, or was refused by the PSP."""


class RegisterError(AmdrvError):
    """No such register or field, or a value that does not fit its field."""


class PacketError(AmdrvError):
    """A PM4 or SDMA packet that cannot be built, or words that are none."""


class BootError(AmdrvError):
    """A boot stage failed. The message names the stage."""


class WaitTimeout(AmdrvError, TimeoutError):
    """A bounded wait expired; ``what`` was waited for and ``seen`` is the last state."""

    def __init__(self, what: str, timeout: float, seen: object) -> None:
        self.what, self.timeout, self.seen = what, timeout, seen
        state = f"{seen:#x}" if isinstance(seen, int) and not isinstance(seen, bool) else str(seen)
        super().__init__(f"{what}: not within {timeout:g} s; last seen: {state}")


class OutOfMemoryError(AmdrvError, MemoryError):
    """VRAM, host DMA memory or address space exhausted."""


class PageTableError(AmdrvError):
    """A mapping request that page tables cannot express: overlap, misalignment, out of range."""


class GpuFault(AmdrvError):
    """The GPU reported a fault: page fault, bad packet, illegal instruction, memory violation."""


class GpuHang(AmdrvError):
    """An engine stopped making progress. The message names the queue and the packet.

    :ivar partly: a submission was on its way to the queue, and some of it is there.
    """

    partly = False


class PowerError(AmdrvError):
    """A clock or power limit that the card does not have, or that its SMU refuses."""
