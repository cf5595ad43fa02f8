"""hcq over the kernel's driver, in a guest whose kernel is Debian's: memory, queues, programs, events, faults.

    AMDRV_HAL unset; prints a line in capitals for each part that did what it should.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "hcq"))
from two_cards import compiled

import hcq
from amdrv import ring
from amdrv.errors import AmdrvError, GpuFault, OutOfMemoryError
from amdrv.kfd.device import KfdDevice
from amdrv.kfd.memory import Memory
from amdrv.kfd.process import connect
from amdrv.registration import register

ITEMS = 1024


def topology() -> None:
    process = connect()
    node, = process.cards
    assert (node.arch, node.compute_units, node.large_bar) == ("gfx1100", 96, True), node
    assert node.links and node.pci_address.startswith("0000:"), node
    print(f"TOPOLOGY KFD {process.version[0]}.{process.version[1]}: {node.name}, {node.arch}, "
          f"{node.compute_units} CUs, {node.vram_bytes >> 20} MiB, {node.pci_address}")


def memory(device: KfdDevice) -> None:
    """Every kind of buffer, a dma-buf out and in, and more than there is."""
    room: Memory = device.require_memory()
    vram, host = room.alloc(1 << 20), room.alloc(1 << 20, kind="system")
    assert vram.view is not None and host.view is not None and not host.view.any()
    array = np.arange(5000, dtype=np.uint8)
    with register(room, array) as registered:
        assert registered.nbytes == array.nbytes
    fd = room.export(vram)
    again = room.import_dmabuf(fd)
    os.close(fd)
    vram.view[:16] = np.arange(16, dtype=np.uint8)
    assert again.size == vram.size
    bells = room.doorbells(0x2000)
    try:
        room.alloc(1 << 40)
        raise AssertionError("a terabyte was there")
    except OutOfMemoryError as error:
        assert "of VRAM are free" in str(error), error
    for buffer in (bells, again, vram, host):
        room.free(buffer)
    print("MEMORY", room.allocated)


def queues(device: KfdDevice) -> None:
    aql = device.add_queue("aql", "high")
    extra = device.add_queue("copy", engine=1)
    for each in device.queues:
        each.ring.test()
    assert device.flushes
    aql.queue.update(0, "low")              # off the hardware, and on again
    aql.queue.update(100, "normal")
    aql.ring.test()
    for each in (extra, aql):
        device.queues.remove(each)
        each.close()
    print("QUEUES compute, aql, copy on engines 0 and 1")


def programs(dev: hcq.Device) -> None:
    program = dev.program(compiled(), "add")
    x = np.arange(ITEMS, dtype=np.int32)
    source, out = dev.alloc(x.nbytes).copyin(x), dev.alloc(x.nbytes)
    program(out, source, np.int32(5), grid=(ITEMS // 64,), block=(64,))
    assert np.array_equal(out.copyout(np.empty_like(x)), x + 5)
    with dev.graph() as graph:
        program(out, source, np.int32(7), grid=(ITEMS // 64,), block=(64,))
        program(out, out, np.int32(1), grid=(ITEMS // 64,), block=(64,))
    graph.replay()
    assert np.array_equal(out.copyout(np.empty_like(x)), x + 8)
    array = np.arange(ITEMS, dtype=np.int32)
    with_array = dev.register(array)
    program(with_array, source, np.int32(2), grid=(ITEMS // 64,), block=(64,))
    dev.synchronize()
    assert np.array_equal(array, x + 2)
    with_array.free()
    aql = hcq.AqlQueue(dev)
    aql.exec(program, (out, source, np.int32(9)), (ITEMS // 64,), (64,)).submit().wait()
    assert np.array_equal(out.copyout(np.empty_like(x)), x + 9)
    print("PROGRAMS vector add, a graph, an array in place, AQL")


def events(dev: hcq.Device) -> None:
    """A wait that sleeps in the kernel until the queue's interrupt, and one that nothing ends."""
    device = dev.backend.kfd        # type: ignore[attr-defined]
    dev.synchronize()
    while device.wait(1):       # what was raised earlier may come late
        pass
    begin = time.monotonic()
    assert not device.wait(0.05) and time.monotonic() - begin > 0.04
    signal = dev.signal()
    hcq.ComputeQueue(dev).signal(signal, 3).submit()
    assert device.wait(30), "no interrupt of the compute queue"
    signal.wait(3)
    dev.synchronize()
    while device.wait(1):
        pass
    hcq.CopyQueue(dev).signal(signal, 4).submit()
    assert device.wait(30), "no interrupt of the copy queue"
    signal.wait(4)
    print("EVENTS of compute and copy queues")


def compiler() -> None:
    os.environ["KFD"] = "1"
    from compiler import Tensor
    a = np.random.default_rng(0).standard_normal((24, 24)).astype(np.float32)
    x = Tensor(a, requires_grad=True)
    assert x.device == "KFD", x.device
    loss = (x @ x).relu().sum()
    loss.backward()
    assert np.allclose(loss.item(), np.maximum(a @ a, 0).sum(), rtol=1e-4)
    mask = (a @ a > 0).astype(np.float32)
    assert np.allclose(x.grad.numpy(), mask @ a.T + a.T @ mask, rtol=1e-3, atol=1e-4)
    print("COMPILER a product of matrices and its gradient")


def fault(dev: hcq.Device) -> None:
    """The last part: after it the kernel lets nothing of this process run on the card."""
    program = dev.program(compiled(), "add")
    near = dev.alloc(4096)
    beyond = near._storage.address + (1 << 30)         # nothing is mapped there
    wild = dev.alloc(4096)
    words: list[int] = []
    dev.backend.copy.fill(words, beyond, 0, 4096)
    del program, wild
    dev.backend.queues("copy")[0].submit(np.array(words, np.uint32))
    for _ in range(300):
        try:
            dev.backend.check()
            time.sleep(0.1)
        except GpuFault as error:
            assert f"page fault at {beyond:#x}" in str(error) and "bytes past the end of" in str(error), error
            print(f"FAULT {error}")
            return
    raise AssertionError("the kernel reported no fault")


def read(path: str) -> int:
    """What ioctl-sniff wrote of all this, in one line."""
    calls = [call for line in Path(path).read_text().splitlines() if line.startswith("{")
             if (call := json.loads(line))["name"].startswith(("AMDKFD", "DRM_IOCTL_AMDGPU")) or not call["interface"]]
    queues = {call["before"]["queue_type"]["means"] for call in calls if call["name"] == "AMDKFD_IOC_CREATE_QUEUE"}
    print("SNIFFED " + json.dumps({"names": sorted({call["name"] for call in calls}), "queues": sorted(queues),
                                   "unknown": [call["name"] for call in calls if not call["interface"]]}))
    return 0


def main() -> int:
    if sys.argv[1:2] == ["--read"]:
        return read(sys.argv[2])
    ring.TEST_TIMEOUT = 30.0
    topology()
    with KfdDevice.open() as device:
        memory(device)
        queues(device)
    dev = hcq.open("KFD")
    programs(dev)
    events(dev)
    compiler()
    fault(dev)
    try:
        dev.close()
    except AmdrvError as error:
        print(f"closing after the fault: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
