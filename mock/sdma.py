"""SDMA 6: two copy engines of eight queues each.

Facts: Linux 6.1, sdma_v6_0.c (sdma_v6_0_gfx_resume: what a queue needs; ring pointers count bytes and never wrap),
sdma_v6_0_0_pkt_open.h through :mod:`amdrv.facts.sdma6`; reset values of gc_11_0_0_default.h.

An engine fetches when its firmware is loaded and the autoload is complete, HALT and the thread resets of F32_CNTL are
off, it is not frozen, and for the queue RB_ENABLE is on and MINOR_PTR_UPDATE is 0. A doorbell says the new write
pointer; RB_WPTR does too. A write pointer that goes back is not believed unless MINOR_PTR_UPDATE is 1.

Each queue runs on a thread of its own, so that one that waits does not hold the others. A bad packet or a fault stops
the queue with CONTEXT_STATUS.EXCEPTION until RB_ENABLE goes off or the engine is reset.

Inert, performance only: UTCL1_CNTL, UTCL1_PAGE but for WR_L2_POLICY, WATCHDOG_CNTL, RLC_CGCG_CTRL,
SEM_WAIT_FAIL_TIMER_CNTL (0 means that semaphores wait forever), RPTR_WRITEBACK_TIMER, and the poll address of the write
pointer while WPTR_POLL_ENABLE is off.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from amdrv.facts import ih, mqd_v11
from mock.block import Block
from mock.engine import Aborted
from mock.faults import register
from mock.gmc import Client, Fault
from mock.packets import BadPacket, Decoded, Truncated, decode_sdma
from mock.sdma_packets import SdmaExecutor

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Sdma", "SdmaQueue", "Stopped", "ENGINES", "QUEUES"]

ENGINES, QUEUES = 2, 8
ALL_ONES = 0xFFFFFFFF
FIRMWARE = ("SDMA_UCODE_TH0", "SDMA_UCODE_TH1")       # names of GFX_FW_TYPE_*, as the PSP keeps them
FETCH_WORDS = 4096          # read at a time
SPIN_SECONDS = 1e-3         # a wait polls eagerly for so long, then sleeps between its looks
SLEEP_SECONDS = 50e-6


class Stopped(Exception):
    """The queue was disabled while it worked."""


class SdmaQueue:
    """One ring buffer. ``read`` and ``write`` are byte positions that never wrap."""

    def __init__(self, sdma: Sdma, engine: int, index: int) -> None:
        self.sdma, self.board, self.index, self.instance = sdma, sdma.board, index, engine
        self.prefix = f"SDMA{engine}_QUEUE{index}_"
        self.name = f"sdma {engine}.{index}"
        self.client = Client.SDMA0 if engine == 0 else Client.SDMA1
        self.engine = self.board.engine(self.name)
        self.lock = threading.Lock()
        self.read = self.write = 0
        self.posted = False
        self.stop_requested = False
        self.exception: str | None = None
        self.checks = 0                 # how often it found that it may go on
        self.left: tuple[int, int, int] | None = None
        """Where it stopped within an indirect buffer: (ring position of the packet, buffer, word)."""

    # ---- registers

    def field(self, name: str, field: str) -> int:
        return self.board.regs.field(self.prefix + name, field)

    def wide(self, low: str, high: str) -> int:
        regs = self.board.regs
        return regs[self.prefix + low] | regs[self.prefix + high] << 32

    @property
    def enabled(self) -> bool:
        return bool(self.field("RB_CNTL", "RB_ENABLE"))

    @property
    def vmid(self) -> int:
        return self.field("RB_CNTL", "RB_VMID")

    @property
    def size(self) -> int:
        """Bytes of the ring."""
        return 4 << self.field("RB_CNTL", "RB_SIZE")

    @property
    def base(self) -> int:
        return self.wide("RB_BASE", "RB_BASE_HI") << 8

    # ---- pointers

    def set_write(self, value: int, how: str) -> None:
        minor = self.field("MINOR_PTR_UPDATE", "ENABLE")
        if value < self.write and not minor:
            if self.enabled:
                self.board.note("sdma-wptr", f"{self.name}: {how} takes the write pointer back from {self.write:#x} to "
                                             f"{value:#x} without MINOR_PTR_UPDATE; ignored")
            return
        self.write = value
        regs = self.board.regs
        regs[self.prefix + "RB_WPTR"], regs[self.prefix + "RB_WPTR_HI"] = value & ALL_ONES, value >> 32
        self.kick()

    def set_read(self) -> None:
        self.read, self.left = self.wide("RB_RPTR", "RB_RPTR_HI"), None

    def kick(self) -> None:
        """Let the engine look at the queue."""
        self.attention = True
        if self.read == self.write or not self.runnable():
            return
        with self.lock:
            if self.posted:
                return
            self.posted = True
        self.engine.post(self._run)

    def runnable(self) -> bool:
        return (self.exception is None and self.enabled and not self.field("MINOR_PTR_UPDATE", "ENABLE")
                and self.sdma.running(self.instance))

    # ---- work, on the engine's thread

    def _run(self) -> None:
        try:
            self._work()
        except Stopped:
            pass
        finally:
            with self.lock:
                self.posted = False
        if self.read != self.write and self.runnable() and not self.engine.aborted and not self._stalled:
            self.kick()

    _stalled = False        # the rest is the first part of a packet

    def _work(self) -> None:
        self._stalled = False
        executor, wanted = SdmaExecutor(self), FETCH_WORDS
        while self.read != self.write and self.runnable():
            if self.write - self.read > self.size:
                self.stop(f"the write pointer {self.write:#x} is more than the ring's {self.size:#x} bytes ahead of "
                          f"the read pointer {self.read:#x}")
                return
            start, vmid = self.read, self.vmid
            try:
                self._check_shadow()
                words = self._fetch(wanted)
                wanted = FETCH_WORDS
                at = 0
                while at < len(words):
                    self.engine_check()
                    packet = decode_sdma(words, at)
                    self.board.counters["sdma_packets"] += 1
                    self.events["packets"] += 1
                    if self.board.faults.any:
                        self.injected(packet)
                    at += packet.length + executor.execute(packet, vmid, (start >> 2) + at)
                    self.read = min(start + 4 * at, self.write)
                    if self.attention:
                        self.attention = False
                        break
            except Truncated as error:
                wanted = max(FETCH_WORDS, error.need)
                if self.read == start and len(words) * 4 >= min(self.write - start, self.size):
                    self.board.note("sdma-truncated", f"{self.name}: the write pointer {self.write:#x} stands within a "
                                                      f"packet of {error.need} words")
                    self._stalled = True
                    break
            except BadPacket as error:
                self.interrupt(ih.GFX_11_0_0__SRCID__SDMA_QUEUE_HANG)
                self.stop(f"{error} at ring offset {self.read % self.size:#x}")
                break
            except Fault as error:
                if self.board.regs.field(f"SDMA{self.instance}_CNTL", "PAGE_FAULT_INT_ENABLE"):
                    self.interrupt(ih.GFX_11_0_0__SRCID__SDMA_PAGE_FAULT)
                self.stop(str(error))
                break
        self.write_back()

    def injected(self, packet: Decoded) -> None:
        """:raises BadPacket, Stopped: what was injected for this packet."""
        faults = self.board.faults
        faults.event("sdma-packet", queue=self.name, packet=packet.name)
        self.engine_check()
        if faults.strike("bad-packet", queue=self.name):
            raise BadPacket(packet.opcode, f"{packet}: garbled on its way, by an injected fault")
        if faults.strike("queue-hang", queue=self.name):
            self.stop("the engine stands still, by an injected fault")
            raise Stopped

    def _check_shadow(self) -> None:
        """With F32_WPTR_POLL_ENABLE the firmware also reads the write pointer in memory, which the driver keeps equal
        to what it rings (sdma_v6_0.c, sdma_v6_0_ring_set_wptr). :raises Fault:"""
        if not self.field("RB_CNTL", "F32_WPTR_POLL_ENABLE"):
            return
        address = self.wide("RB_WPTR_POLL_ADDR_LO", "RB_WPTR_POLL_ADDR_HI") & ~3
        rung = self.write       # as it is before memory is looked at: the driver may ring again meanwhile
        shadow = int.from_bytes(self.board.memory.read("gc", self.vmid, address, 8, client=self.client, poll=True),
                                "little")
        if shadow < rung:
            self.board.note("sdma-wptr-shadow", f"{self.name}: the write pointer {rung:#x} was rung, but at the "
                                                f"poll address {address:#x} it is {shadow:#x}")

    def _fetch(self, wanted: int) -> list[int]:
        """Words from the read pointer on: to the write pointer, at most ``wanted``."""
        size, base = self.size, self.base
        count = min((self.write - self.read) // 4, wanted)
        offset = self.read % size
        first = min(count, (size - offset) // 4)
        memory = self.board.memory
        words = memory.read_words("gc", self.vmid, base + offset, first, client=self.client).tolist()
        if count > first:
            words += memory.read_words("gc", self.vmid, base, count - first, client=self.client).tolist()
        return words

    attention = False
    """A register was written that may have stopped the queue."""

    def write_back(self) -> None:
        """The read pointer to its register, and to memory where the driver wants it."""
        regs = self.board.regs
        regs[self.prefix + "RB_RPTR"], regs[self.prefix + "RB_RPTR_HI"] = self.read & ALL_ONES, self.read >> 32
        if not self.field("RB_CNTL", "RPTR_WRITEBACK_ENABLE") or not self.enabled:
            return
        address = self.wide("RB_RPTR_ADDR_LO", "RB_RPTR_ADDR_HI") & ~3
        try:
            self.board.memory.write("gc", self.vmid, address, self.read.to_bytes(8, "little"), client=self.client)
        except Fault as error:
            self.stop(f"read pointer write-back: {error}")

    def engine_check(self) -> None:
        """Between packets and in waits. :raises Aborted, Stopped:"""
        if self.engine.aborted:
            raise Aborted
        if self.stop_requested or (self.attention and not self.sdma.running(self.instance)):
            raise Stopped
        self.checks += 1

    def wait(self, condition: Callable[[], bool], *, looks: int | None = None) -> bool:
        """Poll until true; at most ``looks`` times. False when those are used up."""
        self.write_back()
        start = time.monotonic()
        done = 0
        while not condition():
            done += 1
            if looks is not None and done >= looks:
                return False
            self.engine_check()
            time.sleep(0 if time.monotonic() - start < SPIN_SECONDS else SLEEP_SECONDS)
        self.board.time.join()
        return True

    @property
    def events(self) -> Counter[str]:
        """For the engine's performance counters."""
        events: Counter[str] = self.board.perf.copies[self.instance]
        return events

    def interrupt(self, source: int, context: int = 0) -> None:
        self.events["interrupts"] += 1
        self.board.ih.post(ih.SOC21_IH_CLIENTID_GFX, source, ring_id=self.instance << 4 | self.index, vmid=self.vmid,
                           data=(context, 0, 0, 0))

    def stop(self, why: str) -> None:
        """An exception: nothing more is fetched until the queue is disabled."""
        self.exception = why
        self.board.regs.set_fields(self.prefix + "CONTEXT_STATUS", EXCEPTION=1)
        self.board.note("sdma-hang", f"{self.name} stopped: {why}")

    def reset(self) -> None:
        self.read = self.write = 0
        self.exception = None
        self.stop_requested = False
        self.posted = False
        self.left = None


