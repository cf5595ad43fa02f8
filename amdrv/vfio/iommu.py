"""Three ways to a device descriptor and to addresses that the device may use, behind one table of operations.

- :class:`Type1`: group and container with a translating IOMMU; every Debian kernel has it.
- :class:`Iommufd`: the character device of each VFIO device and an I/O address space (Linux 6.6 and newer).
- :class:`NoIommu`: no translation and no protection; device addresses are physical. Memory must be pinned by the
  caller, and ``map`` only tells where it is.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from amdrv.errors import AmdrvError, CardBusyError, HalError, MappingError, OutOfMemoryError
from amdrv.facts import vfio as abi
from amdrv.vfio.call import call, call_with_info, capabilities
from amdrv.vfio.iova import IovaAllocator

__all__ = ["Iommu", "Iommufd", "NoIommu", "Type1", "group_of"]

DEV = Path("/dev")
BOUND_DRIVER = "vfio-pci"
VIABLE = (None, BOUND_DRIVER, "pci-stub", "pcieport")       # Linux vfio.rst: bridges stay with their driver
UNSAFE_NOIOMMU = Path("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode")


class Iommu(Protocol):
    """What the HAL needs of any of the three."""

    kind: str
    translates: bool

    def open_device(self, path: Path) -> int:
        """The device descriptor of the PCI function with this sysfs directory."""
    def map(self, address: int, size: int) -> int:
        """Let the device reach this process's memory (or mapped BAR); the I/O address. Both page-aligned."""
    def unmap(self, iova: int) -> None: ...
    def unmap_all(self) -> None:
        """Take everything away from the device, whoever mapped it."""
    def reset_groups(self) -> list[int]:
        """What :func:`amdrv.vfio.reset.hot_reset` wants to see as proof of ownership."""
    def handed(self) -> tuple[list[int], int]:
        """(descriptors, a number) with which another process can :meth:`adopt` this."""
    def close(self) -> None: ...


def group_of(path: Path) -> str:
    """The IOMMU group's number. :raises HalError: where the function has none."""
    link = path / "iommu_group"
    if not link.exists():
        raise HalError(f"{path.name} is in no IOMMU group: switch the IOMMU on (intel_iommu=on or amd_iommu=on on the "
                       "kernel's command line, VT-d/AMD-Vi in the firmware), or use AMDRV_HAL=sysfs")
    return link.resolve().name


def group_members(path: Path) -> list[tuple[str, str | None]]:
    """(address, driver) of every function of the group, this one included."""
    return [(m.name, (m / "driver").resolve().name if (m / "driver").exists() else None)
            for m in sorted((path / "iommu_group" / "devices").iterdir())]


def _not_viable(path: Path) -> HalError:
    members = ", ".join(f"{name} ({driver or 'no driver'})" for name, driver in group_members(path))
    return HalError(f"IOMMU group {group_of(path)} is not viable: every function in it must be bound to {BOUND_DRIVER} "
                    f"or to no driver; it has {members}. A graphics card's own audio function is the usual one: "
                    "amdrv-info bind takes the whole card")


