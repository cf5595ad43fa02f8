"""Resets that take more than one function: the slot or bus that a device is on, by VFIO's hot reset.

A graphics card has no function-level reset of its own in most generations, and its audio function shares the bus, so
the kernel resets them together, and only for whoever owns them all: with the group's descriptor (type 1, no-IOMMU), or,
for a device that was opened by iommufd, by what is bound to the same iommufd.

Source: Linux 6.12, include/uapi/linux/vfio.h, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and VFIO_DEVICE_PCI_HOT_RESET.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from dataclasses import dataclass

from amdrv.errors import HalError
from amdrv.facts import vfio as abi
from amdrv.vfio.call import call
from amdrv.vfio.device import VfioDevice

__all__ = ["Affected", "affected", "hot_reset"]

NOT_OWNED = 0xFFFFFFFF      # VFIO_PCI_DEVID_NOT_OWNED, -1


@dataclass(frozen=True)
class Affected:
    """A function that a hot reset reaches; ``group`` for devices of groups, ``owned`` for those of iommufd."""

    address: str
    group: int | None
    owned: bool | None


def affected(device: VfioDevice) -> list[Affected]:
    """Every function that is reset together with this one, itself included.

    :raises HalError: the kernel knows no slot or bus to reset.
    """
    info = abi.vfio_pci_hot_reset_info(argsz=ctypes.sizeof(abi.vfio_pci_hot_reset_info))
    if _asked(device, info):
        return []
    head, row = ctypes.sizeof(info), ctypes.sizeof(abi.vfio_pci_dependent_device)
    answer = (ctypes.c_uint8 * (head + row * info.count))()
    request = abi.vfio_pci_hot_reset_info(argsz=len(answer))
    ctypes.memmove(answer, ctypes.addressof(request), head)
    if not _asked(device, answer):
        raise HalError(f"what is reset with {device.name} changes while it is asked for; try again")
    full = abi.vfio_pci_hot_reset_info.from_buffer_copy(answer)
    rows = (abi.vfio_pci_dependent_device * full.count).from_buffer_copy(answer, head)
    by_iommufd = bool(full.flags & abi.VFIO_PCI_HOT_RESET_FLAG_DEV_ID)
    return [Affected(f"{r.segment:04x}:{r.bus:02x}:{r.devfn >> 3:02x}.{r.devfn & 7}",
                     None if by_iommufd else r.group_id, r.devid != NOT_OWNED if by_iommufd else None) for r in rows]


def _asked(device: VfioDevice, request: ctypes.Structure | ctypes.Array) -> bool:
    """False: the answer needs more room, and says how much."""
    try:
        call(device.fd, abi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, request,
             f"the functions that are reset with {device.name}")
        return True
    except HalError as error:
        number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
        if number == errno.ENOSPC:
            return False
        if number == errno.EPERM:       # without an IOMMU a function has a group only while vfio-pci has it
            raise HalError(f"{error}; a function beside it belongs to nobody that VFIO knows: bind the whole card, "
                           f"amdrv-info bind {device.name}") from error.__cause__
        raise


def hot_reset(device: VfioDevice, groups: Sequence[int]) -> list[Affected]:
    """Reset the device's slot or bus; returns what was reset.

    :param groups: descriptors of every group concerned; none for a device that was opened by iommufd.
    :raises HalError: naming the functions that somebody else would lose.
    """
    functions = affected(device)
    size = ctypes.sizeof(abi.vfio_pci_hot_reset)
    request = (ctypes.c_uint8 * (size + 4 * len(groups)))()
    head = abi.vfio_pci_hot_reset(argsz=len(request), count=len(groups))
    ctypes.memmove(request, ctypes.addressof(head), size)
    ctypes.memmove(ctypes.addressof(request) + size, (ctypes.c_int32 * len(groups))(*groups), 4 * len(groups))
    try:
        call(device.fd, abi.VFIO_DEVICE_PCI_HOT_RESET, request, f"hot reset of {device.name}")
    except HalError as error:
        others = ", ".join(f.address for f in functions if f.address != device.name and not f.owned)
        raise HalError(f"{error}; the reset reaches {others or 'no other function'} too, and all of it must be bound "
                       f"to vfio-pci and owned here: amdrv-info bind {device.name}") from error.__cause__
    return functions
