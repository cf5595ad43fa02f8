"""The kernel's driver from below: topology, errors and what they say, memory, queues, events, faults."""

from __future__ import annotations

import ctypes
import errno
import gc
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_cards import kernel_with
from two_cards import compiled

import hcq
from amdrv.errors import (
    CardBusyError,
    GpuFault,
    GpuHang,
    HalError,
    MappingError,
    NoCardError,
    OutOfMemoryError,
    PacketError,
)
from amdrv.facts import kfd
from amdrv.kfd.backend import open_backend
from amdrv.kfd.device import KfdDevice
from amdrv.kfd.memory import Memory
from amdrv.kfd.process import Process, connect
from amdrv.kfd.queues import SaveArea
from amdrv.kfd.simulated import SimulatedKernel
from amdrv.kfd.simulated.events import Events
from amdrv.kfd.topology import TOPOLOGY, read_topology


@pytest.fixture(scope="module")
def kernel() -> Iterator[SimulatedKernel]:
    with kernel_with(2) as made:
        yield made


@pytest.fixture(scope="module")
def spare() -> Iterator[SimulatedKernel]:
    with kernel_with() as made:
        yield made


def anew(kernel: SimulatedKernel) -> None:
    """As for a process that just began: nobody's address spaces, no events."""
    kernel.events = Events()
    for gpu in kernel.gpus:
        gpu.vm = None


@pytest.fixture
def device(kernel: SimulatedKernel) -> Iterator[KfdDevice]:
    with KfdDevice.open(0, connect(kernel)) as opened:
        yield opened


@pytest.fixture
def memory(device: KfdDevice) -> Memory:
    return device.require_memory()


