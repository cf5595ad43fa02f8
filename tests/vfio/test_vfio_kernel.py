"""The VFIO layer on a kernel of our own making: what a guest's kernel cannot be made to say on demand."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fcntl", reason="Linux only")
if not hasattr(os, "eventfd"):
    pytest.skip("eventfd is Linux's", allow_module_level=True)

from amdrv.errors import AmdrvError, CardBusyError, HalError, MappingError, OutOfMemoryError
from amdrv.facts import vfio as abi
from amdrv.vfio import call as call_module
from amdrv.vfio.device import VfioDevice
from amdrv.vfio.interrupts import EventInterrupt, Notice
from amdrv.vfio.iommu import Iommufd, NoIommu, Type1
from amdrv.vfio.reset import Affected, affected, hot_reset

ADDRESS = "0000:03:00.0"
PAGE = mmap.PAGESIZE
BAR = 8 * PAGE
AREAS = ((PAGE, PAGE), (4 * PAGE, 2 * PAGE))        # what of BAR 2 may be mapped


class Kernel:
    """Answers ioctls as vfio-pci does. ``refuse`` holds {request: errno}; ``said`` what was set up."""

    def __init__(self, file: int) -> None:
        self.file = file
        self.refuse: dict[int, int] = {}
        self.rows: list[tuple[int, int, int, int]] = [(14, 0, 3, 0), (14, 0, 3, 1)]
        """Group or device number, segment, bus, devfn."""
        self.by_iommufd = False
        self.irqs = {abi.VFIO_PCI_INTX_IRQ_INDEX: (1, 7), abi.VFIO_PCI_MSI_IRQ_INDEX: (1, 9),
                     abi.VFIO_PCI_REQ_IRQ_INDEX: (1, 9)}
        self.said: list[tuple[int, int, int, int, tuple[int, ...]]] = []
        self.maps: dict[int, int] = {}

    def ioctl(self, fd: int, request: int, pointer: int) -> int:
        if request in self.refuse:
            ctypes.set_errno(self.refuse[request])
            return -1
        device = {abi.VFIO_DEVICE_GET_INFO: self._info, abi.VFIO_DEVICE_GET_REGION_INFO: self._region,
                  abi.VFIO_DEVICE_GET_IRQ_INFO: self._irq, abi.VFIO_DEVICE_SET_IRQS: self._set_irqs,
                  abi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: self._reset_info}
        container = {abi.VFIO_IOMMU_MAP_DMA: self._map, abi.VFIO_IOMMU_UNMAP_DMA: self._unmap}
        of = device if os.path.sameopenfile(fd, self.file) else container      # some numbers are of both
        return of.get(request, lambda _: 1)(pointer)

    def _info(self, pointer: int) -> int:
        abi.vfio_device_info.from_address(pointer).flags = abi.VFIO_DEVICE_FLAGS_PCI
        return 0

    def _region(self, pointer: int) -> int:
        """BAR 2 is sparse; of it, only :data:`AREAS` may be mapped. The answer's tail comes when there is room."""
        info = abi.vfio_region_info.from_address(pointer)
        room, head = info.argsz, ctypes.sizeof(abi.vfio_region_info)
        index = info.index
        info.size, info.offset, info.cap_offset = (BAR if index == 2 else 0), 0, 0
        info.flags = 3
        if index == 2:
            info.flags |= abi.VFIO_REGION_INFO_FLAG_MMAP | abi.VFIO_REGION_INFO_FLAG_CAPS
            rows = (abi.vfio_region_sparse_mmap_area * len(AREAS))(*AREAS)
            sparse = ctypes.sizeof(abi.vfio_region_info_cap_sparse_mmap)
            info.argsz = head + sparse + ctypes.sizeof(rows)
            if room >= info.argsz:
                info.cap_offset = head
                cap = abi.vfio_region_info_cap_sparse_mmap.from_address(pointer + head)
                cap.header.id, cap.header.version, cap.header.next = abi.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0
                cap.nr_areas = len(AREAS)
                ctypes.memmove(pointer + head + sparse, rows, ctypes.sizeof(rows))
        return 0

    def _irq(self, pointer: int) -> int:
        info = abi.vfio_irq_info.from_address(pointer)
        if info.index not in self.irqs:
            ctypes.set_errno(errno.EINVAL)
            return -1
        info.count, info.flags = self.irqs[info.index]
        return 0

    def _set_irqs(self, pointer: int) -> int:
        head = abi.vfio_irq_set.from_address(pointer)
        data = (ctypes.c_int32 * ((head.argsz - ctypes.sizeof(head)) // 4)).from_address(pointer + ctypes.sizeof(head))
        self.said.append((head.index, head.flags, head.start, head.count, tuple(data)))
        return 0

    def _reset_info(self, pointer: int) -> int:
        info = abi.vfio_pci_hot_reset_info.from_address(pointer)
        info.count = len(self.rows)
        if info.argsz < ctypes.sizeof(info) + 8 * len(self.rows):
            ctypes.set_errno(errno.ENOSPC)
            return -1
        info.flags = abi.VFIO_PCI_HOT_RESET_FLAG_DEV_ID if self.by_iommufd else 0
        rows = (abi.vfio_pci_dependent_device * len(self.rows)).from_address(pointer + ctypes.sizeof(info))
        for row, (owner, segment, bus, devfn) in zip(rows, self.rows, strict=True):
            row.group_id, row.segment, row.bus, row.devfn = owner, segment, bus, devfn
        return 0

    def _map(self, pointer: int) -> int:
        request = abi.vfio_iommu_type1_dma_map.from_address(pointer)
        self.maps[request.iova] = request.size
        return 0

    def _unmap(self, pointer: int) -> int:
        request = abi.vfio_iommu_type1_dma_unmap.from_address(pointer)
        request.size = self.maps.pop(request.iova, 0)
        return 0


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    file = os.open(tmp_path / "bar", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, BAR)
    kernel = Kernel(file)
    monkeypatch.setattr(call_module._Libc, "ioctl", kernel.ioctl)
    yield kernel
    os.close(file)


@pytest.fixture
def device(kernel: Kernel) -> Iterator[VfioDevice]:
    device = VfioDevice(os.dup(kernel.file), ADDRESS)
    yield device
    device.close()


# ---- regions

def test_only_what_may_be_mapped_is(device: VfioDevice) -> None:
    region = device.map_region(2, memory_like=True)
    assert [(start, len(area)) for start, area in region.areas] == list(AREAS)
    for offset in range(0, BAR, PAGE // 2):             # in the areas and between them: each where it belongs
        region.write32(offset, 0xA0000000 | offset)
        region.write64(offset + 8, 0xB0000000_00000000 | offset)
    for offset in range(0, BAR, PAGE // 2):
        assert region.read32(offset) == 0xA0000000 | offset
        assert region.read64(offset + 8) == 0xB0000000_00000000 | offset
        assert os.pread(device.fd, 4, offset) == (0xA0000000 | offset).to_bytes(4, "little")
    assert region.view(4 * PAGE, 2 * PAGE)[0] == 0
    with pytest.raises(HalError, match="cannot be mapped"):
        region.view(0, PAGE)
    with pytest.raises(HalError, match="not mapped as a whole"):
        region.address()
    with pytest.raises(MappingError, match="no BAR0"):
        device.map_region(0, memory_like=True)


def test_a_device_that_is_not_pci(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_info", lambda pointer: 0)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HalError, match="no PCI device"):
        VfioDevice(os.dup(kernel.file), ADDRESS)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- interrupts

def test_messages_are_masked_by_taking_the_eventfd_away(kernel: Kernel, device: VfioDevice) -> None:
    interrupt = EventInterrupt(device)
    assert interrupt.kind == "MSI"
    interrupt.mask()
    interrupt.mask()
    interrupt.unmask()
    interrupt.unmask()
    fd = interrupt.fileno()
    os.eventfd_write(fd, 3)
    assert interrupt.wait(1) == 3 and interrupt.wait(0) == 0
    interrupt.close()
    interrupt.close()
    trigger = abi.VFIO_IRQ_SET_ACTION_TRIGGER
    eventfd = abi.VFIO_IRQ_SET_DATA_EVENTFD | trigger
    msi = abi.VFIO_PCI_MSI_IRQ_INDEX
    assert kernel.said == [(msi, eventfd, 0, 1, (fd,)), (msi, eventfd, 0, 1, (-1,)), (msi, eventfd, 0, 1, (fd,)),
                           (msi, abi.VFIO_IRQ_SET_DATA_NONE | trigger, 0, 0, ())]


def test_a_level_is_unmasked_after_each_delivery(kernel: Kernel, device: VfioDevice) -> None:
    interrupt = EventInterrupt(device, "INTx")
    os.eventfd_write(interrupt.fileno(), 1)
    assert interrupt.wait(1) == 1
    interrupt.mask()
    os.eventfd_write(interrupt.fileno(), 1)             # was under way when it was masked
    assert interrupt.wait(1) == 1
    interrupt.unmask()
    actions = [flags & abi.VFIO_IRQ_SET_ACTION_TYPE_MASK for _, flags, *_ in kernel.said]
    assert actions == [abi.VFIO_IRQ_SET_ACTION_TRIGGER, abi.VFIO_IRQ_SET_ACTION_UNMASK, abi.VFIO_IRQ_SET_ACTION_MASK,
                       abi.VFIO_IRQ_SET_ACTION_UNMASK]
    interrupt.close()


def test_what_is_not_there(kernel: Kernel, device: VfioDevice) -> None:
    with pytest.raises(HalError, match="no MSI-X that VFIO can deliver"):
        EventInterrupt(device, "MSI-X")
    with pytest.raises(HalError, match="not known; use MSI, MSI-X, INTx"):
        EventInterrupt(device, "NMI")
    with pytest.raises(HalError, match="no error notice"):
        Notice(device, "error")
    notice = Notice(device, "request")
    os.eventfd_write(notice.fileno(), 1)
    assert notice.wait(1) == 1
    notice.close()
    kernel.refuse[abi.VFIO_DEVICE_SET_IRQS] = errno.EBUSY
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HalError, match=r"setting up interrupt 1 of 0000:03:00\.0"):
        EventInterrupt(device)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- resets

def test_who_is_reset_together(kernel: Kernel, device: VfioDevice) -> None:
    assert affected(device) == [Affected(ADDRESS, 14, None), Affected("0000:03:00.1", 14, None)]
    kernel.by_iommufd, kernel.rows = True, [(0, 0, 3, 0), (0xFFFFFFFF, 0x12, 0xA0, 0xFF)]
    assert affected(device) == [Affected(ADDRESS, None, True), Affected("0012:a0:1f.7", None, False)]
    assert hot_reset(device, []) == affected(device)
    kernel.refuse[abi.VFIO_DEVICE_PCI_HOT_RESET] = errno.EINVAL
    with pytest.raises(HalError, match=r"reaches 0012:a0:1f\.7 too.*amdrv-info bind 0000:03:00\.0"):
        hot_reset(device, [])
    kernel.refuse[abi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO] = errno.ENODEV
    with pytest.raises(HalError, match=r"functions that are reset with 0000:03:00\.0"):
        affected(device)
    kernel.refuse[abi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO] = errno.EPERM
    with pytest.raises(HalError, match=r"belongs to nobody that VFIO knows.*amdrv-info bind"):
        affected(device)
    with pytest.raises(HalError, match="no function-level reset"):
        device.reset()


# ---- address spaces

@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """/dev and the sysfs directory of a card of two functions in group 14."""
    (tmp_path / "dev/vfio").mkdir(parents=True)
    for name in ("vfio/vfio", "vfio/14", "iommu"):
        (tmp_path / "dev" / name).write_text("")
    group = tmp_path / "groups/14"
    (group / "devices").mkdir(parents=True)
    for number, name in enumerate(("vfio-pci", "snd_hda_intel")):
        function = tmp_path / f"0000:03:00.{number}"
        function.mkdir()
        (tmp_path / "drivers" / name).mkdir(parents=True)
        (function / "driver").symlink_to(tmp_path / "drivers" / name)
        (group / "devices" / function.name).symlink_to(function)
    (tmp_path / ADDRESS / "iommu_group").symlink_to(group)
    return tmp_path / "dev"


REFUSALS: list[tuple[int, type[AmdrvError], str]] = [
    (errno.ENOMEM, OutOfMemoryError, r"0x2000 bytes are mapped here already.*RLIMIT_MEMLOCK.*ulimit -l unlimited"),
    (errno.ENOSPC, OutOfMemoryError, "dma_entry_limit"), (errno.EFAULT, MappingError, "Bad address")]


@pytest.mark.parametrize(("number", "kind", "message"), REFUSALS)
def test_refused_maps_say_why_and_leave_nothing(kernel: Kernel, dev: Path, number: int, kind: type[AmdrvError],
                                                message: str) -> None:
    iommu = Type1(dev=dev)
    memory = np.zeros(4 * PAGE, np.uint8)
    address = int(memory.ctypes.data) // PAGE * PAGE
    first = iommu.map(address, 2 * PAGE)
    assert kernel.maps == {first: 2 * PAGE} and iommu.mapped_bytes == 2 * PAGE
    kernel.refuse[abi.VFIO_IOMMU_MAP_DMA] = number
    with pytest.raises(kind, match=message):
        iommu.map(address, PAGE)
    del kernel.refuse[abi.VFIO_IOMMU_MAP_DMA]
    assert iommu.mapped_bytes == 2 * PAGE
    second = iommu.map(address, PAGE)
    iommu.unmap(first), iommu.unmap(second)
    assert not kernel.maps and iommu.mapped_bytes == 0
    with pytest.raises(MappingError, match="is not mapped"):
        iommu.unmap(first)
    iommu.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 600)), max_size=40))