def _open(path: Path, address: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise HalError(f"{path} is not there: bind {address} to {BOUND_DRIVER} (amdrv-info bind {address}) and load "
                       "the vfio modules") from error
    except PermissionError as error:
        raise HalError(f"no permission to open {path}: run as root, or give the file to your user "
                       f"(chown $USER {path})") from error
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise CardBusyError(f"{path} ({address}) is held by another process") from error
        raise HalError(f"cannot open {path}: {error.strerror}") from error


def _locked_limit() -> str:
    import resource
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return "no limit" if limit == resource.RLIM_INFINITY else f"{limit:#x} bytes"


def _refused_map(address: int, size: int, mapped: int, error: HalError) -> AmdrvError:
    cause = error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    if number == errno.ENOMEM:
        return OutOfMemoryError(f"the kernel will not pin {size:#x} more bytes for DMA: {mapped:#x} bytes are mapped "
                                f"here already, and this process may lock {_locked_limit()} (RLIMIT_MEMLOCK). Raise "
                                "the limit: ulimit -l unlimited")
    if number == errno.ENOSPC:
        return OutOfMemoryError("the container has no room for another mapping (65535 by default: "
                                "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit)")
    return MappingError(f"DMA map of {size:#x} bytes at {address:#x}: {error}")


class _Mapped:
    """The bookkeeping that both translating kinds share."""

    def __init__(self, iova_bits: int) -> None:
        self._iova_bits = iova_bits
        self._iova: IovaAllocator | None = None
        self.mapped_bytes = 0
        """What the kernel has pinned for us, and counts against the limit of locked memory."""

    def _allocator(self) -> IovaAllocator:
        if self._iova is None:
            self._iova = IovaAllocator(self.ranges(), limit=1 << self._iova_bits)
        return self._iova

    def ranges(self) -> list[tuple[int, int]]:
        raise NotImplementedError

    def _map(self, address: int, iova: int, size: int) -> None:
        raise NotImplementedError

    def _unmap(self, iova: int, size: int) -> None:
        raise NotImplementedError

    def map(self, address: int, size: int) -> int:
        allocator = self._allocator()
        iova = allocator.allocate(size)
        try:
            self._map(address, iova, size)
        except HalError as error:
            allocator.free(iova)
            raise _refused_map(address, size, self.mapped_bytes, error) from error
        self.mapped_bytes += size
        return iova

    def unmap(self, iova: int) -> None:
        allocator = self._allocator()
        size = allocator.used.get(iova)
        if size is None:
            raise MappingError(f"IOVA {iova:#x} is not mapped")
        self._unmap(iova, size)
        allocator.free(iova)
        self.mapped_bytes -= size


class _Group:
    """A VFIO container with one group in it."""

    def __init__(self, iommu_type: int, prefix: str, dev: Path) -> None:
        self._type, self._prefix, self._dev = iommu_type, prefix, dev
        self._container = _open(dev / "vfio" / "vfio", "the VFIO container")
        self._group: int | None = None

    def open_device(self, path: Path) -> int:
        number = group_of(path)
        self._group = _open(self._dev / "vfio" / f"{self._prefix}{number}", path.name)
        status = abi.vfio_group_status(argsz=ctypes.sizeof(abi.vfio_group_status))
        call(self._group, abi.VFIO_GROUP_GET_STATUS, status, f"status of IOMMU group {number}")
        if not status.flags & abi.VFIO_GROUP_FLAGS_VIABLE:
            raise _not_viable(path)
        container = (ctypes.c_int * 1)(self._container)
        call(self._group, abi.VFIO_GROUP_SET_CONTAINER, container, f"adding group {number} to the container")
        call(self._container, abi.VFIO_SET_IOMMU, self._type, f"setting up the IOMMU for group {number}")
        name = ctypes.create_string_buffer(path.name.encode())
        return call(self._group, abi.VFIO_GROUP_GET_DEVICE_FD, name, f"opening {path.name} through VFIO")

    def descriptors(self) -> list[int]:
        return [] if self._group is None else [self._group]

    @classmethod
    def adopt(cls, iommu_type: int, descriptors: Sequence[int]) -> _Group:
        """A container and group that another process opened."""
        group = cls.__new__(cls)
        group._type, group._prefix, group._dev = iommu_type, "", DEV
        group._container, group._group = descriptors
        return group

    def handed(self) -> tuple[list[int], int]:
        return [self._container, *self.descriptors()], 0

    def supports(self, extension: int) -> bool:
        return call(self._container, abi.VFIO_CHECK_EXTENSION, extension, "VFIO extension check") > 0

    def close(self) -> None:
        for fd in (self._group, self._container):
            if fd is not None:
                os.close(fd)
        self._group = None


class Type1(_Mapped):
    """Group and container with a translating IOMMU."""

    kind, translates = "vfio type 1", True

    def __init__(self, *, iova_bits: int = 44, dev: Path = DEV) -> None:
        super().__init__(iova_bits)
        self._held = _Group(abi.VFIO_TYPE1v2_IOMMU, "", dev)
        if not self._held.supports(abi.VFIO_TYPE1v2_IOMMU):
            self._held.close()
            raise HalError("this kernel's VFIO has no type 1 IOMMU: load vfio_iommu_type1, and switch the IOMMU on")

    @classmethod
    def adopt(cls, descriptors: Sequence[int], number: int, iova_bits: int = 44) -> Type1:
        iommu = cls.__new__(cls)
        _Mapped.__init__(iommu, iova_bits)
        iommu._held = _Group.adopt(abi.VFIO_TYPE1v2_IOMMU, descriptors)
        return iommu

    def handed(self) -> tuple[list[int], int]:
        return self._held.handed()

    def unmap_all(self) -> None:
        request = abi.vfio_iommu_type1_dma_unmap(argsz=ctypes.sizeof(abi.vfio_iommu_type1_dma_unmap),
                                                 flags=abi.VFIO_DMA_UNMAP_FLAG_ALL)
        call(self._held._container, abi.VFIO_IOMMU_UNMAP_DMA, request, "unmapping everything")

    def open_device(self, path: Path) -> int:
        return self._held.open_device(path)

    def ranges(self) -> list[tuple[int, int]]:
        """The (first, last) I/O addresses that may be mapped; holes are the platform's (MSI windows and the like)."""
        info, answer = call_with_info(self._held._container, abi.VFIO_IOMMU_GET_INFO, abi.vfio_iommu_type1_info(),
                                      "IOMMU information")
        chain = capabilities(answer, info.cap_offset) if info.flags & abi.VFIO_IOMMU_INFO_CAPS else {}
        at = chain.get(abi.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
        if at is None:
            return [(0, (1 << 39) - 1)]     # kernels before 5.4 do not say; every IOMMU translates 39 bits
        head = abi.vfio_iommu_type1_info_cap_iova_range.from_buffer_copy(answer, at)
        rows = (abi.vfio_iova_range * head.nr_iovas).from_buffer_copy(answer, at + ctypes.sizeof(head))
        return [(row.start, row.end) for row in rows]

    def _map(self, address: int, iova: int, size: int) -> None:
        request = abi.vfio_iommu_type1_dma_map(argsz=ctypes.sizeof(abi.vfio_iommu_type1_dma_map), vaddr=address,
                                               iova=iova, size=size,
                                               flags=abi.VFIO_DMA_MAP_FLAG_READ | abi.VFIO_DMA_MAP_FLAG_WRITE)
        call(self._held._container, abi.VFIO_IOMMU_MAP_DMA, request, f"mapping {size:#x} bytes at IOVA {iova:#x}")

    def _unmap(self, iova: int, size: int) -> None:
        request = abi.vfio_iommu_type1_dma_unmap(argsz=ctypes.sizeof(abi.vfio_iommu_type1_dma_unmap), iova=iova,
                                                 size=size)
        call(self._held._container, abi.VFIO_IOMMU_UNMAP_DMA, request, f"unmapping IOVA {iova:#x}")
        if request.size != size:
            raise MappingError(f"unmapping {size:#x} bytes at IOVA {iova:#x} freed {request.size:#x}")

    def reset_groups(self) -> list[int]:
        return self._held.descriptors()

    def close(self) -> None:
        self._held.close()


class NoIommu:
    """No translation: device addresses are physical, and the device can reach everything."""

    kind, translates = "vfio no-IOMMU", False

    def __init__(self, *, dev: Path = DEV, parameter: Path = UNSAFE_NOIOMMU) -> None:
        if not parameter.exists():
            raise HalError("this kernel's VFIO has no no-IOMMU mode (CONFIG_VFIO_NOIOMMU); no Debian kernel has it: "
                           "use AMDRV_HAL=sysfs, or switch an IOMMU on")
        if parameter.read_text().strip() not in ("Y", "1"):
            raise HalError(f"no-IOMMU mode is off: echo 1 > {parameter}    # then bind the card to {BOUND_DRIVER} "
                           "again; nothing protects memory from a device that is used so")
        self._held = _Group(abi.VFIO_NOIOMMU_IOMMU, "noiommu-", dev)

    @classmethod
    def adopt(cls, descriptors: Sequence[int], number: int, iova_bits: int = 44) -> NoIommu:
        iommu = cls.__new__(cls)
        iommu._held = _Group.adopt(abi.VFIO_NOIOMMU_IOMMU, descriptors)
        return iommu

    def handed(self) -> tuple[list[int], int]:
        return self._held.handed()

    def unmap_all(self) -> None:
        """Nothing is mapped."""

    def open_device(self, path: Path) -> int:
        return self._held.open_device(path)

    def map(self, address: int, size: int) -> int:
        raise MappingError("without an IOMMU nothing is mapped: device addresses are physical addresses")

    def unmap(self, iova: int) -> None:
        raise MappingError(f"IOVA {iova:#x} is not mapped")

    def reset_groups(self) -> list[int]:
        return self._held.descriptors()

    def close(self) -> None:
        self._held.close()


class Iommufd(_Mapped):
    """The device's own character device, and an I/O address space of /dev/iommu."""

    kind, translates = "iommufd", True

    def __init__(self, *, iova_bits: int = 44, dev: Path = DEV) -> None:
        super().__init__(iova_bits)
        self._dev, self._fd = dev, _open(dev / "iommu", "iommufd")
        request = abi.iommu_ioas_alloc(size=ctypes.sizeof(abi.iommu_ioas_alloc))
        try:
            call(self._fd, abi.IOMMU_IOAS_ALLOC, request, "allocating an I/O address space")
        except HalError:
            os.close(self._fd)
            raise
        self._ioas = request.out_ioas_id

    @classmethod
    def adopt(cls, descriptors: Sequence[int], number: int, iova_bits: int = 44) -> Iommufd:
        iommu = cls.__new__(cls)
        _Mapped.__init__(iommu, iova_bits)
        iommu._dev, (iommu._fd,), iommu._ioas = DEV, descriptors, number
        return iommu

    def handed(self) -> tuple[list[int], int]:
        return [self._fd], self._ioas

    def unmap_all(self) -> None:
        request = abi.iommu_ioas_unmap(size=ctypes.sizeof(abi.iommu_ioas_unmap), ioas_id=self._ioas,
                                       length=(1 << 64) - 1)        # Linux iommufd.h: with address 0, all of it
        try:
            call(self._fd, abi.IOMMU_IOAS_UNMAP, request, "unmapping everything")
        except HalError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.ENOENT:
                raise                   # ENOENT: nothing was mapped

    def open_device(self, path: Path) -> int:
        nodes = sorted((path / "vfio-dev").glob("vfio*")) if (path / "vfio-dev").is_dir() else []
        if not nodes:
            raise HalError(f"{path.name} has no VFIO character device: the kernel needs CONFIG_VFIO_DEVICE_CDEV "
                           f"(Linux 6.6), and the function must be bound to {BOUND_DRIVER}")
        device = _open(self._dev / "vfio" / "devices" / nodes[0].name, path.name)
        try:
            bind = abi.vfio_device_bind_iommufd(argsz=ctypes.sizeof(abi.vfio_device_bind_iommufd), iommufd=self._fd)
            call(device, abi.VFIO_DEVICE_BIND_IOMMUFD, bind, f"binding {path.name} to iommufd")
            attach = abi.vfio_device_attach_iommufd_pt(argsz=ctypes.sizeof(abi.vfio_device_attach_iommufd_pt),
                                                       pt_id=self._ioas)
            call(device, abi.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach, f"attaching {path.name} to its address space")
        except HalError as error:
            os.close(device)
            number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
            if number in (errno.EPERM, errno.EBUSY) and any(driver not in VIABLE for _, driver in group_members(path)):
                raise _not_viable(path) from error
            if number in (errno.EBUSY, errno.EINVAL):       # EINVAL: Linux 6.12, vfio_df_open, one that is open already
                raise CardBusyError(f"{path.name} is held by another process, or by this one: something still looks at "
                                    "a BAR of an earlier opening") from error
            raise
        return device

    def ranges(self) -> list[tuple[int, int]]:
        count = 64
        rows = (abi.iommu_iova_range * count)()
        request = abi.iommu_ioas_iova_ranges(size=ctypes.sizeof(abi.iommu_ioas_iova_ranges), ioas_id=self._ioas,
                                             num_iovas=count, allowed_iovas=ctypes.addressof(rows))
        call(self._fd, abi.IOMMU_IOAS_IOVA_RANGES, request, "I/O address ranges")
        return [(rows[i].start, rows[i].last) for i in range(request.num_iovas)]

    def _map(self, address: int, iova: int, size: int) -> None:
        request = abi.iommu_ioas_map(size=ctypes.sizeof(abi.iommu_ioas_map), ioas_id=self._ioas, user_va=address,
                                     length=size, iova=iova,
                                     flags=abi.IOMMU_IOAS_MAP_FIXED_IOVA | abi.IOMMU_IOAS_MAP_WRITEABLE
                                     | abi.IOMMU_IOAS_MAP_READABLE)
        call(self._fd, abi.IOMMU_IOAS_MAP, request, f"mapping {size:#x} bytes at IOVA {iova:#x}")

    def _unmap(self, iova: int, size: int) -> None:
        request = abi.iommu_ioas_unmap(size=ctypes.sizeof(abi.iommu_ioas_unmap), ioas_id=self._ioas, iova=iova,
                                       length=size)
        call(self._fd, abi.IOMMU_IOAS_UNMAP, request, f"unmapping IOVA {iova:#x}")

    def reset_groups(self) -> list[int]:
        return []

    def close(self) -> None:
        os.close(self._fd)
