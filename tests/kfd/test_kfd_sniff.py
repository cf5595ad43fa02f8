"""ioctl-sniff reads our whole conversation with the kernel's driver: every call named, every flag, every pointer."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

import numpy as np
from simulated_cards import kernel_with

import hcq
from amdrv.facts import kfd
from amdrv.kfd.backend import open_backend
from amdrv.kfd.process import Process
from amdrv.kfd.simulated import SimulatedKernel
from tools.ioctl_sniff import abi, decode, program
from tools.ioctl_sniff.capture import Event

LIBRARY = abi.builtin()


class Recorder:
    """A kernel whose calls are kept as ioctl-sniff's recorder keeps them: with the memory that they point at."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self._kernel, self.events = kernel, list[Event]()
        self._programs = program.Programs(program.table(LIBRARY))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def open(self, path: str) -> int:
        fd = self._kernel.open(path)
        self.events.append(Event("device", 1, 1, fd, 0, 0, 0, 0, (0, 0, 0, 0), text=path))
        return fd

    def _memory(self, request: int, address: int) -> list[tuple[int, bytes]]:
        return program.gather(self._programs, request, address, ctypes.string_at)

    def ioctl(self, fd: int, request: int, argument: ctypes.Structure) -> None:
        address = ctypes.addressof(argument)
        before, error = self._memory(request, address), 0
        try:
            self._kernel.ioctl(fd, request, argument)
        except OSError as caught:
            error = caught.errno or 0
            raise
        finally:
            self.events.append(Event("ioctl", 1, 1, fd, 0, 0, error, -1 if error else 0, (request, address, 0, 0),
                                     before, self._memory(request, address)))


def test_the_whole_conversation() -> None:
    with kernel_with() as kernel:
        recorder = Recorder(kernel)
        with hcq.Device(open_backend(0, process=Process(recorder))) as dev:
            buffer = dev.alloc(1 << 20).fill(5)
            assert np.array_equal(buffer.copyout().view(np.uint32), np.full(1 << 18, 5))
            dev.backend.kfd.wait(0.01)          # type: ignore[attr-defined]
            hcq.AqlQueue(dev)
            memory = dev.backend.kfd.require_memory()       # type: ignore[attr-defined]
            exported = memory.alloc(4096)
            with open(memory.export(exported), "rb") as file:
                memory.free(memory.import_dmabuf(file.fileno()))
            with suppress(MemoryError):
                memory.alloc(1 << 40)
    calls = list(decode.calls(recorder.events, LIBRARY))
    assert {call.name for call in calls} >= {f"AMDKFD_IOC_{name}" for name in (
        "GET_VERSION", "ACQUIRE_VM", "GET_PROCESS_APERTURES_NEW", "ALLOC_MEMORY_OF_GPU", "MAP_MEMORY_TO_GPU",
        "CREATE_EVENT", "CREATE_QUEUE", "DESTROY_QUEUE", "WAIT_EVENTS", "UNMAP_MEMORY_FROM_GPU", "FREE_MEMORY_OF_GPU",
        "EXPORT_DMABUF", "IMPORT_DMABUF", "GET_DMABUF_INFO", "AVAILABLE_MEMORY")} | {"DRM_IOCTL_AMDGPU_INFO"}
    assert all(call.interface for call in calls), [call for call in calls if not call.interface][:3]
    said: list[dict[str, Any]] = [call.json() for call in calls]
    queues = [each["before"] for each in said if each["name"] == "AMDKFD_IOC_CREATE_QUEUE"]
    assert {each["queue_type"]["means"] for each in queues} == {
        "KFD_IOC_QUEUE_TYPE_COMPUTE", "KFD_IOC_QUEUE_TYPE_COMPUTE_AQL", "KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID"}
    flags = {flag for each in said if each["name"] == "AMDKFD_IOC_ALLOC_MEMORY_OF_GPU"
             for flag in each["before"]["flags"]["means"].replace(" ", "").split("|")}
    assert {"KFD_IOC_ALLOC_MEM_FLAGS_VRAM", "KFD_IOC_ALLOC_MEM_FLAGS_GTT", "KFD_IOC_ALLOC_MEM_FLAGS_PUBLIC"} <= flags
    mapped = next(each for each in said if each["name"] == "AMDKFD_IOC_MAP_MEMORY_TO_GPU")
    assert mapped["before"]["device_ids_array_ptr"]["to"] == [kernel.gpus[0].gpu_id]
    waited = next(each for each in said if each["name"] == "AMDKFD_IOC_WAIT_EVENTS")
    assert len(waited["before"]["events_ptr"]["to"]) == 3
    refused = [each for each in said if each["error"]]
    assert [each["name"] for each in refused] == ["AMDKFD_IOC_ALLOC_MEMORY_OF_GPU"]
    assert kfd.KFD_IOCTL_MAJOR_VERSION == 1