class Changed:
    """A kernel with some files other than they are, and some calls that fail."""

    def __init__(self, kernel: SimulatedKernel, files: dict[str, str | None] | None = None,
                 fails: dict[str, int] | None = None) -> None:
        self._kernel, self._files, self._fails = kernel, files or {}, fails or {}
        self.calls: list[tuple[str, int, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def text(self, path: str) -> str:
        found = self._files.get(path, "")
        if found is None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        return found or self._kernel.text(path)

    def names(self, folder: str) -> list[str]:
        if self._fails.get(folder):
            raise OSError(self._fails[folder], os.strerror(self._fails[folder]), folder)
        return self._kernel.names(folder)

    def open(self, path: str) -> int:
        if path in self._fails:
            raise OSError(self._fails[path], os.strerror(self._fails[path]), path)
        return self._kernel.open(path)

    def ioctl(self, fd: int, request: int, argument: ctypes.Structure) -> None:
        name = next((name for name, value in vars(kfd).items() if value == request and "_IOC" in name), "?")
        if number := self._fails.get(name.removeprefix("AMDKFD_IOC_")):
            raise OSError(number, os.strerror(number))
        self._kernel.ioctl(fd, request, argument)


# --- topology


def test_the_topology(kernel: SimulatedKernel) -> None:
    cpu, first, second = read_topology(kernel)
    assert not cpu.is_card and cpu.banks[0].nbytes > 1 << 30
    assert [link.to for link in cpu.links] == [1, 2] and str(first.links[0]) == "PCIe to node 0"
    assert (first.arch, first.compute_units, first.vram_bytes, first.large_bar) == ("gfx1100", 96, 128 << 20, True)
    assert first.gpu_id != second.gpu_id and first.pci_address != second.pci_address
    assert {cache.level for cache in first.caches} == {1, 2, 3}
    assert first["no_such_property"] == 0


def test_a_card_that_the_control_group_hides_is_not_there(kernel: SimulatedKernel) -> None:
    nodes = read_topology(Changed(kernel, {f"{TOPOLOGY}/nodes/1/gpu_id": None}))
    assert [node.number for node in nodes] == [0, 2]


def test_a_topology_that_never_stands_still(kernel: SimulatedKernel) -> None:
    numbers = iter(range(100))

    class Restless(Changed):
        def text(self, path: str) -> str:
            return str(next(numbers)) if path.endswith("generation_id") else super().text(path)
    with pytest.raises(HalError, match="changed 5 times while it was read"):
        read_topology(Restless(kernel))


def test_sizes_of_what_waves_are_saved_to(kernel: SimulatedKernel) -> None:
    """As a kernel that tells them says, and as one that does not is reckoned. Linux 7.3's figures, for 96 CUs."""
    node = read_topology(kernel)[1]
    told = SaveArea.of(node)
    older = type(node)(node.number, node.gpu_id, node.name, {name: value for name, value in node.properties.items()
                                                            if name not in ("cwsr_size", "ctl_stack_size")})
    assert told == SaveArea.of(older) == SaveArea(control_stack=40960, whole=46047232, debug=98304)


# --- what cannot be opened


@pytest.mark.parametrize(("fails", "kind", "message"), [
    ({"/dev/kfd": errno.ENOENT}, NoCardError, r"there is no /dev/kfd: .*modprobe amdgpu.*--device=.*AMDRV_HAL"),
    ({"/dev/kfd": errno.EACCES}, HalError, r"/dev/kfd: Permission denied; add the user to the groups render and video"),
    ({"/dev/kfd": errno.EBUSY}, CardBusyError, r"/dev/kfd: busy"),
    ({"/dev/kfd": errno.EMFILE}, HalError, r"/dev/kfd cannot be opened: Too many open files"),
    ({"/dev/dri/renderD128": errno.EACCES}, HalError, r"/dev/dri/renderD128: Permission denied; add the user"),
    ({f"{TOPOLOGY}/nodes": errno.ENOENT}, NoCardError, r"there is no /sys/class/kfd.*CONFIG_HSA_AMD"),
    ({f"{TOPOLOGY}/nodes": errno.EACCES}, HalError, r"nodes cannot be read: no permission"),
    ({"ACQUIRE_VM": errno.EBUSY}, HalError, r"refuses the address space of /dev/dri/renderD128 .*\(ACQUIRE_VM\)"),
    ({"CREATE_QUEUE": errno.ENOMEM}, PacketError, r"no queue or no doorbell left .*close what is not"),
    ({"CREATE_QUEUE": errno.EINVAL}, HalError, r"refuses the queue KFD:0 SDMA 0 \(CREATE_QUEUE\): Invalid argument"),
])
def test_what_cannot_be_opened(spare: SimulatedKernel, fails: dict[str, int], kind: type[Exception],
                               message: str) -> None:
    anew(spare)
    with pytest.raises(kind, match=message):
        KfdDevice.open(0, Process(Changed(spare, fails=fails)))


def test_versions_and_cards_that_are_not_known() -> None:
    with kernel_with(version=(1, 6)) as kernel, pytest.raises(HalError, match=r"version 1\.6; this driver needs 1\.9"):
        Process(kernel)
    with kernel_with() as kernel:
        path = f"{TOPOLOGY}/nodes/1/properties"
        other = kernel.text(path).replace("gfx_target_version 110000", "gfx_target_version 90402")
        process = Process(Changed(kernel, {path: other}))
        with pytest.raises(NoCardError, match=r"card 0 is ip discovery, gfx942; this driver knows gfx1100, gfx11"):
            process.card(0)
        with pytest.raises(NoCardError, match=r"no card of number 3; the kernel's driver has: ip discovery \(gfx942\)"):
            process.card(3)


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMDRV_HAL", "vfio")
    with pytest.raises(HalError, match=r"AMDRV_HAL='vfio': KFD is a card that its kernel driver keeps"):
        connect()
    from compiler.runtime import default_device
    monkeypatch.delenv("AM", raising=False)
    monkeypatch.setenv("KFD", "1")
    assert default_device() == "KFD"
    monkeypatch.setenv("AM", "1")
    with pytest.raises(ValueError, match="AM=1 and KFD=1 are both set"):
        default_device()


def test_one_device_a_card_and_process(device: KfdDevice, kernel: SimulatedKernel) -> None:
    with pytest.raises(CardBusyError, match="KFD:0 is already open in this process"):
        KfdDevice.open(0, connect(kernel))
    with KfdDevice.open(1, connect(kernel)) as other:
        assert other.event != device.event
    assert connect(kernel) is device.process


# --- memory


def test_kinds_of_memory(memory: Memory, device: KfdDevice) -> None:
    vram, host = memory.alloc(5000, name="weights"), memory.alloc(5000, kind="system")
    assert vram.view is not None and host.view is not None and len(host.view) == 5000 and not host.view.any()
    assert memory.nearest(vram.address + 8) == f"inside weights buffer {vram.address:#x}..{vram.address + 8192:#x}"
    bells = device.map_doorbells_for_engines()
    assert memory.allocated["doorbell"] == 0x2000
    array = np.arange(3000, dtype=np.float64)
    with device.register(array) as registered:
        assert np.array_equal(registered.view, array.view(np.uint8))
    for buffer in (vram, host, bells):
        memory.free(buffer)
    with pytest.raises(ValueError, match="freed twice"):
        memory.free(host)
    assert host.view is None and memory.nearest(vram.address).endswith("which was freed")


def test_memory_that_is_not_there(memory: Memory) -> None:
    before = memory.allocated
    with pytest.raises(OutOfMemoryError, match=r"VRAM: 1,073,741,824 bytes asked, [\d,]+ of VRAM are free"):
        memory.alloc(1 << 30)
    with pytest.raises(ValueError, match="at least one byte"):
        memory.alloc(0)
    assert memory.allocated == before


def test_dma_bufs(memory: Memory, kernel: SimulatedKernel) -> None:
    """What one exports another imports: the same bytes at another address, alive as long as either is."""
    vram = memory.alloc(1 << 16)
    fd = memory.export(vram)
    try:
        again = memory.import_dmabuf(fd)
        assert again.size == vram.size and again.address != vram.address
        where = kernel.gpus[0].device.require_memory().tables.resolve
        assert where(vram.address) == where(again.address)
        memory.free(vram)
        assert where(again.address) is not None
        memory.free(again)
    finally:
        os.close(fd)
    with pytest.raises(MappingError, match=r"descriptor -1 is no buffer that amdgpu exported"):
        memory.import_dmabuf(-1)
    array = np.zeros(4096, np.uint8)
    pages = memory.map_pages(int(array.ctypes.data) & -4096, 4096, name="pages", writable=True)
    with pytest.raises(MappingError, match="cannot be exported"):
        memory.export(pages)
    memory.free(pages)


def test_an_older_kernel_exports_nothing() -> None:
    with kernel_with(version=(1, 11)) as kernel, KfdDevice.open(0, Process(kernel)) as device:
        memory = device.require_memory()
        with pytest.raises(MappingError, match=r"KFD 1\.11 does not export buffers; 1\.12 \(Linux 6\.2\) does"):
            memory.export(memory.alloc(4096))


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 1 << 22), max_size=20), order=st.randoms(use_true_random=False))
def test_buffers_never_overlap_and_all_comes_back(kernel: SimulatedKernel, sizes: list[int], order: Any) -> None:
    with KfdDevice.open(1, connect(kernel)) as device:
        memory = device.require_memory()
        before, free = memory.allocated, kernel.gpus[1].device.require_memory().pages.free_bytes
        alive = []
        for number, size in enumerate(sizes):
            alive.append(memory.alloc(size, kind="system" if number % 3 == 0 else "vram"))
            if len(alive) > 4:
                memory.free(alive.pop(order.randrange(len(alive))))
            spans = sorted((buffer.address, buffer.end) for buffer in alive)
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        order.shuffle(alive)
        for buffer in alive:
            memory.free(buffer)
        assert memory.allocated == before
        assert kernel.gpus[1].device.require_memory().pages.free_bytes >= free


