"""What the engines did, packet by packet, on the time line of the host.

    with dev.profile() as p:
        program(out, a, b, grid=64, block=256)
        result = out.copyout()
    print(p.summary())                      # a line a kernel, and how busy each engine was
    p.save("run.json")                      # for ui.perfetto.dev or chrome://tracing

While a profile is on, the words of every submission pass through it. It puts a timestamp behind each packet that does
something, if the backend knows how (``instrument``), and otherwise one before and one behind the submission. The
engines store the timestamps as they go; nothing waits for them but the end of the profile. Kernels that would overlap
are shown one behind the other, by the times at which they were complete.

The device's clock is laid beside the host's (``time.perf_counter_ns``) at the beginning and at the end, and what lies
between is interpolated; :attr:`Profile.uncertainty` is how far off that may be.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from hcq.errors import HcqError
from hcq.memory import Buffer
from hcq.signal import Timeline

if TYPE_CHECKING:
    from hcq.backend import HardwareQueue
    from hcq.device import Device

__all__ = ["Profile", "Span", "Submission"]

PAGE_WORDS = 8192               # timestamps a piece of host memory
_SIGNAL_WORDS = 8               # of an amd_signal_t
LOOKS = 16                      # at the two clocks; the closest pair counts


@dataclass
class Submission:
    """One ringing of a doorbell: host times in nanoseconds of ``time.perf_counter_ns``."""

    queue: str
    thread: str
    begin: int
    end: int
    number: int


@dataclass
class Span:
    """One packet, or a group of them, on one engine. Times in nanoseconds of the host's ``time.perf_counter_ns``."""

    device: str
    queue: str
    what: str                   # "kernel", "copy", "fill", "wait", "signal", "barrier", "timestamp", "other", "work"
    name: str
    begin: float
    end: float
    submission: Submission
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it took, seconds."""
        return (self.end - self.begin) / 1e9


class _Watched:
    """A hardware queue whose submissions a profile sees first."""

    def __init__(self, recorder: _Recorder, timeline: Timeline) -> None:
        self.queue: HardwareQueue = timeline.queue
        self._recorder, self._timeline = recorder, timeline

    def submit(self, words: np.ndarray, indirect: Sequence[Any] = ()) -> None:
        self._recorder.submit(self._timeline, self.queue, words, indirect)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)


class _Stamps:
    """Where a backend's ``instrument`` puts the timestamps of one queue."""

    def __init__(self, recorder: _Recorder, encoder: Any) -> None:
        self._recorder, self._encoder = recorder, encoder

    def __call__(self, words: list[int]) -> int:
        return self._recorder.stamp(self._encoder, words)

    def signal(self) -> tuple[int, int]:
        return self._recorder.signal()


