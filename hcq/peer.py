"""Copies between devices: by the engines of the device that has the source, straight into the other's memory.

    there.copy_from(here)                               # one copy, in the order of both devices' work
    hcq.copies([(b_there, a), (a_there, b)])            # several at once, both directions

A set of copies starts when what both devices were given before is complete, and whatever they are given afterwards
sees it. In between all copies run at once; large ones are spread over the copy engines of the device that writes.

What it takes, on the engines and without the host waiting: the receiver writes back and invalidates its caches
(*departure*), the writer's engines wait for that by the receiver's timeline, copy, and the receiver waits for their
timelines, flushes what came through its window and invalidates its caches again (*arrival*). Where a device cannot
reach the other's memory (another vendor's, an IOMMU that refuses), the bytes go through host memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from hcq.errors import BufferError, GraphError
from hcq.memory import Buffer
from hcq.signal import Point

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["can_reach", "copies", "settle"]

_SPREAD = 256 << 10             # a copy of this size or more is spread over the engines
_PAGE = 4096
_STAGED = 4 << 20               # bytes at a time, where there is no way but through the host

Range = tuple[int, int]
Pair = tuple[Buffer, Buffer]


def copies(pairs: Iterable[Pair]) -> None:
    """Copy each (destination, source), all at once. Buffers of a pair have the same size, on any two devices.

    :raises BufferError: no buffers, sizes that differ, or a destination that overlaps another buffer of the set.
    :raises GraphError: while one of the devices records a graph.
    """
    wanted = _checked(pairs)
    far = [pair for pair in wanted if not all(hasattr(buffer.device, "_timelines") for buffer in pair)]
    for pair in far:                    # another machine's: through this one
        _through_host(*pair)
    wanted = [pair for pair in wanted if pair not in far]
    devices = sorted({buffer.device for pair in wanted for buffer in pair}, key=lambda each: (each.name, id(each)))
    with ExitStack() as stack:
        for device in devices:          # always in one order, so that two threads cannot block each other
            stack.enter_context(device._lock)
        for device in devices:
            device._check_open()
            if device._recording is not None:
                raise GraphError(f"hcq.copies moves bytes now, and {device.name} records a graph")
        direct = [(pair, _ranges(pair)) for pair in wanted]
        _run([(pair, ranges) for pair, ranges in direct if not isinstance(ranges, str)])
    for pair, ranges in direct:
        if isinstance(ranges, str):
            _through_host(*pair)


def can_reach(device: Device, other: Device) -> str:
    """Why ``device``'s engines cannot write into ``other``'s memory; "" where they can."""
    if device is other:
        return ""
    there = _reach(device, other.alloc(_PAGE))
    return there if isinstance(there, str) else ""


def _checked(pairs: Iterable[Pair]) -> list[Pair]:
    wanted = [tuple(pair) if isinstance(pair, Sequence) else (pair,) for pair in pairs]
    spans: list[tuple[int, int, int, bool, Buffer]] = []
    for pair in wanted:
        if len(pair) != 2 or not all(isinstance(buffer, Buffer) for buffer in pair):
            raise BufferError("hcq.copies takes pairs (destination, source) of buffers, not "
                              f"({', '.join(type(part).__name__ for part in pair)})")
        destination, source = pair
        if destination.nbytes != source.nbytes:
            raise BufferError(f"copy of {source.nbytes} bytes of {source.device.name} to a buffer of "
                              f"{destination.nbytes} of {destination.device.name}; take a view of the same size, "
                              "buf[a:b]")
        for buffer, written in ((destination, True), (source, False)):
            spans.append((id(buffer.device), buffer.address, buffer.address + buffer.nbytes, written, buffer))
    spans.sort(key=lambda span: span[:2])
    end: tuple[int, int, bool] = (0, 0, False)          # device, farthest end so far, and of the written ones
    written_end: tuple[int, int] = (0, 0)
    for device, start, stop, written, buffer in spans:
        if (written and end[0] == device and start < end[1]) or (written_end[0] == device and start < written_end[1]):
            raise BufferError(f"the copies of one set run at once, and {buffer!r} overlaps another buffer of the set "
                              "where one of them is written; make two sets of it")
        end = (device, max(stop, end[1] if end[0] == device else 0), written)
        if written:
            written_end = (device, max(stop, written_end[1] if written_end[0] == device else 0))
    return wanted           # type: ignore[return-value]


def _reach(device: Device, buffer: Buffer) -> list[Range] | str:
    """Where ``device``'s engines find the buffer, or why they do not."""
    owner = buffer.device
    if owner is device:
        return [(buffer.address, buffer.nbytes)]
    ranges = getattr(device.backend, "peer_ranges", None)
    if ranges is None:
        return f"{device.name} has no way to other devices' memory"
    found: list[Range] | str = ranges(owner.backend, buffer._storage.check(), buffer._offset, buffer.nbytes)
    if not isinstance(found, str):
        owner._peers.add(device)
    return found


