"""Four cards under random load: compute queues, both copy engines, copies between cards, stores of the CPU through
BAR0, interrupts; at the end all memory equals a model's.

Each card's host thread has places of its own in every kind of memory (its card's, every other card's, the host's) and
applies the same random steps to a model. A step goes to any of four queues, and waits, on the card, for the step
before: so every queue waits for the others all the time, and what is tested is what lies between engines. The threads
know nothing of each other.

``AMDRV_STRESS_SECONDS`` says for how long the slow test runs (60 by default; the whole is 600), ``AMDRV_STRESS_SEED``
where its random numbers start.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from stranger import (
    ADD_INTEGERS,
    Stranger,
    acquire,
    dispatch,
    halves,
    machine_of,
    packet,
    release,
    sdma_copy,
    sdma_fence,
    sdma_fill,
    sdma_trap,
    sdma_wait,
    wait_memory,
    write_data,
)

CARDS = 4
SIZE = 64 << 10                 # bytes of a place
PEER = 1 << 42
SYSTEM, UNCACHED = 2, 3 << 48
STEPS = (5, 40)                 # of a batch, between looks of the CPU
release_packet = release
RELEASE_CACHES = 0xF << 12 | 3 << 20
COMPUTE_IRQ, SDMA_IRQ = 0xB5, 0x31


@dataclass
class Place:
    """Memory of one worker: where it is, and what it should hold."""

    kind: str                   # "own", "cached", "peer", "host"
    address: int
    model: np.ndarray
    offset: int = 0             # in video memory
    holder: Any = None          # the Stranger of that card
    view: np.ndarray | None = None

    def load(self) -> np.ndarray:
        if self.view is not None:
            return self.view
        return np.frombuffer(self.holder.load(self.offset, SIZE), np.uint8)


@dataclass
class Worker:
    number: int
    drivers: list[Stranger]
    rng: np.random.Generator
    places: list[Place] = field(default_factory=list)
    steps: int = 0
    interrupts: int = 0
    seen: int = 0
    batches: int = 0
    error: BaseException | None = None

    def __post_init__(self) -> None:
        driver = self.driver = self.drivers[self.number]
        for number, other in enumerate(self.drivers):
            offset = other.vram(SIZE)
            address = PEER + (self.number * CARDS + number << 32)
            peer = other is not driver
            base = other.board.config.bar_address(0) if peer else 0
            driver.map(address, base + offset, SIZE, UNCACHED | (SYSTEM if peer else 0))
            self.places.append(Place("peer" if peer else "own", address, np.zeros(SIZE, np.uint8), offset, other))
        cached, address = driver.vram(SIZE), PEER + (CARDS * CARDS + self.number << 32)
        driver.map(address, cached, SIZE, 0)        # MTYPE NC: through GL2 and the shaders' caches
        self.places.append(Place("cached", address, np.zeros(SIZE, np.uint8), cached, driver))
        for _ in range(2):
            view = driver.host(SIZE)
            self.places.append(Place("host", int(view.ctypes.data), np.zeros(SIZE, np.uint8), view=view))
        code = driver.host(4096)
        code[:4 * len(ADD_INTEGERS)].view(np.uint32)[:] = ADD_INTEGERS
        self.code = int(code.ctypes.data)
        self.arguments = driver.host(SIZE).view(np.uint64)
        self.queues = [("compute", driver.compute), ("compute", driver.compute2), ("sdma", driver.copy),
                       ("sdma", driver.copy2)]
        for place in self.places:
            self._store(place, 0, self.rng.integers(0, 256, SIZE, np.uint8))

    # ---- steps

    def _store(self, place: Place, at: int, data: np.ndarray) -> None:
        """By the CPU, while the card rests."""
        place.model[at:at + len(data)] = data
        if place.view is not None:
            place.view[at:at + len(data)] = data
        else:
            place.holder.store(place.offset + at, data.tobytes())
            place.holder.flush_hdp()

    def _range(self, limit: int = SIZE, unit: int = 4) -> tuple[int, int]:
        size = int(self.rng.integers(1, limit // unit + 1)) * unit
        return int(self.rng.integers(0, (SIZE - size) // unit + 1)) * unit, size

    def _pick(self) -> Place:
        return self.places[int(self.rng.integers(len(self.places)))]

    def _write(self) -> list[int]:
        place, (at, size) = self._pick(), self._range(256)
        data = self.rng.integers(0, 1 << 32, size // 4, np.uint32)
        place.model[at:at + size] = data.view(np.uint8)
        return write_data(place.address + at, *data.tolist())

    def _move(self) -> list[int]:
        """COPY_DATA: eight bytes from memory to memory."""
        source, target = self._pick(), self._pick()
        here, there = (self._range(8, 8)[0] for _ in range(2))
        target.model[there:there + 8] = source.model[here:here + 8].copy()
        here, there = source.address + here, target.address + there
        return packet(0x40, 1 | 1 << 8 | 1 << 16 | 1 << 20, *halves(here), *halves(there))

    def _kernel(self, slot: int) -> list[int]:
        """c = a + b over up to 1024 words, wherever they are; c overlaps neither."""
        groups = int(self.rng.integers(1, 17))
        size = 256 * groups
        chosen = self.rng.choice(len(self.places), 3, replace=False)
        a, b, c = (self.places[int(i)] for i in chosen)
        offsets = [int(self.rng.integers(0, (SIZE - size) // 4 + 1)) * 4 for _ in "abc"]
        total = a.model[offsets[0]:][:size].view(np.uint32) + b.model[offsets[1]:][:size].view(np.uint32)
        c.model[offsets[2]:offsets[2] + size] = total.view(np.uint8)
        row = self.arguments[8 * slot:8 * slot + 3]
        row[:] = [place.address + at for place, at in zip((a, b, c), offsets, strict=True)]
        return acquire() + dispatch(self.driver, self.code, int(row.ctypes.data), groups, 64)

    def _copy(self) -> list[int]:
        source, target = self._pick(), self._pick()
        here, size = self._range(SIZE // 2 if source is target else SIZE, 1)
        there = int(self.rng.integers(0, SIZE - size + 1))
        if source is target and here < there + size and there < here + size:
            target = next(place for place in self.places if place is not source)
        target.model[there:there + size] = source.model[here:here + size].copy()
        return sdma_copy(source.address + here, target.address + there, size)

    def _fill(self) -> list[int]:
        place, (at, size), value = self._pick(), self._range(), int(self.rng.integers(1 << 32))
        place.model[at:at + size].view(np.uint32)[:] = value
        return sdma_fill(place.address + at, value, size)

    def batch(self) -> None:
        """Steps on the card, one after the other over all queues; then stores of the CPU. The first and the last step
        make the card's caches forget and write back: the CPU looks at memory before and after."""
        driver, signal = self.driver, self.driver.signal_at(8)
        count = int(self.rng.integers(*STEPS))
        for number in range(count):
            edge = number in (0, count - 1)
            kind, queue = self.queues[int(self.rng.integers(2 if edge else len(self.queues)))]
            told = bool(self.rng.integers(8) == 0) or number == count - 1
            self.interrupts += told
            before, after = self.steps & 0x7FFFFFFF, self.steps + 1 & 0x7FFFFFFF
            if kind == "compute":
                step = [self._write, self._move, lambda n=number: self._kernel(n)][int(self.rng.integers(3))]
                body = acquire() if edge else step()
                queue.put(wait_memory(signal, before) + body + release(signal, after, interrupt=told))
            else:
                body = (self._copy if self.rng.integers(3) else self._fill)()
                queue.put(sdma_wait(signal, before) + body + sdma_fence(signal, after)
                          + (sdma_trap() if told else []))
            self.steps += 1
            if self.rng.integers(4) == 0:
                queue.ring()            # rung early, rung late, rung twice
        for _kind, queue in self.queues:
            queue.ring()
        wanted = self.steps & 0x7FFFFFFF
        self._wait(lambda: int(driver.signals[8]) & 0xFFFFFFFF == wanted)
        self._wait(self._all_told)
        self.batches += 1
        for _ in range(int(self.rng.integers(4))):
            place, (at, size) = self._pick(), self._range(4096, 1)
            self._store(place, at, self.rng.integers(0, 256, size, np.uint8))
        place = self._pick()
        self._compare(place)

    def _wait(self, condition: Any) -> None:
        end = time.monotonic() + 120
        while not condition():
            time.sleep(0)
            if time.monotonic() > end:
                raise TimeoutError(f"card {self.number}, step {self.steps}: {self.driver.board.notes}")

    def _all_told(self) -> bool:
        for _client, source in self.driver.entries():
            assert source in (COMPUTE_IRQ, SDMA_IRQ), f"an interrupt of source {source}"
            self.seen += 1
        assert self.seen <= self.interrupts
        return self.seen == self.interrupts

    def _compare(self, place: Place) -> None:
        found = place.load()
        wrong = np.flatnonzero(found != place.model)
        assert not len(wrong), (f"card {self.number}, {place.kind} memory at {place.address:#x}: {len(wrong)} bytes "
                                f"differ after {self.steps} steps, the first at {int(wrong[0]):#x}")

    def run(self, end: float, stop: threading.Event) -> None:
        try:
            while time.monotonic() < end and not stop.is_set():
                self.batch()
            for place in self.places:
                self._compare(place)
        except BaseException as error:
            self.error = error
            stop.set()