class _Recorder:
    """One device's part of a profile."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.pages: list[Buffer] = []
        self.used = PAGE_WORDS
        self.spans: list[tuple[str, Submission, str, dict[str, Any], int, int]] = []
        self.clocks: list[tuple[float, int, float]] = []            # (host ns, ticks, half the bracket)
        self.names: dict[int, str] = {}
        self.give_way: Callable[[], None] | None = None     # ends the profile, if it is one that yields

    def watch(self, timeline: Timeline) -> None:
        timeline.queue = _Watched(self, timeline)           # type: ignore[assignment]

    def _page(self) -> None:
        """There is room for one more in the last page."""
        if self.used == PAGE_WORDS:
            page = self.device.alloc(8 * PAGE_WORDS, host=True)
            for point in page._storage.ready:
                point.wait()
            page.view[:] = 0
            self.pages.append(page)
            self.used = 0

    def stamp(self, encoder: Any, words: list[int]) -> int:
        """Append a timestamp packet; returns its number."""
        self._page()
        number = (len(self.pages) - 1) * PAGE_WORDS + self.used
        encoder.timestamp(words, self.pages[-1].address + 8 * self.used)
        self.used += 1
        return number

    def signal(self) -> tuple[int, int]:
        """Room for an amd_signal_t, whose words are timestamps, too: the first one's number, and its address."""
        self.used = min(self.used + _SIGNAL_WORDS - 1 & -_SIGNAL_WORDS, PAGE_WORDS)
        self._page()
        number = (len(self.pages) - 1) * PAGE_WORDS + self.used
        self.used += _SIGNAL_WORDS
        return number, self.pages[-1].address + 8 * (number % PAGE_WORDS)

    def submit(self, timeline: Timeline, queue: HardwareQueue, words: np.ndarray, indirect: Sequence[Any]) -> None:
        device, encoder = self.device, timeline.encoder
        with device._lock:
            # the backend reads its own packets; a queue with another language is taken as a whole
            own = queue.kind == "aql" or type(encoder) is type(getattr(device.backend, queue.kind))
            instrument = getattr(device.backend, "instrument", None) if own else None
            if instrument is not None:
                out, stretches = instrument(queue.kind, words.tolist(), indirect, _Stamps(self, encoder))
                parts = [tuple(stretch) for stretch in stretches]
                new, rest = np.array(out, np.uint32), {}
            else:
                begin: list[int] = []
                end: list[int] = []
                first = self.stamp(encoder, begin)
                last = self.stamp(encoder, end)
                parts = [("work", {}, first, last)]
                new = np.concatenate([np.array(begin, np.uint32), words, np.array(end, np.uint32)])
                rest = {"indirect": indirect} if indirect else {}
            self._learn_names()
            start = time.perf_counter_ns()
            queue.submit(new, **rest)
            done = time.perf_counter_ns()
            submission = Submission(queue.name, threading.current_thread().name, start, done, len(self.spans))
            self.spans += [(queue.name, submission, what, facts, first, last) for what, facts, first, last in parts]

    def _learn_names(self) -> None:
        """Kernels by the address of their first instruction, and of their descriptor."""
        for image in list(self.device._images.values()):
            if image.address not in self.names:
                self.names[image.address] = ""
                for info in image.code.kernels.values():
                    self.names[image.address + info.entry] = info.name
                    self.names[image.address + info.descriptor_offset] = info.name

    def look(self) -> None:
        """Lay the device's clock beside the host's."""
        clock = getattr(self.device.backend, "clock", None)
        best: tuple[float, int, float] | None = None
        for _ in range(LOOKS):
            before = time.perf_counter_ns()
            ticks = clock() if clock is not None else self._clock_by_packet()
            after = time.perf_counter_ns()
            if best is None or (after - before) / 2 < best[2]:
                best = ((before + after) / 2, ticks, (after - before) / 2)
        assert best is not None
        self.clocks.append(best)

    def _clock_by_packet(self) -> int:
        from hcq.queue import ComputeQueue
        signal = self.device.signal()
        ComputeQueue(self.device).timestamp(signal).submit().wait()
        return signal.value

    def host_time(self, ticks: int) -> float:
        """Of a timestamp, in ns of the host's clock."""
        hz = self.device.properties.timestamp_hz
        (host0, ticks0, _), (host1, ticks1, _) = self.clocks[0], self.clocks[-1]
        offset0, offset1 = host0 - ticks0 * 1e9 / hz, host1 - ticks1 * 1e9 / hz
        share = (ticks - ticks0) / (ticks1 - ticks0) if ticks1 > ticks0 else 0.0
        return ticks * 1e9 / hz + offset0 + (offset1 - offset0) * share

    def collect(self) -> list[Span]:
        """The spans whose timestamps have been stored so far."""
        stamps = np.concatenate([page.view.view(np.uint64) for page in self.pages]) if self.pages else np.empty(0)
        found = []
        for queue, submission, what, facts, first, last in list(self.spans):
            begin, end = int(stamps[first]), int(stamps[last])
            if begin and end:
                if what == "wait" and (of := self.device._foreign.get(facts.get("address", 0))) is not None:
                    facts["of"] = of            # another device's signal
                name = self.names.get(facts.get("entry", facts.get("descriptor", -1)), "") or what
                found.append(Span(self.device.name, queue, what, name, self.host_time(begin), self.host_time(end),
                                  submission, facts))
        return found


