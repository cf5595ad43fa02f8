"""A whole machine in a file, and back: for bug reports, and for tests that start from a booted card.

    mock.snapshot.save(machine, "booted.snapshot")
    machine = mock.snapshot.load("booted.snapshot")     # in another process, too
    machine.system[bus_address]                         # the host memory that was on the bus, at the same bus addresses
    python -m mock.snapshot booted.snapshot             # what is in it

What is kept: configuration space, registers, video memory, host memory on the bus, and everything that blocks, queues
and hubs know in plain values; log, counters and clock. Engines must be at rest: :func:`save` waits for them. Caches
and posted stores are not kept but written back first, and TLBs start empty: silicon may do that at any time. What a
test hung on the machine is its own: callbacks for interrupts, injected faults, recordings.

The file: a line that says what it is, then one zlib stream of msgpack records, :data:`VERSION` in the first. Memory is
sparse: pages that are as on a new card (poison), or zeros of the host, take no space.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mock.log import Note
from mock.machine import Gpu, Machine
from mock.registers import Selection
from mock.vram import PAGE, POISON

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["RestoredMachine", "SnapshotError", "VERSION", "load", "main", "save"]

MAGIC = b"amdrv mock snapshot\n"
VERSION = 1
RUN = 256                       # pages of one record
PERIOD = 32                     # pages after which poison repeats
TUPLE, SET, FROZENSET, DATACLASS = 1, 2, 3, 4
SKIPPED = frozenset({"bus_seen"})       # compared by identity
SCALARS = (bool, int, float, str, bytes, type(None))


class SnapshotError(ValueError):
    """A file that is no snapshot, or a machine that cannot be kept."""


class RestoredMachine(Machine):
    """What :func:`load` gives: a machine, and ``system``, {bus address: uint8[n]}: the memory that was on its bus."""

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        super().__init__(gpus)
        self.system: dict[int, np.ndarray] = {}


# ---- plain values

def _kept_classes() -> dict[str, type]:
    from mock.packets import Decoded
    from mock.ras import Channel
    return {"Channel": Channel, "Decoded": Decoded}


def _plain(value: Any) -> bool:
    if isinstance(value, SCALARS):
        return True
    if isinstance(value, (list, set, frozenset)) or type(value) is tuple:
        return all(map(_plain, value))
    if type(value) is dict:
        return all(_plain(key) and _plain(item) for key, item in value.items())
    if type(value).__name__ in _kept_classes():
        return all(_plain(getattr(value, f.name)) for f in dataclasses.fields(value))
    return False


def _packer() -> Any:
    import msgpack

    def more(value: Any) -> Any:
        if type(value) is tuple:
            return msgpack.ExtType(TUPLE, pack(list(value)))
        if isinstance(value, frozenset):
            return msgpack.ExtType(FROZENSET, pack(list(value)))
        if isinstance(value, set):
            return msgpack.ExtType(SET, pack(list(value)))
        if isinstance(value, int):              # enumerations
            return int(value)
        if type(value).__name__ in _kept_classes():
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return msgpack.ExtType(DATACLASS, pack([type(value).__name__, fields]))
        raise TypeError(f"{value!r} is no plain value")

    def pack(value: Any) -> bytes:
        return bytes(msgpack.packb(value, default=more, strict_types=True))
    return pack


def _more(code: int, data: bytes) -> Any:
    import msgpack
    inner = msgpack.unpackb(data, ext_hook=_more, strict_map_key=False)
    if code == DATACLASS:
        name, fields = inner
        return _kept_classes()[name](**fields)
    return {TUPLE: tuple, SET: set, FROZENSET: frozenset}[code](inner)


def _parts(board: Board) -> Iterator[tuple[str, Any]]:
    """(name, object) of all that has plain state."""
    for block in board.blocks:
        yield type(block).__name__, block
    for name, hub in board.memory.hubs.items():
        yield f"hub {name}", hub
    for queue in (*board.mec.queues.values(), *board.mec.others.values()):
        yield queue.name, queue
    for sdma in (queue for queues in board.sdma.queues for queue in queues):
        yield sdma.name, sdma


def _state(part: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in SKIPPED and _plain(value)}


# ---- saving

def _rest(machine: Machine, timeout: float) -> None:
    for board in machine.gpus:
        for engine in board.engines:
            if not engine.wait_idle(timeout):
                raise SnapshotError(f"{board.address}: engine {engine.name!r} still works after {timeout:g} s; a "
                                    "snapshot needs engines at rest (dequeue a queue that waits for memory first)")


def _settle(board: Board) -> None:
    """The CPU's posted stores and the caches' contents reach memory."""
    board.vram.flush()
    board.memory.gl2.write_back()
    board.memory.gl2.invalidate()
    board.memory.caches.invalidate_all()


def _board_state(board: Board) -> dict[str, Any]:
    regs, config = board.regs, board.config
    return {"config": bytes(config._bytes), "bar_sizes": dict(config._sizes), "registers": regs.store.tobytes(),
            "far": regs.far(), "banks": {(dword, bank): value for dword, bank, value in regs.banks()},
            "selection": tuple(regs.selection), "parts": {name: _state(part) for name, part in _parts(board)},
            "counters": dict(board.counters), "clock": board.clock(), "lost": board.lost,
            "notes": [tuple(note) for note in board.notes], "note_counts": dict(board.notes.counts)}


def _poison() -> np.ndarray:
    words = np.uint32(POISON) | (np.arange(PERIOD * PAGE // 4, dtype=np.uint32) << np.uint32(1) & np.uint32(0xFFFE))
    return words.view(np.uint64).reshape(PERIOD, -1)


def _vram_runs(board: Board) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of what is not as on a new card."""
    pages = board.vram.view.view(np.uint64).reshape(-1, PAGE // 8)
    stored = board.vram.stored_pages()
    fresh = _poison() if board.gpu.is_strict("poison") else np.zeros((PERIOD, PAGE // 8), np.uint64)
    for at in range(0, len(stored), RUN):
        numbers = stored[at:at + RUN]
        data = pages[numbers]
        kept = (data != fresh[numbers % PERIOD]).any(axis=1)
        numbers, data = numbers[kept], data[kept]
        for run in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            if len(run):
                yield int(numbers[run[0]]) * PAGE, data[run].tobytes()


def _system_runs(host: int, size: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of what is not zero."""
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
    for at in range(0, size, RUN * PAGE):
        data = memory[at:at + RUN * PAGE]
        used = np.flatnonzero(data.view(np.uint64).reshape(-1, PAGE // 8).any(axis=1))
        for run in np.split(used, np.flatnonzero(np.diff(used) != 1) + 1):
            if len(run):
                first, end = int(run[0]) * PAGE, (int(run[-1]) + 1) * PAGE
                yield at + first, data[first:end].tobytes()


def save(machine: Machine, path: Path | str, *, timeout: float = 10.0) -> Path:
    """Keep a machine. Its driver must not touch it meanwhile.

    :raises SnapshotError: an engine does not come to rest within ``timeout`` seconds; nothing was written.
    """
    _rest(machine, timeout)
    for board in machine.gpus:
        _settle(board)
    path, pack = Path(path), _packer()
    gpus = [{f.name: getattr(board.gpu, f.name) for f in dataclasses.fields(board.gpu)} for board in machine.gpus]
    compressor = zlib.compressobj(1)
    records = 0
    with path.open("wb") as file:
        file.write(MAGIC)

        def put(record: Any) -> None:
            nonlocal records
            records += 1
            file.write(compressor.compress(pack(record)))
        put({"version": VERSION, "gpus": gpus, "cards": [board.address for board in machine.gpus]})
        for board in machine.gpus:
            put(["board", _board_state(board)])
        for bus_address, host, size in machine.bus.attached():
            put(["memory", bus_address, size])
            for offset, data in _system_runs(host, size):
                put(["system", bus_address, offset, data])
        for number, board in enumerate(machine.gpus):
            for offset, data in _vram_runs(board):
                put(["vram", number, offset, data])
        put(["end", records])
        file.write(compressor.flush())
    return path


# ---- restoring

def _records(file: BinaryIO, name: str) -> Iterator[Any]:
    """:raises SnapshotError: whatever is wrong with the file."""
    import msgpack
    if file.read(len(MAGIC)) != MAGIC:
        raise SnapshotError(f"{name}: this is no snapshot of the mock machine (mock.snapshot.save writes one)")
    decompressor = zlib.decompressobj()
    unpacker = msgpack.Unpacker(ext_hook=_more, strict_map_key=False, max_buffer_size=1 << 30)
    count = 0
    try:
        while data := file.read(1 << 20):
            unpacker.feed(decompressor.decompress(data))
            for record in unpacker:
                if count == 0 and (not isinstance(record, dict) or record.get("version") != VERSION):
                    version = record.get("version") if isinstance(record, dict) else None
                    raise SnapshotError(f"{name}: a snapshot of version {version}; this program reads {VERSION}")
                if count and record[0] == "end":
                    if record[1] != count:
                        raise ValueError(f"{count} records of {record[1]}")
                    return
                yield record
                count += 1
    except SnapshotError:
        raise
    except (zlib.error, ValueError, TypeError, KeyError, IndexError, AttributeError, msgpack.UnpackException) as error:
        raise SnapshotError(f"{name}: damaged after {count} records: {error}") from None
    raise SnapshotError(f"{name}: cut off after {count} records")


def load(path: Path | str) -> RestoredMachine:
    """The machine of a file. :raises SnapshotError: it cannot be read, is no snapshot, or is damaged."""
    name = str(path)
    try:
        file = Path(path).open("rb")    # noqa: SIM115
    except OSError as error:
        raise SnapshotError(f"{name}: cannot be read: {error.strerror or error}") from None
    with file:
        records = _records(file, name)
        header = next(records)
        machine: RestoredMachine | None = None
        try:
            machine = RestoredMachine([Gpu(**gpu) for gpu in header["gpus"]])
            states = []
            for record in records:
                if record[0] == "board":
                    states.append(record[1])
                else:
                    _memory(machine, record)
            for board, state in zip(machine.gpus, states, strict=True):
                _restore(board, state)
        except SnapshotError:
            if machine is not None:
                machine.close()
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            if machine is not None:
                machine.close()
            raise SnapshotError(f"{name}: its contents do not fit this version of the mock: "
                                f"{type(error).__name__}: {error}") from None
    return machine


def _memory(machine: RestoredMachine, record: list[Any]) -> None:
    kind, *rest = record
    if kind == "memory":
        bus_address, size = rest
        raw = np.zeros(size + PAGE, np.uint8)
        start = -int(raw.ctypes.data) % PAGE
        view = machine.system[bus_address] = raw[start:start + size]
        machine.bus.attach(int(view.ctypes.data), size, at=bus_address)
        return
    where, offset, data = rest
    target = machine.system[where] if kind == "system" else machine.gpus[where].vram.view
    target[offset:offset + len(data)] = np.frombuffer(data, np.uint8)


def _restore(board: Board, state: dict[str, Any]) -> None:
    config = board.config
    config._bytes[:] = state["config"]
    config._sizes = dict(state["bar_sizes"])
    config._size_bars()
    board.regs.load_state(state["registers"], state["far"], state["banks"], Selection(*state["selection"]))
    parts = dict(_parts(board))
    for name, values in state["parts"].items():
        vars(parts[name]).update(values)
    for hub in board.memory.hubs.values():
        hub.config = None
    board.memory.tables.roots_changed = True
    for block in board.blocks:
        block.restored()
    config._decode()
    board.memory.tables.count()
    board.counters.clear()
    board.counters.update(state["counters"])
    board.notes.load([Note(*note) for note in state["notes"]], Counter(state["note_counts"]))
    board.time.set_ticks(state["clock"])
    board.lost = state["lost"]


# ---- the command

def main(argv: Sequence[str] | None = None) -> int:
    """``python -m mock.snapshot FILE``: print what a snapshot holds. Exit status: 0, or 2 when it cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m mock.snapshot",
                                     description="Tell what a snapshot of a mock machine holds.")
    parser.add_argument("file")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args(argv)
    try:
        machine = load(options.file)
        with machine:
            found = {"file": options.file, "version": VERSION, "cards": [_describe(board) for board in machine.gpus],
                     "system_bytes": system_bytes(machine)}
    except SnapshotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{options.file}: {len(found['cards'])} cards, {found['system_bytes'] >> 10} KiB of host memory on the bus")
    for card in found["cards"]:
        print(f"\n{card['address']} {card['arch']}, {card['vram'] >> 20} MiB, clock {card['clock']}")
        for queue, what in card["queues"].items():
            print(f"  {queue}: {what}")
        print(*(f"  {count:>8} {name}" for name, count in sorted(card["counters"].items())), sep="\n")
        print(*(f"  note {note}" for note in card["notes"]), sep="\n")
    return 0


def system_bytes(machine: RestoredMachine) -> int:
    """Of host memory on the bus."""
    return sum(len(view) for view in machine.system.values())


def _describe(board: Board) -> dict[str, Any]:
    queues = {queue.name: queue.hung or f"read {queue.read:#x}, write {queue.write:#x}, VMID {queue.vmid}"
              for queue in board.mec.queues.values() if queue.active}
    queues |= {queue.name: queue.exception or f"read {queue.read:#x}, write {queue.write:#x}, VMID {queue.vmid}"
               for row in board.sdma.queues for queue in row if queue.enabled}
    return {"address": board.address, "arch": board.gpu.arch, "vram": board.vram.size, "clock": board.clock(),
            "queues": queues, "counters": dict(board.counters), "notes": [str(note) for note in board.notes][-20:]}


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
