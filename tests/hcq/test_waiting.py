"""asyncio and select wait for a device: others run meanwhile, interrupts wake, errors are those of wait()."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Iterator

import numpy as np
import pytest
from fake_backend import FakeBackend

import hcq
import mock
from amdrv.backend import AmBackend
from amdrv.device import Device
from amdrv.errors import GpuFault
from amdrv.hal.mock import MockHal


@pytest.fixture
def dev() -> Iterator[hcq.Device]:
    with mock.Machine([mock.Gpu(vram="128M")]) as machine, hcq.Device(AmBackend(Device.open(MockHal(machine)))) as dev:
        yield dev


def test_tasks_wait_side_by_side(dev: hcq.Device) -> None:
    gates = [dev.signal() for _ in range(4)]
    order: list[int] = []

    async def one(number: int) -> None:
        queue = hcq.CopyQueue(dev, number % 2) if number > 1 else hcq.ComputeQueue(dev)
        point = queue.wait(gates[number], 1).submit()
        await point
        order.append(number)

    async def everything() -> None:
        tasks = [asyncio.create_task(one(number)) for number in (0, 2, 3)]
        await asyncio.sleep(0.02)
        assert order == []
        for number in (3, 0, 2):
            gates[number].value = 1
            await asyncio.wait_for(tasks[{0: 0, 2: 1, 3: 2}[number]], 30)
        await gates[1].reached(0)
    asyncio.run(everything())
    assert order == [3, 0, 2]
    asyncio.run(everything_again(dev))


async def everything_again(dev: hcq.Device) -> None:
    """Another loop, the same device."""
    data = np.arange(1000, dtype=np.int32)
    buffer = dev.alloc(4000).copyin(data)
    other = dev.alloc(4000)
    await hcq.CopyQueue(dev).copy(other, buffer).submit()
    assert (other.copyout(np.empty(1000, np.int32)) == data).all()


def test_an_interrupt_ends_the_wait_not_only_the_next_look(dev: hcq.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from hcq import waiting
    monkeypatch.setattr(waiting, "LOOK", 1e6)
    gate = dev.signal()
    point = hcq.CopyQueue(dev).wait(gate, 1).submit()

    async def both() -> None:
        task = asyncio.ensure_future(point.signal.reached(point.value, 60))
        await asyncio.sleep(0.01)
        gate.value = 1
        await asyncio.wait_for(task, 60)
    asyncio.run(both())


@pytest.mark.parametrize("lost", [False, True])
def test_a_lost_interrupt_is_made_good(dev: hcq.Device, lost: bool) -> None:
    if lost:
        dev.backend.device.pci.board.faults.inject("lost-interrupt")        # type: ignore[attr-defined]

    async def work() -> None:
        for _ in range(5):
            await hcq.CopyQueue(dev).fill(dev.alloc(4096), 1).submit()
    asyncio.run(asyncio.wait_for(work(), 60))


def test_errors_are_those_of_wait(dev: hcq.Device) -> None:
    gate = dev.signal()
    point = hcq.ComputeQueue(dev).wait(gate, 1).submit()
    with pytest.raises(hcq.DeviceTimeout, match=r"waited 0\.05 s for AM:0 compute 0 to complete submission 1"):
        asyncio.run(point.signal.reached(point.value, 0.05))
    dev.recover()
    with pytest.raises(hcq.SubmissionFailedError, match="was given up"):
        asyncio.run(_await(point))
    buffer = dev.alloc(4096)
    bad = hcq.CopyQueue(dev).fill(buffer, 1)
    address = buffer.address
    dev.backend.device.require_memory().tables.unmap(address, buffer._storage.memory.nbytes)     # type: ignore
    dev.backend.device.flush_hdp()          # type: ignore[attr-defined]
    dev.backend.device.flush_tlb()          # type: ignore[attr-defined]
    with pytest.raises(GpuFault, match=f"page fault at {address:#x}"):
        asyncio.run(_await(bad.submit()))
        dev.synchronize()


async def _await(point: hcq.Point) -> None:
    await point


def test_select_wakes(dev: hcq.Device) -> None:
    gate = dev.signal()
    point = hcq.CopyQueue(dev).wait(gate, 1).submit()
    while select.select([dev], [], [], 0)[0]:
        dev.poll()
    point.notify()
    gate.value = 1
    deadline = time.monotonic() + 30
    while not point.done:
        assert select.select([dev], [], [], 30)[0] and time.monotonic() < deadline
        dev.poll()
    point.wait()


def test_without_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    with hcq.Device(backend) as dev:
        with pytest.raises(hcq.HcqError, match=r"FAKE:0 has no descriptor to wait on.*use wait\(\)"):
            dev.fileno()
        dev.poll()
        gate = dev.signal()
        point = hcq.CopyQueue(dev).wait(gate, 1).submit()

        async def both() -> None:
            asyncio.get_running_loop().call_later(0.01, lambda: setattr(gate, "value", 1))
            await point
        asyncio.run(asyncio.wait_for(both(), 30))