# --- queues


def test_queues_come_and_go(device: KfdDevice, kernel: SimulatedKernel) -> None:
    boards = len(kernel.queues)
    made = [device.add_queue("compute", "high"), device.add_queue("copy", engine=1), device.add_queue("aql", "low")]
    offsets = {queue.queue.doorbell_offset for queue in device.queues}
    assert len(offsets) == len(device.queues)
    for queue in made:
        queue.ring.test()
        queue.queue.update(0, "low")            # off the hardware
        queue.queue.update(100, "high")
        queue.ring.test()
    made[0].queue.use_units(0xFFFF)
    with pytest.raises(HalError, match="a mask of CUs for KFD:0 SDMA 2"):
        made[1].queue.use_units(1)
    for queue in made:
        device.queues.remove(queue)
        queue.close()
    assert len(kernel.queues) == boards
    with pytest.raises(PacketError, match="a queue's priority is low, normal, high"):
        device.add_queue("compute", "urgent")


def test_what_is_submitted_while_a_queue_is_off_runs_once_when_it_is_on(kernel: SimulatedKernel) -> None:
    """Where it stopped and what was written stay in memory: nothing is lost, nothing is done twice."""
    with hcq.Device(open_backend(1, process=connect(kernel))) as dev:
        counter = dev.alloc(4096, host=True)
        counter.view[:] = 0
        backend = dev.backend
        for kind, encoder in (("compute", backend.compute), ("copy", backend.copy)):
            queue = next(each for each in backend.kfd.queues if each.kind == kind)       # type: ignore[attr-defined]
            words: list[int] = []
            encoder.atomic(words, counter.address, "ADD_RTN_32", 1, 0, False)
            before = int(counter.view[:4].view(np.uint32)[0])
            backend.queues(kind)[0].submit(np.array(words, np.uint32))
            queue.ring.test()
            queue.queue.update(0, "normal")
            backend.queues(kind)[0].submit(np.array(words, np.uint32))
            time.sleep(0.02)
            assert counter.view[:4].view(np.uint32)[0] == before + 1
            queue.queue.update(100, "normal")
            queue.ring.test()
            assert counter.view[:4].view(np.uint32)[0] == before + 2


