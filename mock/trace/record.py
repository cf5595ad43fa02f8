"""Recording. One msgpack array an event, appended to a buffered file: a few microseconds each.

The first array is the header. An event is ``[kind, time, card, ...]``; times are nanoseconds since the start, cards
numbers of the header's list. Kinds and what follows are in :data:`mock.trace.events.KINDS`. Reads that find the same
value in the same register, one after the other, are one event with a count: polling costs no space.

What runs on an engine is recorded by the engine's thread; the file's order is that of ends, a reader sorts by start.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mock.config_space import BAR_REGISTERS

if TYPE_CHECKING:
    from mock.board import Board
    from mock.hub import Hub

__all__ = ["FORMAT", "VERSION", "Trace", "from_environment"]

FORMAT, VERSION = "amdrv mock trace", 1
BUFFER = 256 << 10
RUNS = 16                       # stretches of the CPU's stores that are kept of one flush
TAIL = 32                       # words of a packet's tail that are kept
PSP_WORDS = 8                   # of a command to the PSP
_numbers: dict[str, itertools.count[int]] = {}      # of the machines of this process that write to a path


class Trace:
    """The recording of a machine's boards into a file, until :meth:`close`. :raises OSError: it cannot be made."""

    def __init__(self, path: str | os.PathLike[str], boards: Sequence[Board]) -> None:
        import msgpack
        self.path = os.fspath(path)
        self._file = open(self.path, "wb", buffering=BUFFER)    # noqa: SIM115 (closed by close)
        self._lock = threading.Lock()
        self._pack: Callable[[Any], bytes] = msgpack.Packer().pack
        self._start = time.perf_counter_ns()
        self._polls: dict[int, list[Any]] = {}                  # {card: the read that may go on}
        self._cards = {id(board): number for number, board in enumerate(boards)}
        self._flushes: dict[int, Callable[[Any], None]] = {}
        self._boards = list(boards)
        self._write({"format": FORMAT, "version": VERSION, "pid": os.getpid(), "started": time.time(),
                     "cards": [{"address": board.address, "arch": board.gpu.arch, "vram": board.vram.size}
                               for board in boards]})
        for board in boards:
            self._attach(board)

    # ---- writing

    def _write(self, record: Any) -> None:
        data = self._pack(record)
        if not self._file.closed:
            self._file.write(data)

    def now(self) -> int:
        """Nanoseconds since the trace began."""
        return time.perf_counter_ns() - self._start

    def event(self, kind: str, card: int, *rest: Any, at: int | None = None) -> None:
        """Append an event; ``at`` is its start when it was not just now."""
        at = self.now() if at is None else at
        with self._lock:
            if (poll := self._polls.pop(card, None)) is not None:
                self._write(poll)
            self._write([kind, at, card, *rest])

    def _read(self, card: int, dword: int, value: int, *engine: str) -> None:
        now = self.now()
        with self._lock:
            poll = self._polls.get(card)
            if poll is not None:
                if poll[3] == dword and poll[4] == value and poll[7:] == [*engine]:
                    poll[5] += 1
                    poll[6] = now
                    return
                self._write(poll)
            self._polls[card] = ["engine-read" if engine else "read", now, card, dword, value, 1, now, *engine]

    def close(self) -> None:
        """Take the hooks away and end the file. Idempotent."""
        for board in self._boards:
            if (hook := self._flushes.pop(id(board), None)) is not None:
                board.vram.on_flush.remove(hook)
            for holder in (board, board.vram, board.log, board.ih, getattr(board, "mes", None),
                           getattr(board, "psp", None), *board.memory.hubs.values()):
                for name in vars(holder).pop("_traced", ()) if holder is not None else ():
                    vars(holder).pop(name, None)
            board.trace = None
        self._boards.clear()
        with self._lock:
            for poll in self._polls.values():
                self._write(poll)
            self._polls.clear()
            self._file.close()

    # ---- hooks

    def _attach(self, board: Board) -> None:
        card = self._cards[id(board)]
        board.trace = self
        self._accesses(board, card)
        self._replace(board.log, "add", partial(self._note, board.log.add, card))
        self._replace(board.ih, "post", partial(self._interrupt, board.ih.post, card))
        self._replace(board, "raise_msi", partial(self._msi, board.raise_msi, card))
        self._replace(board.vram, "window", partial(self._window, board.vram.window, card))
        self._flushes[id(board)] = partial(self._stores, card)
        board.vram.on_flush.append(self._flushes[id(board)])
        self._replace(board, "hdp_flush", partial(self._timed, board.hdp_flush, "flush", card))
        self._replace(board, "reset_blocks", partial(self._timed, board.reset_blocks, "reset", card))
        mes = getattr(board, "mes", None)
        if mes is not None:
            self._replace(mes, "frame", partial(self._frame, mes.frame))
        psp = getattr(board, "psp", None)
        if psp is not None:
            self._replace(psp, "perform", partial(self._command, psp.perform, board))
        for hub in board.memory.hubs.values():
            self._replace(hub, "_walk_tables", partial(self._walk, hub._walk_tables, card, hub))
            self._replace(hub, "report", partial(self._fault, hub.report, card))

    @staticmethod
    def _replace(holder: Any, name: str, function: Callable[..., Any]) -> None:
        setattr(holder, name, function)
        holder._traced = (*getattr(holder, "_traced", ()), name)

    def _accesses(self, board: Board, card: int) -> None:
        read_bar, write_bar = board.read_bar, board.write_bar
        read_config, write_config = board.read_config, board.write_config

        def read(index: int, offset: int, width: int) -> int:
            value = read_bar(index, offset, width)
            if index == BAR_REGISTERS and width == 4:
                self._read(card, offset >> 2, value)
            else:
                self.event("bar-read", card, index, offset, width, value)
            return value

        def write(index: int, offset: int, width: int, value: int) -> None:
            at = self.now()         # what it sets off comes later
            if index == BAR_REGISTERS and width == 4:
                self.event("write", card, offset >> 2, value, at=at)
            else:
                self.event("bar-write", card, index, offset, width, value, at=at)
            write_bar(index, offset, width, value)

        def config_read(offset: int, width: int) -> int:
            value = read_config(offset, width)
            self.event("config-read", card, offset, width, value)
            return value

        def config_write(offset: int, width: int, value: int) -> None:
            self.event("config-write", card, offset, width, value)
            write_config(offset, width, value)

        read_dword, write_dword = board.read_dword, board.write_dword

        def engine_read(dword: int) -> int:
            value = read_dword(dword)
            self._read(card, dword, value, _engine(board))
            return value

        def engine_write(dword: int, value: int) -> None:
            self.event("engine-write", card, dword, value & 0xFFFFFFFF, _engine(board))
            write_dword(dword, value)

        hooks: dict[str, Callable[..., Any]] = {
            "read_bar": read, "write_bar": write, "read_config": config_read, "write_config": config_write,
            "read_dword": engine_read, "write_dword": engine_write}
        for name, function in hooks.items():
            self._replace(board, name, function)

    def packets(self, queue: Any, execute: Callable[..., int]) -> Callable[..., int]:
        """What an executor calls instead of its ``execute``, when its board is watched."""
        card, name = self._cards[id(queue.board)], queue.name

        def traced(packet: Any, vmid: int, *rest: Any) -> int:
            at, why = self.now(), ""
            try:
                return execute(packet, vmid, *rest)
            except BaseException as error:
                why = f"{type(error).__name__}: {error}"
                raise
            finally:
                position = rest[-1] if rest else 0
                fields = {key: value for key, value in packet.fields.items() if value} if packet.fields else {}
                tail = [int(word) for word in packet.tail[:TAIL]]
                self.event("packet", card, name, vmid, position, packet.name, fields, tail, len(packet.tail),
                           self.now() - at, why, at=at)
        return traced

    def aql(self, queue: Any, process: Callable[..., bool]) -> Callable[..., bool]:
        """The same for AQL packets, whose 64 bytes are kept as words."""
        def traced(packet: Any) -> bool:
            return bool(self._around(lambda: process(packet), queue.board, queue.name, queue.vmid, packet.number,
                                     f"AQL_{packet.name}", packet.data))
        return traced

    def _frame(self, process: Callable[..., Any], queue: Any, data: bytes) -> Any:
        """The same for frames of the scheduler."""
        from mock import mes_frames
        opcode = mes_frames.Header.from_buffer_copy(data).opcode
        name = next((name for name, number in mes_frames.OPCODES.items() if number == opcode), f"{opcode:#x}")
        return self._around(lambda: process(queue, data), queue.board, queue.name, 0, 0, f"MES_{name}", data)

    def _command(self, perform: Callable[[Any], int], board: Board, command: Any) -> int:
        """The same for commands of the PSP's ring; the words are those of the command itself."""
        from amdrv.facts import psp
        name = next((name.removeprefix("GFX_CMD_ID_") for name, number in psp.ENUMS["psp_gfx_cmd_id"].items()
                     if number == command.cmd_id), f"{command.cmd_id:#x}")
        at = type(command).cmd.offset
        return int(self._around(lambda: perform(command), board, "psp", 0, 0, f"PSP_{name}",
                                bytes(command)[at:at + 4 * PSP_WORDS]))

    def _around(self, work: Callable[[], Any], board: Board, engine: str, vmid: int, position: int, name: str,
                data: bytes) -> Any:
        at, why = self.now(), ""
        try:
            return work()
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
            raise
        finally:
            words = [int.from_bytes(data[i:i + 4], "little") for i in range(0, len(data), 4)]
            self.event("packet", self._cards[id(board)], engine, vmid, position, name, {}, words[:TAIL], len(words),
                       self.now() - at, why, at=at)

    def _walk(self, walk: Callable[..., Any], card: int, hub: Hub, context: Any, vmid: int, tlb: Any, wanted: Any,
              *rest: Any) -> Any:
        at, why = self.now(), ""
        try:
            return walk(context, vmid, tlb, wanted, *rest)
        except BaseException as error:
            why = str(error)
            raise
        finally:
            self.event("walk", card, hub.name, vmid, int(wanted[0]), len(wanted), self.now() - at, why, at=at)

    def _window(self, window: Callable[[int, int], memoryview], card: int, offset: int, size: int) -> memoryview:
        self.event("window", card, offset, size)
        return window(offset, size)

    def _stores(self, card: int, pages: Any) -> None:
        """A flush found what the CPU stored to these pages (int64[n], ascending)."""
        runs: list[list[int]] = []
        for page in pages.tolist():
            if runs and runs[-1][0] + runs[-1][1] == page << 12:
                runs[-1][1] += 1 << 12
            else:
                runs.append([page << 12, 1 << 12])
        self.event("stores", card, runs[:RUNS], len(pages))

    def _fault(self, report: Callable[..., Any], card: int, error: Any, **rest: Any) -> Any:
        self.event("fault", card, error.hub, error.vmid, error.address, bool(error.write), error.client, error.why)
        self._flush()
        return report(error, **rest)

    def _note(self, add: Callable[[str, str], Any], card: int, rule: str, text: str) -> Any:
        self.event("note", card, rule, text)
        return add(rule, text)

    def _interrupt(self, post: Callable[..., bool], card: int, client: int, source: int, **rest: Any) -> bool:
        at = self.now()
        done = post(client, source, **rest)
        self.event("interrupt", card, client, source, rest.get("ring_id", 0), rest.get("vmid", 0),
                   [int(word) for word in rest.get("data", ())], bool(done), at=at)
        return done

    def _msi(self, send: Callable[..., bool], card: int, vector: int = 0) -> bool:
        at = self.now()
        done = send(vector)
        self.event("msi", card, vector, bool(done), at=at)
        return done

    def _timed(self, function: Callable[..., Any], kind: str, card: int, *args: Any, **named: Any) -> Any:
        at = self.now()
        try:
            return function(*args, **named)
        finally:
            self.event(kind, card, self.now() - at, at=at)

    def _flush(self) -> None:
        """So that a program that dies next leaves its last words."""
        with self._lock:
            if not self._file.closed:
                self._file.flush()


def _engine(board: Board) -> str:
    """Whose thread this is."""
    return threading.current_thread().name.removeprefix(f"{board.address} ")


def from_environment(boards: Sequence[Board]) -> Trace | None:
    """The recording that ``AMDRV_MOCK_TRACE`` asks for, or None. A process's second machine writes to ``FILE.2``, and
    so on. :raises ValueError: the file cannot be made."""
    path = os.environ.get("AMDRV_MOCK_TRACE")
    if not path:
        return None
    number = next(_numbers.setdefault(path, itertools.count(1)))
    try:
        return Trace(path if number == 1 else f"{path}.{number}", boards)
    except OSError as error:
        raise ValueError(f"AMDRV_MOCK_TRACE={path!r}: the file cannot be written: {error.strerror or error}") from None