def stress(seconds: float, seed: int, before: Callable[[list[Stranger]], None] = lambda drivers: None) -> list[Worker]:
    """``before`` is called with the booted drivers, before the load."""
    with machine_of(f"gfx1100:vram=64M,count={CARDS}") as machine:
        drivers = [Stranger(board, machine.bus).boot() for board in machine.gpus]
        for driver in drivers:
            driver.more_queues()
        workers = [Worker(n, drivers, np.random.default_rng([seed, n])) for n in range(CARDS)]
        before(drivers)
        stop, end = threading.Event(), time.monotonic() + seconds
        threads = [threading.Thread(target=worker.run, args=(end, stop)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for worker in workers:
            if worker.error is not None:
                raise AssertionError(f"seed {seed}") from worker.error
        for driver, worker in zip(drivers, workers, strict=True):
            driver.flush_hdp()
            for place in worker.places:
                worker._compare(place)
            rules = {note.rule for note in driver.board.notes} - {"hdp-late", "unnamed-register"}
            assert not rules, driver.board.notes
            assert driver.board.counters["interrupts"] == worker.interrupts
            assert driver.messages and driver.board.counters["kernels"]
            assert {engine.name for engine in driver.board.engines if engine.failure} == set()
    return workers


def test_a_short_while() -> None:
    assert all(worker.batches >= 1 for worker in stress(2.0, seed=1))


def no_flush(drivers: list[Stranger]) -> None:
    for driver in drivers:
        driver.flush_hdp = lambda: None         # type: ignore[method-assign]


def no_caches(_drivers: list[Stranger]) -> None:
    globals()["acquire"] = list
    globals()["release"] = lambda *args, **rest: [word & ~RELEASE_CACHES if i == 1 else word
                                                  for i, word in enumerate(release_packet(*args, **rest))]


@pytest.mark.parametrize("step", [no_flush, no_caches])
def test_a_forgotten_step_is_found(monkeypatch: pytest.MonkeyPatch, step: Any) -> None:
    """The load would show it: without HDP flushes, and without cache operations, memory differs from the model."""
    monkeypatch.setitem(globals(), "acquire", acquire)
    monkeypatch.setitem(globals(), "release", release)
    with pytest.raises(AssertionError) as error:
        stress(20.0, seed=2, before=step)
    assert "bytes differ after" in str(error.value.__cause__ or error.value)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_long_while() -> None:
    seconds = float(os.environ.get("AMDRV_STRESS_SECONDS", "60"))
    seed = int(os.environ.get("AMDRV_STRESS_SEED", "0")) or time.time_ns() & 0xFFFFFFFF
    workers = stress(seconds, seed)
    print(f"seed {seed}: {sum(w.steps for w in workers)} steps in {sum(w.batches for w in workers)} batches, "
          f"{sum(w.interrupts for w in workers)} interrupts")
    assert all(worker.batches > 10 for worker in workers)