class Profile:
    """A profile of one or several devices. Made by ``dev.profile()``; a context manager. See the module."""

    def __init__(self, devices: Sequence[Device], *, counters: Sequence[str] = (), live: float = 0,
                 file: IO[str] | None = None, yields: bool = False) -> None:
        """:param yields: end where another profile of one of these devices begins, instead of being in its way."""
        self.devices = list(devices)
        self._recorders = [_Recorder(device) for device in self.devices]
        if yields:
            for recorder in self._recorders:
                recorder.give_way = lambda: self.__exit__(None, None, None)
        self._wanted, self._live, self._file = tuple(counters), live, file
        self._counters: dict[Device, Any] = {}
        self._spans: list[Span] | None = None
        self._stop = threading.Event()
        self._printer: threading.Thread | None = None
        self._state = "new"
        self.begin = self.end = 0
        self.counters: dict[str, dict[str, int]] = {}
        """{device: {counter: value}}, after the profile."""
        if counters:
            for device in self.devices:
                make = getattr(device.backend, "counters", None)
                if make is None:
                    raise HcqError(f"the driver of {device.name} has no hardware counters")
                try:
                    self._counters[device] = make(self._wanted)
                except ValueError as error:
                    raise HcqError(f"{device.name}: {error}") from error

    def __enter__(self) -> Profile:
        if self._state != "new":
            raise HcqError("a profile is taken once; make another with dev.profile()")
        for device in self.devices:
            if (other := device._recorder) is not None and other.give_way is not None:
                other.give_way()
            if any(isinstance(timeline.queue, _Watched) for timeline in device._all):
                raise HcqError(f"{device.name} is being profiled already; profiles do not nest")
        self._state = "running"
        for recorder in self._recorders:
            device = recorder.device
            device.synchronize()
            recorder.look()
            if device in self._counters:
                _by_packets(device, self._counters[device].start())
            with device._lock:
                device._recorder = recorder             # for queues that are made meanwhile
                for timeline in device._all:
                    recorder.watch(timeline)
        self.begin = time.perf_counter_ns()
        if self._live:
            self._printer = threading.Thread(target=self._print, name="hcq profile", daemon=True)
            self._printer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._state == "done":       # it has given way to another one
            return
        self._stop.set()
        if self._printer is not None:
            self._printer.join()
        try:
            for recorder in self._recorders:
                if kind is None:
                    recorder.device.synchronize()
        finally:
            self.end = time.perf_counter_ns()
            for recorder in self._recorders:
                with recorder.device._lock:
                    recorder.device._recorder = None
                    for timeline in recorder.device._all:
                        if isinstance(timeline.queue, _Watched):
                            timeline.queue = timeline.queue.queue
            self._state = "done"
        if kind is None:
            for recorder in self._recorders:
                self._settle(recorder)
        self._spans = sorted((span for recorder in self._recorders if recorder.clocks for span in recorder.collect()),
                             key=lambda span: span.begin)
        for recorder in self._recorders:
            recorder.pages.clear()

    def _settle(self, recorder: _Recorder) -> None:
        """The last timestamps come after the last signals: wait for something behind them."""
        device = recorder.device
        for timeline in list(device._all):
            with device._lock:
                signal, encoder = device.signal(), timeline.encoder
                words = device._begin(timeline, encoder, in_order=False)
                encoder.timestamp(words, signal.address)
                point = device._finish(timeline, encoder, words, "the end of a profile")
            point.wait()
        if device in self._counters:
            counters = self._counters[device]
            out = device.alloc(8 * counters.read_words, host=True)
            out.view[:] = 0
            _by_packets(device, [*counters.stop(), *counters.read(out.address)])
            self.counters[device.name] = counters.values(out.view.view(np.uint64).tolist())
        recorder.look()

    @property
    def spans(self) -> list[Span]:
        """What is known so far, by begin; all of it after the profile."""
        if self._spans is not None:
            return self._spans
        return sorted((span for recorder in self._recorders if recorder.clocks for span in recorder.collect()),
                      key=lambda span: span.begin)

    @property
    def done(self) -> bool:
        """Is it over?"""
        return self._state == "done"

    @property
    def recorded(self) -> int:
        """Packets, or groups of them, that were submitted so far and of which there is or will be a span."""
        return sum(len(recorder.spans) for recorder in self._recorders)

    @property
    def uncertainty(self) -> float:
        """Seconds that a device's time may be off on the host's time line."""
        return max((half for recorder in self._recorders for _, _, half in recorder.clocks), default=0) / 1e9

    def summary(self) -> str:
        """A table: kernels and copies by time, then the engines."""
        from hcq.trace import summary
        return summary(self)

    def trace(self) -> dict[str, Any]:
        """The trace as an object of the Trace Event Format (Chrome, Perfetto)."""
        from hcq.trace import trace
        return trace(self)

    def save(self, path: str) -> None:
        """Write :meth:`trace` as JSON: for ui.perfetto.dev or chrome://tracing."""
        import json
        from pathlib import Path
        Path(path).write_text(json.dumps(self.trace()), encoding="utf-8")

    def _print(self) -> None:
        out = self._file or sys.stderr
        while not self._stop.wait(self._live):
            print(self.summary(), file=out, flush=True)


def _by_packets(device: Device, words: list[int]) -> None:
    """Run words of the backend's own on the compute queue, and wait."""
    with device._lock:
        timeline, encoder = device._compute, device.backend.compute
        begin = device._begin(timeline, encoder)
        point = device._finish(timeline, encoder, begin + words, "performance counters")
    point.wait()
