"""Queues, signals, graphs and devices in any order on two software cards, with accidents in between, against NumPy.

After an accident (an engine that hangs, a packet garbled on its way, a wave that never ends) whoever waits gets one of
the errors that say so; both devices are recovered, what they held counts as undefined and is written anew, and
everything goes on as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from two_cards import cards, compiled

import hcq
from amdrv.errors import AmdrvError
from amdrv.ip import gfx, psp, smu
from amdrv.ip import sdma as sdma_block

N, BLOCK = 1024, 64                 # int32 a buffer
EACH = 3                            # buffers a card
PATIENCE, ACCIDENT_PATIENCE = 60.0, 0.4
ACCIDENTS: list[dict[str, Any]] = [
    {"kind": "hung-wave", "count": 1}, {"kind": "bad-packet", "count": 1}, {"kind": "illegal-instruction", "count": 1},
    {"kind": "queue-hang", "queue": "compute 1.0.0", "count": 1}, {"kind": "aql-invalid", "count": 1},
    {"kind": "queue-hang", "queue": "sdma 0.0", "count": 1}]

numbers = st.integers(0, 2 * EACH - 1)
small = st.integers(-9, 9)


class Devices(RuleBasedStateMachine):
    pair: list[hcq.Device]
    add: dict[hcq.Device, hcq.Program]

    @initialize()
    def begin(self) -> None:
        self.buffers = [device.alloc(4 * N) for device in self.pair for _ in range(EACH)]
        self.model = [np.zeros(N, np.int32) for _ in self.buffers]
        self.rewrite()
        self.graphs: list[tuple[hcq.Graph, list[tuple[str, int, int]]]] = []

    def rewrite(self) -> None:
        for number, buffer in enumerate(self.buffers):
            self.model[number][:] = np.arange(N, dtype=np.int32) + 1000 * number
            buffer.copyin(self.model[number])

    def same(self, to: int, origin: int) -> int:
        """``origin``, moved to the card of ``to``."""
        return origin % EACH + to // EACH * EACH

    @rule(to=numbers, origin=numbers, k=small)
    def launch(self, to: int, origin: int, k: int) -> None:
        origin = self.same(to, origin)
        device = self.buffers[to].device
        self.add[device](self.buffers[to], self.buffers[origin], np.int32(k), grid=N // BLOCK, block=BLOCK)
        self.model[to] = self.model[origin] + np.int32(k)

    @rule(to=numbers, origin=numbers)
    def copy(self, to: int, origin: int) -> None:
        """Within a card or between the two."""
        if to != origin:
            self.buffers[to].copy_from(self.buffers[origin])
            self.model[to] = self.model[origin].copy()

    @rule(to=numbers, origin=numbers, k=small, late=st.booleans(), engine=st.integers(0, 1), queue=st.integers(0, 3))
    def by_hand(self, to: int, origin: int, k: int, late: bool, engine: int, queue: int) -> None:
        """A copy engine and a compute queue with a signal between them, submitted in either order."""
        origin = self.same(to, origin)
        if to == origin:
            return
        device = self.buffers[to].device
        device.synchronize()
        filled = device.signal()
        copies = hcq.CopyQueue(device, engine).fill(self.buffers[origin], 7).write(
            self.buffers[origin], np.full(8, k, np.int32)).signal(filled, 1)
        compute = hcq.AqlQueue(device) if queue == 3 else hcq.ComputeQueue(device, queue)
        kernels = compute.wait(filled, 1).memory_barrier().exec(
            self.add[device], (self.buffers[to], self.buffers[origin], np.int32(k)), N // BLOCK, BLOCK)
        for each in (kernels, copies) if late else (copies, kernels):
            each.submit()
        device.synchronize()
        self.model[origin][:] = 7
        self.model[origin][:8] = k
        self.model[to] = self.model[origin] + np.int32(k)

    @rule(home=st.integers(0, 1), aql=st.booleans(), commands=st.lists(
        st.tuples(st.sampled_from(["kernel", "copy", "fill"]), numbers, numbers), min_size=1, max_size=12))
    def record(self, home: int, aql: bool, commands: list[tuple[str, int, int]]) -> None:
        plain: list[tuple[str, int, int]] = []
        with self.pair[home].graph(kind="aql" if aql else "compute") as graph:
            k = graph.input("k", np.int32(1))
            for kind, to, origin in commands:
                if kind == "kernel":
                    origin = self.same(to, origin)
                    self.add[self.buffers[to].device](self.buffers[to], self.buffers[origin], k, grid=N // BLOCK,
                                                      block=BLOCK)
                elif kind == "fill":
                    self.buffers[to].fill(5)
                elif to != origin:
                    self.buffers[to].copy_from(self.buffers[origin])
                else:
                    continue
                plain.append((kind, to, origin))
        if plain:
            self.graphs = [*self.graphs[-2:], (graph, plain)]

    @rule(which=st.integers(0, 2), k=small, times=st.integers(1, 3))
    def replay(self, which: int, k: int, times: int) -> None:
        if not self.graphs:
            return
        graph, commands = self.graphs[which % len(self.graphs)]
        for _ in range(times):
            graph.replay(k=np.int32(k))
            for kind, to, origin in commands:
                if kind == "kernel":
                    self.model[to] = self.model[origin] + np.int32(k)
                elif kind == "fill":
                    self.model[to][:] = 5
                else:
                    self.model[to] = self.model[origin].copy()

    @rule(number=numbers)
    def read(self, number: int) -> None:
        assert np.array_equal(self.buffers[number].copyout(np.empty(N, np.int32)), self.model[number])

    @rule(card=st.integers(0, 1), accident=st.sampled_from(ACCIDENTS), graph=st.booleans())
    def accident(self, card: int, accident: dict[str, Any], graph: bool) -> None:
        for device in self.pair:
            device.synchronize()
        device = self.pair[card]
        faults = device.backend.device.pci.board.faults         # type: ignore[attr-defined]
        faults.inject(**accident)
        first = card * EACH
        for each in self.pair:
            each.timeout = ACCIDENT_PATIENCE
        with pytest.raises((hcq.DeviceTimeout, hcq.SubmissionFailedError, AmdrvError)):
            for _ in range(3):
                if graph and self.graphs:
                    self.graphs[-1][0].replay()
                self.add[device](self.buffers[first], self.buffers[first + 1], np.int32(1), grid=4, block=BLOCK)
                self.buffers[first].copy_from(self.buffers[first + 1])
                hcq.AqlQueue(device).timestamp(device.signal()).submit()
                device.synchronize()
        faults.clear()
        for each in self.pair:
            each.timeout = PATIENCE
            each.recover()
        self.rewrite()

    @invariant()
    def timelines_are_sane(self) -> None:
        for device in self.pair:
            for timeline in device._all:
                assert timeline.signal.value <= timeline.submitted

    def teardown(self) -> None:
        for number in range(len(getattr(self, "buffers", []))):
            self.read(number)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Devices]]:
    monkeypatch.setattr(smu, "RESET_TIME", 0)
    monkeypatch.setattr(psp, "HANDSHAKE_DELAY", 0)
    monkeypatch.setattr(gfx, "DEQUEUE_TIMEOUT", 0.5)
    monkeypatch.setattr(sdma_block, "STOP_TIMEOUT", 0.5)
    with cards(2) as pair:
        for device in pair:
            device.timeout = PATIENCE
            hcq.ComputeQueue(device, 1)
            hcq.ComputeQueue(device, 2, priority="high")
            hcq.AqlQueue(device)
        yield type("TheDevices", (Devices,), {"pair": pair, "add": {
            device: device.program(compiled(), "add") for device in pair}})


def test_anything_in_any_order(devices: type[Devices]) -> None:
    run_state_machine_as_test(devices, settings=settings(max_examples=6, stateful_step_count=16, deadline=None,
                                                         suppress_health_check=list(HealthCheck)))


@pytest.mark.slow
def test_anything_in_any_order_for_long(devices: type[Devices]) -> None:
    run_state_machine_as_test(devices, settings=settings(max_examples=40, stateful_step_count=40, deadline=None,
                                                         suppress_health_check=list(HealthCheck)))