def test_units_of_a_queue(kernel: SimulatedKernel) -> None:
    """Bits are dealt to the shader engines in turn, two for a WGP (kfd_mqd_manager.c): the first 12 WGPs of a Navi31
    are the first ones of its twelve arrays."""
    with KfdDevice.open(1, connect(kernel)) as device:
        queue = next(each for each in device.queues if each.kind == "compute")
        queue.queue.use_units((1 << 24) - 1)
        inside = next(each for each in kernel.gpus[1].queues if each.compute)
        assert inside.units == dict.fromkeys(range(6), 0b11 << 16 | 0b11)
        queue.queue.use_units(0b1100)
        assert inside.units == {0: 0, 1: 0b11, 2: 0, 3: 0, 4: 0, 5: 0}
        queue.ring.test()


def test_queues_end(kernel: SimulatedKernel) -> None:
    """The kernel's own words at the end of them, and room again afterwards."""
    with KfdDevice.open(1, connect(kernel)) as device:
        backend_limit = kernel.gpus[1].compute_queues
        with pytest.raises(PacketError, match=r"compute \d+: the kernel has no queue or no doorbell left .*15 compute"):
            for _ in range(backend_limit + 1):
                device.add_queue("compute")
        assert len(device.compute_rings) == backend_limit
        last = device.queues.pop()
        last.close()
        device.add_queue("aql").ring.test()


@pytest.mark.parametrize(("change", "number"), [
    ({"ring_size": 3 << 12}, errno.EINVAL), ({"queue_priority": 16}, errno.EINVAL), ({"queue_type": 9}, errno.ENOTSUP),
    ({"queue_percentage": 101}, errno.EINVAL), ({"ring_base_address": 1 << 47}, errno.EFAULT),
    ({"ctl_stack_size": 4096}, errno.EINVAL), ({"ctx_save_restore_size": 4096}, errno.EINVAL),
    ({"eop_buffer_size": 2048}, errno.EINVAL), ({"ring_size": 1 << 12}, errno.EINVAL),
    ({"read_pointer_address": 0x1000}, errno.EINVAL), ({"gpu_id": 1}, errno.EINVAL),
])
def test_what_the_kernel_refuses_of_a_queue(device: KfdDevice, change: dict[str, int], number: int) -> None:
    """The simulated kernel is as strict as Linux (kfd_queue.c): a buffer of another size is refused."""
    queue = next(queue.queue for queue in device.queues if queue.kind == "compute")
    given_ = {"ring_base_address": queue.ring.address, "ring_size": queue.ring.size, "queue_percentage": 100,
              "read_pointer_address": queue.read_pointer, "write_pointer_address": queue.write_pointer,
              "gpu_id": device.card.gpu_id, "queue_type": kfd.KFD_IOC_QUEUE_TYPE_COMPUTE, **queue._more, **change}
    with pytest.raises(HalError) as caught:
        device.process.call("CREATE_QUEUE", "a queue", **given_)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == number


def test_memory_of_a_queue_cannot_be_unmapped(device: KfdDevice) -> None:
    ring = device.compute_rings[0].buffer
    with pytest.raises(HalError, match=r"to unmap .* \(UNMAP_MEMORY_FROM_GPU\): Device or resource busy"):
        device.require_memory()._map_call("UNMAP_MEMORY_FROM_GPU", f"to unmap {ring}", ring.handle, ring.gpus)


# --- events