def test_what_is_counted_is_what_is_mapped(steps: list[tuple[bool, int]]) -> None:
    kernel = Kernel(-1)

    class Counted(Type1):
        def __init__(self) -> None:
            super(Type1, self).__init__(44)

        def ranges(self) -> list[tuple[int, int]]:
            return [(0, 0xFEDFFFFF), (0xFEF00000, (1 << 39) - 1)]

        def _map(self, address: int, iova: int, size: int) -> None:
            kernel.maps[iova] = size

        def _unmap(self, iova: int, size: int) -> None:
            assert kernel.maps.pop(iova) == size

    iommu = Counted()
    for take, pages in steps:
        if take or not kernel.maps:
            iommu.map(0x10000, pages * PAGE)
        else:
            iommu.unmap(sorted(kernel.maps)[pages % len(kernel.maps)])
        assert iommu.mapped_bytes == sum(kernel.maps.values())


def test_a_group_that_is_not_viable_names_its_members(kernel: Kernel, dev: Path, tmp_path: Path) -> None:
    iommu = Type1(dev=dev)
    with pytest.raises(HalError, match=r"14 is not viable.*0000:03:00\.1 \(snd_hda_intel\).*audio"):
        iommu.open_device(tmp_path / ADDRESS)
    iommu.close()