def _ranges(pair: Pair) -> list[Range] | str:
    """Where the source's device writes, once everything else that is asked of the two is possible too."""
    destination, source = pair
    if destination.device is not source.device:
        for device, other in ((source.device, destination.device), (destination.device, source.device)):
            seen = _signal_address(device, other._compute.last)
            if isinstance(seen, str):
                return seen
    return _reach(source.device, destination)


def _signal_address(device: Device, point: Point) -> int | str:
    """Where ``device``'s engines see a signal, of whichever device."""
    signal = point.signal
    owner = signal.device
    if owner is device:
        return signal.address
    ranges = getattr(device.backend, "peer_ranges", None)
    if ranges is None:
        return f"{device.name} has no way to other devices' memory"
    memory, index = signal._slot
    found: list[Range] | str = ranges(owner.backend, memory, 8 * index, 8)
    if isinstance(found, str):
        return found
    owner._peers.add(device)
    device._foreign[found[0][0]] = owner.name, signal.address
    return found[0][0]


def _wait(device: Device, encoder: object, words: list[int], points: Iterable[Point]) -> None:
    for point in points:
        if not point.done:
            address = _signal_address(device, point)
            assert isinstance(address, int)             # _ranges has asked
            encoder.wait(words, address, point.value)   # type: ignore[attr-defined]


def settle(device: Device, what: str, points: Sequence[Point] = (), *, arrived: bool = False) -> Point:
    """A submission to the compute queue behind all earlier work and ``points``: caches written back and invalid.

    The caller holds the device's lock, or is alone with it.
    """
    timeline, encoder = device._compute, device.backend.compute
    words = device._begin(timeline, encoder)
    _wait(device, encoder, words, points)
    if arrived and (arrival := getattr(device.backend, "peer_arrival", None)) is not None:
        arrival(words)
    encoder.memory_barrier(words)
    return device._finish(timeline, encoder, words, what)


def _run(work: Sequence[tuple[Pair, list[Range]]]) -> None:
    fences = {device: device._fence() for (_, source), _ in work for device in (source.device,)}
    ready = {device: settle(device, "departure of a peer copy")
             for device in dict.fromkeys(to.device for (to, source), _ in work if to.device is not source.device)}
    arrivals: dict[Device, list[Point]] = {device: [] for device in ready}
    for device in fences:
        mine = [entry for entry in work if entry[0][1].device is device]
        receivers = {to.device for (to, _), _ in mine} - {device}
        for engine, commands in enumerate(_deal(mine, len(device._timelines["copy"]))):
            if not commands:
                continue
            timeline = device._timelines["copy"][engine]
            encoder = timeline.encoder
            timeline.turn()
            words: list[int] = []
            _wait(device, encoder, words, fences[device])
            _wait(device, encoder, words, [ready[other] for other in receivers])
            if device in ready:                         # it receives too: its own caches must be clean before as well
                _wait(device, encoder, words, [ready[device]])
            for to, origin, nbytes in commands:
                encoder.copy(words, to, origin, nbytes)
            total = sum(nbytes for _, _, nbytes in commands)
            point = device._finish(timeline, encoder, words, f"copies of {total} bytes to "
                                   + ", ".join(sorted(other.name for other in receivers or {device})))
            for other in receivers:
                arrivals[other].append(point)
    for device, points in arrivals.items():
        settle(device, "arrival of a peer copy", points, arrived=True)


def _deal(work: Sequence[tuple[Pair, list[Range]]], engines: int) -> list[list[tuple[int, int, int]]]:
    """(destination, source, bytes) for each engine, about the same number of bytes each."""
    commands = []
    for (_, source), ranges in work:
        at = source.address
        for to, nbytes in ranges:
            pieces = engines if nbytes >= _SPREAD else 1
            step = -(-nbytes // pieces // _PAGE) * _PAGE if pieces > 1 else nbytes
            commands += [(to + start, at + start, min(step, nbytes - start)) for start in range(0, nbytes, step)]
            at += nbytes
    dealt: list[list[tuple[int, int, int]]] = [[] for _ in range(engines)]
    load = [0] * engines
    for command in sorted(commands, key=lambda command: -command[2]):
        engine = load.index(min(load))
        dealt[engine].append(command)
        load[engine] += command[2]
    return dealt


def _through_host(destination: Buffer, source: Buffer) -> None:
    for start in range(0, source.nbytes, _STAGED):
        stop = min(start + _STAGED, source.nbytes)
        part = source[start:stop].copyout(np.empty(stop - start, np.uint8))
        destination[start:stop].copyin(part)
