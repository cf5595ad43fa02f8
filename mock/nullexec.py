"""Null execution: engines that fetch packets and do only what others wait for, to measure what a host's side costs.

    with NullExecution(board) as null:          # from here on: launches do not run, copies move nothing
        ...
        with null.held():                       # doorbells are taken down, and nothing is fetched
            submit()                            # what this takes is the host's alone

Performed are waits on memory, fences and timestamps, interrupts, indirect buffers and the reports of read pointers;
every other packet is passed over. One thread serves all queues, polling for a moment after each doorbell as an engine
does. There are no rules, no faults and no caches here: it is no place to test a driver in.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from amdrv.facts import ih, pm4, sdma6
from mock.aql import PACKET_BYTES, SIGNAL_VALUE, VENDOR_BARRIER_VALUE, AqlExecutor, Packet
from mock.gmc import Client
from mock.hqd import AQL_WORDS
from mock.packets import Decoded, decode_pm4, decode_sdma
from mock.sdma_packets import compare

if TYPE_CHECKING:
    from mock.board import Board
    from mock.hqd import ComputeQueue
    from mock.sdma import SdmaQueue

__all__ = ["NullExecution"]

BAR_DOORBELLS = 2
POLL_SECONDS = 2e-3             # after the last doorbell; then the thread sleeps until the next one
IDLE_SECONDS = 10.0             # that entering waits for the engines
OP = {name: pm4.PACKETS[name].opcode for name in ("RELEASE_MEM", "WAIT_REG_MEM", "INDIRECT_BUFFER", "NOP")}
SYNCHRONISING = frozenset(OP[name] for name in ("RELEASE_MEM", "WAIT_REG_MEM", "INDIRECT_BUFFER"))
MEMORY = pm4.ENUMS["SPACE"]["MEMORY"]
DATA = pm4.ENUMS["RELEASE_DATA"]
INTERRUPTS = (pm4.ENUMS["RELEASE_INT"]["INTERRUPT_ONLY"], pm4.ENUMS["RELEASE_INT"]["INTERRUPT_AFTER_WRITE"])


class _Queue:
    """What both kinds share: words that are worked off, nested buffers, and a wait that holds them up."""

    def __init__(self, board: Board, vmid: int, client: int) -> None:
        self.board, self.vmid, self.client = board, vmid, client
        self.stack: list[list[Any]] = []        # [words, the next one's index]; the innermost buffer last
        self.blocked: Callable[[], bool] | None = None
        self.write = 0

    def words(self, address: int, count: int) -> list[int]:
        found: list[int] = self.board.memory.read_words("gc", self.vmid, address, count, client=self.client).tolist()
        return found

    def word(self, address: int) -> int:
        return int.from_bytes(self.board.memory.read("gc", self.vmid, address, 4, client=self.client), "little")

    def store(self, address: int, value: int, nbytes: int) -> None:
        self.board.memory.write("gc", self.vmid, address, value.to_bytes(nbytes, "little"), client=self.client)

    def fetch(self) -> list[int]:
        """What the ring has that was not read yet."""
        raise NotImplementedError

    def packet(self, words: list[int], at: int) -> int:
        """Perform one; its words."""
        raise NotImplementedError

    def report(self) -> None:
        """The read pointer, to where the driver looks for it."""
        raise NotImplementedError

    def advance(self) -> bool:
        """Work until the queue is empty or held up; whether anything was done."""
        if self.blocked is not None:
            if not self.blocked():
                return False
            self.blocked = None
        elif not self.stack:
            words = self.fetch()
            if not words:
                return False
            self.stack.append([words, 0])
        while self.stack and self.blocked is None:
            depth, frame = len(self.stack), self.stack[-1]
            words, at = frame
            while at < len(words) and len(self.stack) == depth and self.blocked is None:
                at += self.packet(words, at)        # may hold the queue up, or put a buffer on top
            frame[1] = at
            if len(self.stack) == depth and at >= len(words):
                self.stack.pop()
        if not self.stack or self.blocked is not None:
            self.report()
        return True

    def wait(self, packet: Decoded, function: str, value: str) -> None:
        address, mask, reference = packet["ADDRESS" if function == "FUNCTION" else "ADDR"] & ~3, packet["MASK"], \
            packet[value]

        def reached() -> bool:
            return compare(packet[function], self.word(address) & mask, reference)
        if not reached():
            self.blocked = reached


class _Compute(_Queue):
    def __init__(self, queue: ComputeQueue) -> None:
        super().__init__(queue.board, queue.vmid, Client.CPC)
        self.queue, self.base, self.size = queue, queue.base, queue.words

    def fetch(self) -> list[int]:
        queue = self.queue
        count, offset = self.write - queue.read, queue.read % self.size
        if count <= 0:
            return []
        first = min(count, self.size - offset)
        words = self.words(self.base + 4 * offset, first)
        if count > first:
            words += self.words(self.base, count - first)
        queue.read = self.write
        return words

    def report(self) -> None:
        self.queue.report_read()

    def packet(self, words: list[int], at: int) -> int:
        header = words[at]
        opcode, count = header >> 8 & 0xFF, header >> 16 & 0x3FFF
        if header >> 30 != pm4.TYPE3 or (opcode == OP["NOP"] and count == pm4.HEADER_ONLY_COUNT):
            return 1
        self.board.counters["pm4_packets"] += 1
        if opcode in SYNCHRONISING:
            packet = decode_pm4(words, at)
            if packet.name == "WAIT_REG_MEM":
                if packet["MEM_SPACE"] == MEMORY:
                    self.wait(packet, "FUNCTION", "REFERENCE")
            elif packet.name == "INDIRECT_BUFFER":
                self.stack.append([self.words(packet["IB_BASE"], packet["IB_SIZE"]), 0])
            else:
                self._release(packet)
        return count + 2

    def _release(self, packet: Decoded) -> None:
        data, address = packet["DATA_SEL"], packet["ADDRESS"]
        if data == DATA["LOW_32"]:
            self.store(address & ~3, packet["DATA_LO"], 4)
        elif data == DATA["DATA_64"]:
            self.store(address & ~7, packet["DATA"], 8)
        elif data in (DATA["GPU_CLOCK"], DATA["SYSTEM_CLOCK"]):
            self.store(address & ~7, self.board.clock(), 8)
        if packet["INT_SEL"] in INTERRUPTS:
            self.queue.interrupt(ih.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT, "TIME_STAMP_INT_ENABLE", packet["INT_CTXID"])


class _Aql(_Compute):
    """A queue of AQL packets: barriers are waited for, signals counted down, PM4 behind vendor packets is followed."""

    def __init__(self, queue: ComputeQueue) -> None:
        super().__init__(queue)
        self.aql = AqlExecutor(queue)
        self.queue.read = self.aql.number(self.aql.read_id)

    def fetch(self) -> list[int]:
        queue, slots = self.queue, self.size // AQL_WORDS
        count, at = self.write + 1 - queue.read, queue.read % slots         # the doorbell holds the last one's index
        if count <= 0:
            return []
        first = min(count, slots - at)
        words = self.words(self.base + PACKET_BYTES * at, first * AQL_WORDS)
        if count > first:
            words += self.words(self.base, (count - first) * AQL_WORDS)
        queue.read = self.write + 1
        return words

    def report(self) -> None:
        if not self.stack:
            self.store(self.aql.read_id, self.queue.read, 8)

    def packet(self, words: list[int], at: int) -> int:
        if len(self.stack) > 1:
            return super().packet(words, at)
        self.board.counters["aql_packets"] += 1
        data = struct.pack("<16I", *words[at:at + AQL_WORDS])
        packet = Packet.decode(0, data)
        if packet.name in ("BARRIER_AND", "BARRIER_OR"):
            signals = [handle for handle in struct.unpack_from("<5Q", data, 8) if handle]
            enough = all if packet.name == "BARRIER_AND" else any
            self._until(lambda: not signals or enough(self._value(handle) == 0 for handle in signals))
        elif packet.name == "VENDOR" and data[2] == VENDOR_BARRIER_VALUE:
            met = self.aql.barrier_value(packet)
            if met is not None:
                self._until(met)
        elif packet.name == "VENDOR":
            jump = decode_pm4(words, at + 1)
            self.stack.append([self.words(jump["IB_BASE"], jump["IB_SIZE"]), 0])
        if packet.completion:
            self.store(packet.completion + SIGNAL_VALUE, self._value(packet.completion) - 1 & (1 << 64) - 1, 8)
        return AQL_WORDS

    def _value(self, handle: int) -> int:
        return self.aql.number(handle + SIGNAL_VALUE)

    def _until(self, met: Callable[[], bool]) -> None:
        if not met():
            self.blocked = met


class _Copy(_Queue):
    def __init__(self, queue: SdmaQueue) -> None:
        super().__init__(queue.board, queue.vmid, queue.client)
        self.queue, self.base, self.size = queue, queue.base, queue.size

    def fetch(self) -> list[int]:
        queue = self.queue
        count, offset = self.write - queue.read, queue.read % self.size
        if count <= 0:
            return []
        first = min(count, self.size - offset)
        words = self.words(self.base + offset, first // 4)
        if count > first:
            words += self.words(self.base, (count - first) // 4)
        queue.read = self.write
        return words

    def report(self) -> None:
        self.queue.write_back()

    def packet(self, words: list[int], at: int) -> int:
        packet = decode_sdma(words, at)
        self.board.counters["sdma_packets"] += 1
        if packet.name == "FENCE":
            self.store(packet["ADDR"] & ~3, packet["DATA"], 4)
        elif packet.name == "POLL_REGMEM" and packet["MEM_POLL"] == sdma6.ENUMS["POLL_SPACE"]["MEMORY"]:
            self.wait(packet, "FUNC", "VALUE")
        elif packet.name == "TIMESTAMP_GET_GLOBAL":
            self.store(packet["WRITE_ADDR"], self.board.clock(), 8)
        elif packet.name == "TRAP":
            self.queue.interrupt(ih.GFX_11_0_0__SRCID__SDMA_TRAP, packet["INT_CONTEXT"])
        elif packet.name == "INDIRECT":
            self.stack.append([self.words(packet["IB_BASE"], packet["IB_SIZE"]), 0])
        return packet.length


class NullExecution:
    """A board in null execution, for as long as the context lasts."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._bells: dict[int, int] = {}            # byte offset in the doorbell BAR -> value, not looked at yet
        self._queues: dict[int, _Compute | _Copy] = {}
        self._wake = threading.Event()
        self._sleeping = self._held = self._stopped = False
        self._settled = threading.Lock()            # held while queues are worked on
        self._thread = threading.Thread(target=self._run, name="null execution", daemon=True)

    def __enter__(self) -> NullExecution:
        end = time.monotonic() + IDLE_SECONDS
        while self.board.engines.busy:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.board}: the engines are still busy after {IDLE_SECONDS:g} s")
            time.sleep(1e-3)
        write_bar = self.board.write_bar
        bells = self._bells

        def doorbells_first(index: int, offset: int, width: int, value: int) -> None:
            if index != BAR_DOORBELLS:
                write_bar(index, offset, width, value)
                return
            bells[offset] = value
            if self._sleeping:
                self._wake.set()
        self.board.write_bar = doorbells_first      # type: ignore[method-assign]
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        del self.board.write_bar
        self._stopped = True
        self._wake.set()
        self._thread.join()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is fetched inside; what was rung there is taken up after it."""
        self._held = True
        with self._settled:
            pass                        # the thread is at rest now
        try:
            yield
        finally:
            self._held = False
            self._wake.set()

    def _queue(self, offset: int) -> _Compute | _Copy | None:
        """By its doorbell."""
        if offset not in self._queues:
            if (compute := self.board.mec.by_doorbell(offset >> 2)) is not None:
                self._queues[offset] = _Aql(compute) if compute.aql else _Compute(compute)
            for copy in (queue for queues in self.board.sdma.queues for queue in queues):
                if copy.enabled and copy.field("DOORBELL", "ENABLE") \
                        and 4 * copy.field("DOORBELL_OFFSET", "OFFSET") == offset:
                    self._queues[offset] = _Copy(copy)
        return self._queues.get(offset)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stopped:
            if not self._held and self._turn():
                last = time.monotonic()
            elif time.monotonic() - last < POLL_SECONDS and not self._held:
                time.sleep(0)
            else:
                self._sleeping = True
                if self._held or not self._bells:
                    self._wake.wait(1e-3 if any(q.blocked for q in self._queues.values()) and not self._held else 0.05)
                self._sleeping = False
                self._wake.clear()

    def _turn(self) -> bool:
        """Look at every doorbell and every queue once; whether anything was done."""
        done = False
        with self._settled:
            if self._held:
                return False
            while self._bells:
                offset, value = self._bells.popitem()
                queue = self._queue(offset)
                if queue is not None:
                    queue.write = value
                    queue.queue.write = value + 1 if isinstance(queue, _Aql) else value
            for queue in list(self._queues.values()):
                done |= queue.advance()
        return done