@pytest.mark.parametrize(("number", "sibling", "kind", "message"), [
    (errno.EPERM, "snd_hda_intel", HalError, r"not viable.*0000:03:00\.1 \(snd_hda_intel\)"),
    (errno.EBUSY, "vfio-pci", CardBusyError, "another process"),
    (errno.EINVAL, "vfio-pci", CardBusyError, "looks at a BAR"), (errno.EPERM, "vfio-pci", HalError, "to iommufd")])
def test_iommufd_that_cannot_own_the_card(kernel: Kernel, dev: Path, tmp_path: Path, number: int, sibling: str,
                                          kind: type[HalError], message: str) -> None:
    (tmp_path / "0000:03:00.1/driver").unlink()
    (tmp_path / "0000:03:00.1/driver").symlink_to(tmp_path / "drivers" / sibling)
    (tmp_path / ADDRESS / "vfio-dev/vfio3").mkdir(parents=True)
    (dev / "vfio/devices").mkdir()
    (dev / "vfio/devices/vfio3").write_text("")
    kernel.refuse[abi.VFIO_DEVICE_BIND_IOMMUFD] = number
    iommu = Iommufd(dev=dev)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind, match=message):
        iommu.open_device(tmp_path / ADDRESS)
    assert len(os.listdir("/proc/self/fd")) == before
    iommu.close()


def test_no_iommu_says_what_is_off(dev: Path, tmp_path: Path) -> None:
    parameter = tmp_path / "enable_unsafe_noiommu_mode"
    with pytest.raises(HalError, match="CONFIG_VFIO_NOIOMMU"):
        NoIommu(dev=dev, parameter=parameter)
    parameter.write_text("N\n")
    with pytest.raises(HalError, match=f"echo 1 > {parameter}"):
        NoIommu(dev=dev, parameter=parameter)


OPENERS: list[Callable[..., object]] = [Type1, Iommufd]


@pytest.mark.parametrize("kind", OPENERS)
def test_no_permission_is_said_as_such(dev: Path, kind: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("amdrv.vfio.iommu.os.open", refuse)
    with pytest.raises(HalError, match=r"no permission to open .*chown \$USER"):
        kind(dev=dev)