def test_waits_end_with_interrupts_and_with_time(kernel: SimulatedKernel) -> None:
    with hcq.Device(open_backend(0, process=connect(kernel))) as dev:
        device = dev.backend.kfd        # type: ignore[attr-defined]
        interrupts = kernel.gpus[0].device.interrupts.counts

        def quiet() -> None:
            """What was raised earlier may come late."""
            dev.synchronize()
            while device.wait(0.2):
                pass
        quiet()
        begin = time.monotonic()
        assert not device.wait(0.02) and time.monotonic() - begin >= 0.015
        signal = dev.signal()
        for value, kind in enumerate((hcq.ComputeQueue, hcq.CopyQueue), 1):
            kind(dev).signal(signal, value).submit()
            assert device.wait(10)
            signal.wait(value)
            quiet()
        # a queue whose store makes no interrupt wakes nobody
        before = interrupts["end of pipe"]
        words: list[int] = []
        dev.backend.compute.signal(words, signal.address, 9, interrupt=False)
        dev.backend.queues("compute")[0].submit(np.array(words, np.uint32))
        while signal.value != 9:
            time.sleep(0.001)
        assert not device.wait(0.02) and interrupts["end of pipe"] == before
        with pytest.raises(hcq.HcqError, match="no descriptor to wait on"):
            dev.fileno()


def test_events_of_the_process(kernel: SimulatedKernel, device: KfdDevice) -> None:
    """What the kernel's calls do with events that are set by hand, waited for together, and destroyed."""
    process = device.process
    made = [process.call("CREATE_EVENT", "an event", event_type=kfd.KFD_IOC_EVENT_SIGNAL, auto_reset=auto).event_id
            for auto in (0, 1)]

    def wait(every: bool, milliseconds: int = 0) -> int:
        table = (kfd.kfd_event_data * 2)()
        for each, number in zip(table, made, strict=True):
            each.event_id = number
        return int(process.call("WAIT_EVENTS", "to wait", events_ptr=ctypes.addressof(table), num_events=2,
                                wait_for_all=int(every), timeout=milliseconds).wait_result)
    assert wait(False) == wait(True) == kfd.KFD_IOC_WAIT_RESULT_TIMEOUT
    process.call("SET_EVENT", "to set", event_id=made[0])
    assert wait(False) == wait(False) == kfd.KFD_IOC_WAIT_RESULT_COMPLETE      # it does not reset itself
    assert wait(True) == kfd.KFD_IOC_WAIT_RESULT_TIMEOUT
    later = threading.Timer(0.05, lambda: process.call("SET_EVENT", "to set", event_id=made[1]))
    later.start()
    assert wait(True, 10_000) == kfd.KFD_IOC_WAIT_RESULT_COMPLETE
    later.join()
    process.call("RESET_EVENT", "to reset", event_id=made[0])
    assert wait(False) == kfd.KFD_IOC_WAIT_RESULT_TIMEOUT
    with pytest.raises(HalError, match=r"to reset \(RESET_EVENT\): Invalid argument"):      # a fault's
        process.call("RESET_EVENT", "to reset", event_id=process._memory_event)
    for number in made:
        process.call("DESTROY_EVENT", "to destroy", event_id=number)
    with pytest.raises(HalError, match=r"to set \(SET_EVENT\): Invalid argument"):
        process.call("SET_EVENT", "to set", event_id=made[0])


# --- what goes wrong


def test_a_memory_fault_is_told_with_address_and_buffer() -> None:
    with kernel_with(2, "256M") as kernel:
        process = connect(kernel)
        other = hcq.Device(open_backend(1, process=process))
        dev = hcq.Device(open_backend(0, process=process))
        dev.timeout = 5
        program = dev.program(compiled(), "add")
        near = dev.alloc(1 << 20)
        wild = near.address + (1 << 40)
        words: list[int] = []
        dev.backend.copy.fill(words, wild, 0, 4096)
        dev.backend.queues("copy")[0].submit(np.array(words, np.uint32))
        with pytest.raises(GpuFault, match=rf"KFD:0: page fault at {wild:#x}: .*; this is 0x\w+ bytes past the end of"):
            for _ in range(1000):
                dev.backend.check()
                time.sleep(0.01)
        # the process's queues on that card stay off it; the other card is not concerned
        assert kernel.gpus[0].evicted and not kernel.gpus[1].evicted
        other.backend.check()
        assert np.array_equal(other.alloc(4096).fill(7).copyout().view(np.uint32), np.full(1024, 7))
        with pytest.raises(GpuHang, match=r"was ended and made anew, and still does nothing.*start a new process"):
            dev.backend.recover([queue for queue in dev.backend.queues("copy")])
        del program, near
        other.close()
        dev._failure = RuntimeError("known")        # nothing to wait for any more
        dev.close()
        gc.collect()


