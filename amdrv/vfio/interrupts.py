"""Interrupts of a VFIO device, and the kernel's own notices about it, each on an eventfd that ``select`` takes.

Linux 6.12, drivers/vfio/pci/vfio_pci_intrs.c: INTx can be masked, and is at each delivery; single MSI and MSI-X vectors
cannot be (VFIO_IRQ_INFO_MASKABLE is not set), but a vector may be taken from its eventfd and given back.
"""

from __future__ import annotations

import os
import select

from amdrv.errors import HalError
from amdrv.facts import vfio as abi
from amdrv.vfio.device import VfioDevice

__all__ = ["EventInterrupt", "KINDS", "Notice"]

KINDS = {"MSI": abi.VFIO_PCI_MSI_IRQ_INDEX, "MSI-X": abi.VFIO_PCI_MSIX_IRQ_INDEX, "INTx": abi.VFIO_PCI_INTX_IRQ_INDEX}
"""In the order in which one is chosen."""
NOTICES = {"request": abi.VFIO_PCI_REQ_IRQ_INDEX, "error": abi.VFIO_PCI_ERR_IRQ_INDEX}


class _Eventfd:
    """One vector of one kind, delivered to an eventfd of ours."""

    def __init__(self, device: VfioDevice, index: int, vector: int = 0) -> None:
        self._device, self.index, self.vector = device, index, vector
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            device.set_interrupts(index, [self._fd], start=vector)
        except HalError:
            os.close(self._fd)
            self._fd = -1
            raise

    def fileno(self) -> int:
        return self._fd

    def wait(self, timeout: float | None = None) -> int:
        """Sleep until one comes; how many came since the last call, 0 on timeout."""
        if not select.select([self._fd], [], [], timeout)[0]:
            return 0
        try:
            return os.eventfd_read(self._fd)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Switch the whole kind off. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                self._device.set_interrupts(self.index, [])
            finally:
                os.close(fd)


class EventInterrupt(_Eventfd):
    """:class:`amdrv.hal.Interrupt`.

    :param kind: MSI, MSI-X or INTx; None takes the first of these that the device has.
    """

    def __init__(self, device: VfioDevice, kind: str | None = None) -> None:
        if kind is not None and kind not in KINDS:
            raise HalError(f"interrupt kind {kind!r} is not known; use {', '.join(KINDS)}")
        kinds = [each for each in ([kind] if kind else KINDS) if device.interrupt_info(KINDS[each]).count]
        if not kinds:
            raise HalError(f"{device.name} has no {kind or 'interrupt'} that VFIO can deliver")
        self.kind, self.masked = kinds[0], False
        self._info = device.interrupt_info(KINDS[self.kind])
        super().__init__(device, KINDS[self.kind])

    def wait(self, timeout: float | None = None) -> int:
        count = super().wait(timeout)
        if count and self._info.automasked and not self.masked:
            self._device.mask(self.index, False)
        return count

    def renew(self) -> None:
        """Off and on again, after a reset that the kernel did not see: it writes the card's MSI registers anew."""
        self._device.set_interrupts(self.index, [])
        self._device.set_interrupts(self.index, [self._fd])
        self.masked = False

    def mask(self) -> None:
        """Deliver nothing until :meth:`unmask`. INTx stays pending in the card and comes then; an MSI or MSI-X message
        sent meanwhile is lost, so look at the card's own state (the IH ring's write pointer) after unmasking."""
        if self._info.maskable:
            self._device.mask(self.index, True)
        elif not self.masked:
            self._device.set_interrupts(self.index, [-1], start=self.vector)
        self.masked = True

    def unmask(self) -> None:
        if not self.masked:
            return
        self.masked = False
        if self._info.maskable:
            self._device.mask(self.index, False)
        else:
            self._device.set_interrupts(self.index, [self._fd], start=self.vector)


class Notice(_Eventfd):
    """What the kernel has to say about the device.

    ``request``: somebody wants it back (its driver is being unbound, it is being unplugged) and waits until its
    descriptor is closed. ``error``: the PCI Express link reported an error that hardware could not correct.

    :raises HalError: this kernel or device gives no such notice.
    """

    def __init__(self, device: VfioDevice, kind: str) -> None:
        if not device.interrupt_info(NOTICES[kind]).count:
            raise HalError(f"the kernel gives no {kind} notice for {device.name}")
        self.kind = kind
        super().__init__(device, NOTICES[kind])
