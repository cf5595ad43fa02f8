"""One fence, flush, invalidation or cache operation of the driver left out, wherever it is asked for, and work after.

A :class:`Step` is a call from one place (``fence`` in ``Hdp.flush``, a TLB flush in ``Memory._free``, a memory barrier
of hcq) or one field of a packet (``ACQUIRE_MEM.GL2_INV``). :func:`everything` boots and works with a step left out;
strict memory of the mock then has old bytes somewhere, or its log says what was missing.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import numpy as np
from mutation import Wrong, fast_waits
from strict_card import CONSTANT, LANES, code_object

import hcq
import mock
from amdrv import pm4, sdma
from amdrv.backend import AmBackend, ComputeEncoder
from amdrv.device import Device
from amdrv.errors import AmdrvError, GpuFault
from amdrv.hal import Hal
from amdrv.hal import mock as mock_hal
from amdrv.hal.mock import MockHal
from amdrv.ip.gmc import Gmc, Hub
from amdrv.ip.hdp import Hdp
from amdrv.wait import wait_until

__all__ = ["Step", "everything", "noticed", "steps"]

CALLS: tuple[tuple[str, Any, str], ...] = (
    ("fence", mock_hal._Device, "fence"), ("hdp flush", Hdp, "flush"), ("tlb flush", Gmc, "flush_tlb"),
    ("hub flush", Hub, "flush_tlb"), ("memory barrier", ComputeEncoder, "memory_barrier"))
FIELDS = {"ACQUIRE_MEM": ("GLI_INV", "GLK_INV", "GLV_INV", "GL1_INV", "GLM_INV", "GLM_WB", "GL2_INV", "GL2_WB"),
          "RELEASE_MEM": ("GL2_WB", "GL2_INV", "GL2_US", "GL1_INV", "GLV_INV", "GLM_INV", "GLM_WB", "SEQ",
                          "CACHE_POLICY"),
          "FENCE": ("MTYPE",), "EVENT_WRITE": ("",)}
"""Packets of the encoders and what of them concerns caches and order; "" is the packet as a whole."""
ENCODERS = ("amdrv.pm4.encoder", "amdrv.sdma.encoder")
GL2_INV_WB = 1 << 14 | 1 << 15      # of GCR_CNTL (Linux 6.1, sdma_v6_0.c, sdma_v6_0_ring_emit_mem_sync)


class Step(NamedTuple):
    what: str       # "fence", "hdp flush", ..., or a packet's name
    where: str      # the function that asks for it, or the packet's field

    def __str__(self) -> str:
        kinds = {kind for kind, *_ in CALLS}
        return f"{self.what} in {self.where}" if self.what in kinds else f"{self.what}.{self.where}".rstrip(".")


def _caller(depth: int = 2) -> str:
    """Qualified name of the function that made the call, and the line in it: it may make several."""
    frame = sys._getframe(depth)
    while frame.f_code.co_name.startswith("<"):
        frame = cast(Any, frame.f_back)
    return frame.f_code.co_qualname + f":{frame.f_lineno - frame.f_code.co_firstlineno}"


@contextmanager
def watched(lost: Step | None, seen: dict[Step, None]) -> Iterator[None]:
    """Every call and field that is a step is noted in ``seen``, and the lost one is not made."""
    def wrap(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            step = Step(kind, _caller())
            seen[step] = None
            return None if step == lost else original(*args, **named)
        return call

    def build(module: Any) -> Callable[..., Any]:
        original = module.build

        def call(name: str, **fields: Any) -> Any:
            if sys._getframe(1).f_globals["__name__"] in ENCODERS:
                for field in FIELDS.get(name, ()):
                    if field and field not in fields:
                        continue
                    step = Step(name, field)
                    seen[step] = None
                    if step == lost:
                        if not field:
                            return []
                        del fields[field]
            return original(name, **fields)
        return call
    with ExitStack() as stack:
        for kind, cls, name in CALLS:
            stack.enter_context(patch.object(cls, name, wrap(kind, getattr(cls, name))))
        for module in (pm4, sdma):
            stack.enter_context(patch.object(module, "build", build(module)))
        yield


# ---- work

def _check(found: Any, wanted: Any, what: str) -> None:
    if not np.array_equal(found, wanted):
        raise Wrong(f"{what}: {np.asarray(found).ravel()[:4]} instead of {np.asarray(wanted).ravel()[:4]}")


def _ints(value: int) -> np.ndarray:
    return np.full(LANES, value, np.uint32)


class _Work:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.backend = AmBackend(device)
        self.dev = hcq.Device(self.backend)
        self.dev.timeout = 2.0
        self.programs = {name: self.dev.program(code_object(), name) for name in ("vector", "scalar", "constant")}
        self.fence, self.number = device.alloc(4096, kind="system"), 0
        assert self.fence.view is not None
        self.word = self.fence.view[:4].view(np.uint32)
        self.word[0] = 0

    def launch(self, name: str, out: hcq.Buffer, source: hcq.Buffer) -> None:
        self.programs[name](out, source, grid=1, block=LANES)

    def copies_between_launches(self) -> None:
        """Each kind of load sees what the copy engine brought since the launch before."""
        source, out = self.dev.alloc(4096), self.dev.alloc(4096)
        for value in (1, 2, 3):
            source.copyin(_ints(value))
            for name in ("vector", "scalar"):
                self.launch(name, out, source)
                _check(out.copyout()[:4 * LANES].view(np.uint32), _ints(value), f"{name} loads after a copy")

    def one_submission(self) -> None:
        """Kernels of one submission, each with what the one before it stored."""
        source, out, again = (self.dev.alloc(4096) for _ in range(3))
        source.copyin(_ints(5))
        self.dev.synchronize()                  # a queue filled by hand waits for what it is told to, no more
        queue = hcq.ComputeQueue(self.dev)
        for program, args in ((self.programs["vector"], (out, source)), (self.programs["constant"], (source, out)),
                              (self.programs["vector"], (again, source))):
            queue.memory_barrier().exec(program, args, 1, LANES)
        queue.submit()
        self.dev.synchronize()
        _check(again.copyout()[:4 * LANES].view(np.uint32), _ints(CONSTANT), "a kernel after a kernel")

    def graph(self) -> None:
        source, out, again = (self.dev.alloc(4096) for _ in range(3))
        with self.dev.graph() as graph:
            self.launch("vector", out, source)
            self.launch("constant", source, out)
            self.launch("vector", again, source)
        for value in (7, 8):
            source.copyin(_ints(value))
            graph.replay()
            self.dev.synchronize()
            _check(out.copyout()[:4 * LANES].view(np.uint32), _ints(value), "a graph's first kernel")
            _check(again.copyout()[:4 * LANES].view(np.uint32), _ints(CONSTANT), "a graph's last kernel")

    def new_code(self) -> None:
        """Code is replaced where it stands, after both engines had been at that memory."""
        out, host = self.dev.alloc(4096), self.device.alloc(4096, kind="system")
        entry = self.programs["constant"].kernel.entry
        before = CONSTANT
        for value in (11, 22, CONSTANT):
            self.launch("constant", out, out)
            self.dev.synchronize()
            self.run_copies(sdma.build("COPY_LINEAR", COUNT=255, SRC_ADDR=entry, DST_ADDR=host.address))
            assert host.view is not None
            literal = host.view[:256].tobytes().index(before.to_bytes(4, "little"))
            before = value
            self.backend.upload(entry + literal, np.frombuffer(value.to_bytes(4, "little"), np.uint8))
            self.launch("constant", out, out)
            _check(out.copyout()[:4 * LANES].view(np.uint32), _ints(value), "new code")
        self.device.free(host)

    def programs_come_and_go(self) -> None:
        """The first submission of a program by hand needs its barrier: other code ran in that memory."""
        out = self.dev.alloc(4096)
        for value in (33, 44, 55):
            code = code_object().replace(CONSTANT.to_bytes(4, "little"), value.to_bytes(4, "little"))
            program = self.dev.program(code, "constant")
            hcq.ComputeQueue(self.dev).exec(program, (out, out), 1, LANES).submit()
            self.dev.synchronize()
            _check(out.copyout()[:4 * LANES].view(np.uint32), _ints(value), "a program where another one was")
            del program
            gc.collect()

    def run_copies(self, words: list[int]) -> None:
        """Packets on the copy engine, past hcq, to their end. Nothing is allocated meanwhile: that would flush."""
        self.number += 1
        self.device.sdma_rings[0].submit(np.array(
            [*words, *sdma.build("FENCE", MTYPE="UC", ADDR=self.fence.address, DATA=self.number)], np.uint32))
        wait_until(lambda: int(self.word[0]) == self.number, 5, "a fence")

    def the_cpus_view(self) -> None:
        """The CPU looks at video memory itself, when a kernel's signal has come."""
        out, signal = self.device.alloc(4096), self.device.alloc(4096, kind="system")
        assert out.view is not None and signal.view is not None
        out.view[:] = 1
        self.device.flush_hdp()
        word = signal.view[:4].view(np.uint32)
        word[0] = 0
        kernarg = self.device.alloc(4096, kind="system")
        assert kernarg.view is not None
        kernarg.view[:16].view(np.uint64)[:] = out.address, out.address
        words: list[int] = []
        self.backend.compute.memory_barrier(words)
        self.backend.compute.exec(words, self.programs["constant"].kernel, kernarg.address, (1, 1, 1), (LANES, 1, 1))
        self.backend.compute.signal(words, signal.address, 1)
        self.device.compute_rings[0].submit(np.array(words, np.uint32))
        wait_until(lambda: int(word[0]) == 1, 5, "a kernel's signal")
        _check(out.view[:4 * LANES].view(np.uint32), _ints(CONSTANT), "the CPU's view of a kernel's result")
        out.view[:] = 9                 # GL2 must not hold it any more: the copy engine reads through it
        self.device.flush_hdp()
        self.run_copies(sdma.build("COPY_LINEAR", COUNT=4095, SRC_ADDR=out.address, DST_ADDR=signal.address))
        _check(signal.view, np.full(4096, 9), "the CPU's stores where a kernel's were")
        for each in (out, signal, kernarg):
            self.device.free(each)

    def the_cpus_stores(self) -> None:
        """The copy engine reads what the CPU stored to several pages of video memory."""
        vram, host = self.device.alloc(16384), self.device.alloc(16384, kind="system")
        assert vram.view is not None and host.view is not None
        vram.view.view(np.uint32)[:] = np.arange(4096)
        self.device.flush_hdp()
        self.run_copies([*sdma.build("GCR_REQ", BASE_VA=0, LIMIT_VA=0, GCR_CONTROL=GL2_INV_WB, VMID=0),
                         *sdma.build("COPY_LINEAR", COUNT=16383, SRC_ADDR=vram.address, DST_ADDR=host.address)])
        _check(host.view.view(np.uint32), np.arange(4096), "the CPU's stores")
        for each in (vram, host):
            self.device.free(each)

    def remapping(self) -> None:
        """Memory comes and goes behind the same addresses."""
        back = self.device.alloc(4096, kind="system")
        assert back.view is not None
        for value in (1, 2, 3):
            held = self.device.alloc(4096, kind="system")
            assert held.view is not None
            held.view[:] = value
            self.run_copies(sdma.build("COPY_LINEAR", COUNT=4095, SRC_ADDR=held.address, DST_ADDR=back.address))
            _check(back.view, np.full(4096, value), "a copy after remapping")
            self.device.free(held)

    def use_after_free(self) -> None:
        """The last work: the copy engine's queue does not go on after it."""
        gone, back = self.device.alloc(4096), self.device.alloc(4096, kind="system")
        self.run_copies(sdma.build("COPY_LINEAR", COUNT=4095, SRC_ADDR=gone.address, DST_ADDR=back.address))
        self.device.free(gone)
        self.device.sdma_rings[0].submit(np.array(sdma.build(
            "COPY_LINEAR", COUNT=4095, SRC_ADDR=gone.address, DST_ADDR=back.address), np.uint32))

        def reported() -> bool:
            self.device.check()
            return False
        with suppress(GpuFault):
            wait_until(reported, 5, "the fault of memory that was freed")


def everything(lost: Step | None = None, seen: dict[Step, None] | None = None) -> None:
    """:raises Exception: what went wrong."""
    seen = {} if seen is None else seen
    with mock.Machine(gpus=[mock.Gpu("gfx1100", vram="128M")]) as machine, watched(lost, seen), \
            Device.open(cast(Hal, MockHal(machine))) as device:
        work = _Work(device)
        for part in (work.programs_come_and_go, work.new_code, work.copies_between_launches, work.one_submission,
                     work.graph, work.the_cpus_view, work.the_cpus_stores, work.remapping,
                     work.copies_between_launches):
            part()
        device.check()
        for note in machine.gpus[0].notes:
            raise Wrong(f"the card's log: {note.rule}: {note.text}")
        work.use_after_free()


def steps() -> list[Step]:
    """Every step that the work takes."""
    seen: dict[Step, None] = {}
    everything(seen=seen)
    return [step for step in seen if not step.where.startswith("_Work.")]


def noticed(lost: Step | None) -> str:
    """What went wrong without this step; empty when nothing did."""
    try:
        with fast_waits():
            everything(lost)
    except (AmdrvError, hcq.HcqError, Wrong, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