def test_a_reset_of_the_card_is_told(kernel: SimulatedKernel) -> None:
    """kfd_signal_reset_event: the process's queues are gone, and whoever waits hears of it."""
    with KfdDevice.open(1, connect(kernel)) as device:
        reset = kfd.kfd_hsa_hw_exception_data(
            reset_type=kfd.KFD_HW_EXCEPTION_WHOLE_GPU_RESET, reset_cause=kfd.KFD_HW_EXCEPTION_ECC, memory_lost=1,
            gpu_id=device.card.gpu_id)
        threading.Timer(0.05, kernel.events.tell, (kfd.KFD_IOC_EVENT_HW_EXCEPTION, reset)).start()
        assert device.wait(10)
        with pytest.raises(GpuFault, match=r"KFD:1: the kernel reset the whole GPU because of an uncorrectable ECC "
                                           r"error, and video memory is lost; this process's queues are gone"):
            device.check()
        device.check()          # told once


def test_scratch_is_told_to_the_kernel(kernel: SimulatedKernel) -> None:
    backend = open_backend(1, process=connect(kernel))
    try:
        backend.ensure_scratch(4096)
        assert kernel.gpus[1].scratch_address == backend.compute.scratch.address != 0
    finally:
        backend.close()


def test_a_queue_that_hangs_is_made_anew(kernel: SimulatedKernel) -> None:
    """The kernel kills what a destroyed queue is at; the work is lost, the rest goes on."""
    with hcq.Device(open_backend(0, process=connect(kernel))) as dev:
        dev.timeout = 5
        gate, after = dev.signal(), dev.signal()
        point = hcq.ComputeQueue(dev).wait(gate, 1).signal(after, 1).submit()
        with pytest.raises(hcq.DeviceTimeout, match=r"KFD:0 compute 0: .* words pending, next is WAIT_REG_MEM"):
            point.wait(0.3)
        text = dev.recover()
        assert "KFD:0 compute 0" in text and "it works again" in text
        with pytest.raises(hcq.SubmissionFailedError):
            point.wait(1)
        assert after.value == 0
        assert np.array_equal(dev.alloc(4096).fill(3).copyout().view(np.uint32), np.full(1024, 3))


def test_what_only_our_own_driver_does(kernel: SimulatedKernel) -> None:
    backend = open_backend(0, process=connect(kernel))
    try:
        with pytest.raises(Exception, match=r"KFD:0: the card's performance counters are the kernel's"):
            backend.counters(["SQ_WAVES"])
        assert "is no card of the kernel's driver" in str(backend.peer_ranges(object(), backend.alloc(64), 0, 64))
    finally:
        backend.close()


def test_uploads_where_the_cpu_sees_no_video_memory() -> None:
    """A card whose memory lies beyond its BAR: code and arrays go by the copy engine."""
    with kernel_with() as kernel:
        path = f"{TOPOLOGY}/nodes/1/mem_banks/0/properties"
        small = Changed(kernel, {path: kernel.text(path).replace("heap_type 1", "heap_type 2")})
        with hcq.Device(open_backend(0, process=Process(small))) as dev:
            buffer = dev.alloc(3 << 20)
            assert dev.backend.window(buffer._storage.check()) is None
            data = np.random.default_rng(1).integers(0, 256, 3 << 20, np.uint8)
            dev.backend.upload(buffer.address, data)
            assert np.array_equal(buffer.copyout(), data)
            program = dev.program(compiled(), "add")
            x = np.arange(256, dtype=np.int32)
            source, out = dev.alloc(x.nbytes).copyin(x), dev.alloc(x.nbytes)
            program(out, source, np.int32(5), grid=(4,), block=(64,))
            assert np.array_equal(out.copyout(np.empty_like(x)), x + 5)
            with pytest.raises(PacketError, match="no allocation holds them"):
                dev.backend.upload(0x1000, data)


@pytest.mark.parametrize("call", [name for name in vars(kfd) if name.startswith("AMDKFD_IOC_")])
def test_every_call_has_a_counterpart(call: str) -> None:
    number: int = getattr(kfd, call)
    assert hasattr(SimulatedKernel, call.removeprefix("AMDKFD_IOC_").lower())
    assert ctypes.sizeof(kfd.ARGUMENTS[number]) == number >> 16 & 0x3FFF


def test_statistics(device: KfdDevice) -> None:
    counted: Counter[str] = device.statistics
    assert counted["page_table_entries"] > 0