register("sdma-stuck", "a copy engine stands still and is never idle, until its soft reset", "engine")
register("sdma-dead", "a copy engine stands still and is never idle, until the card is reset", "engine")


class Sdma(Block):
    ip = "GC"
    reset_values: ClassVar[Mapping[str, int]] = MappingProxyType(       # gc_11_0_0_default.h
        {f"SDMA{e}_{name}": value for e in range(ENGINES) for name, value in (
            ("F32_CNTL", 0x08084001), ("CNTL", 0x00002440), ("UTCL1_CNTL", 0x2C000288), ("UTCL1_PAGE", 0x010CEC00))}
        | {f"SDMA{e}_QUEUE{q}_{name}": value for e in range(ENGINES) for q in range(QUEUES) for name, value in (
            ("RB_CNTL", 0x00040800), ("IB_CNTL", 0x00000100), ("CONTEXT_STATUS", 0x00000804), ("DUMMY_REG", 0xF),
            ("RB_AQL_CNTL", 0x00004000))})

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.queues = [[SdmaQueue(self, e, q) for q in range(QUEUES)] for e in range(ENGINES)]
        self.noted = [False] * ENGINES
        self.names = frozenset(board.regs.names.search("SDMA?_QUEUE?_*"))
        self.left: dict[int, tuple[int, int, int]] = {}
        """By MQD: where a queue that a scheduler took off goes on."""

    def running(self, engine: int) -> bool:
        """Does the engine's firmware run?"""
        f32 = self.board.regs.register("SDMA0_F32_CNTL")
        value = self.board.regs[f"SDMA{engine}_F32_CNTL"]
        if any(f32[field].get(value) for field in ("HALT", "TH0_RESET", "TH1_RESET")):
            return False
        if self.board.regs.field(f"SDMA{engine}_FREEZE", "FREEZE") or self._dead(engine):
            return False
        board_psp = self.board.psp
        ready = bool(board_psp.autoload_done) and all(kind in board_psp.loaded for kind in FIRMWARE)
        if not ready and not self.noted[engine]:
            self.noted[engine] = True
            self.board.note("sdma-firmware", f"sdma {engine} is not halted, but its firmware is not there: the PSP has "
                                             f"loaded types {sorted(board_psp.loaded)}; autoload done: "
                                             f"{board_psp.autoload_done}")
        return ready

    def _dead(self, engine: int) -> bool:
        """Does an injected fault keep the engine from doing anything?"""
        faults = self.board.faults
        return faults.any and any(faults.active(kind, engine=engine) for kind in ("sdma-stuck", "sdma-dead"))

    def doorbell(self, offset: int, value: int, width: int) -> None:
        """A doorbell that NBIO leads to SDMA; ``offset`` in bytes of BAR2, ``value`` the write pointer in bytes."""
        for queue in (queue for queues in self.queues for queue in queues):
            if queue.field("DOORBELL", "ENABLE") and 4 * queue.field("DOORBELL_OFFSET", "OFFSET") == offset:
                if width == 4:
                    self.board.note("doorbell-width", f"{queue.name}: a doorbell of 32 bits leaves the upper half of "
                                                      "the write pointer as it was")
                    value |= queue.write & ~ALL_ONES
                queue.events["doorbells"] += 1
                if not queue.enabled:
                    self.board.note("doorbell-unattached", f"{queue.name}: doorbell while RB_ENABLE is off; lost")
                    return
                queue.set_write(value, "a doorbell")
                return
        if not self.board.mes.rung(offset):
            self.board.note("doorbell-unattached", f"SDMA doorbell at byte {offset:#x}: no queue has it enabled")

    # ---- queues by MQD

    def map_queue(self, queue: SdmaQueue, address: int, vmid: int) -> None:
        """A scheduler connects a queue: v11_sdma_mqd into its registers (Linux 6.1, amdgpu_amdkfd_gfx_v11.c,
        hqd_sdma_load_v11; kfd_mqd_manager_v11.c, update_mqd_sdma). :raises Fault:"""
        regs, kind = self.board.regs, mqd_v11.v11_sdma_mqd
        mqd = kind.from_buffer_copy(self.board.memory.read("gc", 0, address, ctypes.sizeof(kind), client=Client.CPC))
        for field in (str(field) for field, *_ in kind._fields_):
            name = queue.prefix + field.upper().removeprefix("SDMAX_RLCX_")
            if field.startswith("sdmax_rlcx_") and name in self.names and not name.endswith(("RB_CNTL", "_STATUS")):
                regs[name] = getattr(mqd, field)
        # KFD's MQDs have neither bit (update_mqd_sdma): the firmware that loads them sets both, hqd_sdma_load_v11 the
        # first
        regs.set_fields(queue.prefix + "DOORBELL", ENABLE=1)
        regs.set_fields(queue.prefix + "IB_CNTL", IB_ENABLE=1)
        queue.set_read()
        queue.write = queue.wide("RB_WPTR", "RB_WPTR_HI")
        queue.left = self.left.pop(address, None)
        cntl = regs.register("SDMA0_QUEUE0_RB_CNTL")
        regs[queue.prefix + "RB_CNTL"] = cntl.replace(mqd.sdmax_rlcx_rb_cntl, RB_ENABLE=1, RB_VMID=vmid)
        self._rb_cntl(queue, 0)

    def unmap_queue(self, queue: SdmaQueue, address: int) -> None:
        """Off, and where it stopped into its MQD."""
        regs, kind = self.board.regs, mqd_v11.v11_sdma_mqd
        regs.set_fields(queue.prefix + "RB_CNTL", RB_ENABLE=0)
        self._rb_cntl(queue, 0)
        queue.engine.wait_idle()
        if queue.left is not None:
            self.left[address], queue.left = queue.left, None
        for low, value in (("sdmax_rlcx_rb_rptr", queue.read), ("sdmax_rlcx_rb_wptr", queue.write)):
            self.board.memory.write("gc", 0, address + getattr(kind, low).offset, value.to_bytes(8, "little"),
                                    client=Client.CPC)
        regs.set_fields(queue.prefix + "DOORBELL", ENABLE=0)

    # ---- registers

    def handlers(self) -> Iterator[tuple[str, str, Callable[..., int | None]]]:
        for e, queues in enumerate(self.queues):
            yield "write", f"SDMA{e}_F32_CNTL", _writer(self._f32, e)
            yield "write", f"SDMA{e}_FREEZE", _writer(self._freeze, e)
            yield "read", f"SDMA{e}_STATUS_REG", partial(self._status, e)
            yield "write", f"SDMA{e}_QUEUE_RESET_REQ", _writer(self._reset_queues, e)
            for queue in queues:
                p = queue.prefix
                for name in ("RB_RPTR", "RB_RPTR_HI"):
                    yield "write", p + name, _writer(self._rptr, queue)
                for name in ("RB_WPTR", "RB_WPTR_HI"):
                    yield "write", p + name, _writer(self._wptr, queue)
                yield "write", p + "RB_CNTL", _writer(self._rb_cntl, queue)
                yield "write", p + "MINOR_PTR_UPDATE", _writer(self._kick, queue)

    def _f32(self, engine: int, _value: int = 0) -> None:
        for queue in self.queues[engine]:
            queue.kick()

    def _freeze(self, engine: int, value: int) -> None:
        frozen = self.board.regs.register("SDMA0_FREEZE")["FREEZE"].get(value)
        self.board.regs.set_fields(f"SDMA{engine}_FREEZE", FROZEN=frozen)
        self._f32(engine)

    def _rb_cntl(self, queue: SdmaQueue, _value: int) -> None:
        queue.stop_requested = not queue.enabled
        if not queue.enabled:
            queue.exception = None
            self.board.regs.set_fields(queue.prefix + "CONTEXT_STATUS", EXCEPTION=0)
        queue.kick()

    def _kick(self, queue: SdmaQueue, _value: int) -> None:
        queue.kick()

    def _rptr(self, queue: SdmaQueue, _value: int) -> None:
        queue.set_read()

    def _wptr(self, queue: SdmaQueue, _value: int) -> None:
        queue.set_write(queue.wide("RB_WPTR", "RB_WPTR_HI"), "RB_WPTR")

    def _status(self, engine: int) -> int:
        """Idle bits, as sdma_v6_0_is_idle looks at them."""
        register = self.board.regs.register("SDMA0_STATUS_REG")
        busy = any(queue.posted for queue in self.queues[engine]) or self._dead(engine)
        return register.pack(IDLE=int(not busy), REG_IDLE=1, RB_EMPTY=int(not busy), RB_CMD_IDLE=int(not busy),
                             IB_CMD_IDLE=int(not busy), EX_IDLE=int(not busy), MC_WR_IDLE=1, MC_RD_IDLE=1, INT_IDLE=1)

    def _reset_queues(self, engine: int, value: int) -> None:
        """Queues by a mask, whatever they do; the bits go when it is done (Linux 7.3, mes_v11_0.c,
        mes_v11_0_reset_queue_mmio). The ring stays where its registers say, disabled."""
        for queue in self.queues[engine]:
            if value >> queue.index & 1:
                queue.engine.abort()
                self.board.regs.set_fields(queue.prefix + "RB_CNTL", RB_ENABLE=0)
                self.board.regs.set_fields(queue.prefix + "CONTEXT_STATUS", EXCEPTION=0)
                queue.reset()
                queue.set_read()
        self.board.regs[f"SDMA{engine}_QUEUE_RESET_REQ"] = 0

    def soft_reset(self, engine: int) -> None:
        """GRBM_SOFT_RESET: the engine's queues are gone, its registers back to their reset values."""
        for queue in self.queues[engine]:
            queue.engine.abort()
            queue.reset()
        self.board.regs.forget(f"SDMA{engine}_*")
        self.board.faults.clear("sdma-stuck")

    def reset(self) -> None:
        for kind in ("sdma-stuck", "sdma-dead"):
            self.board.faults.clear(kind)
        self.noted = [False] * ENGINES
        self.left.clear()
        for queues in self.queues:
            for queue in queues:
                queue.reset()

    @property
    def busy(self) -> bool:
        return any(queue.posted for queues in self.queues for queue in queues)



def _writer(method: Callable[[Any, int], None], about: Any) -> Callable[[int], None]:
    def write(value: int) -> None:
        method(about, value)
    return write
