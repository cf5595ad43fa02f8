"""What a launch, a replay, a copy and an allocation cost the host: python -m bench.hcq [--docs] [--json FILE]

The card is the mock's in null execution (``mock.nullexec``): its engines fetch packets and perform only waits, signals
and interrupts. For the host's cost they are held while it is measured, so that what is left of the mock is the store to
the doorbell. What counts is the processor time of the calling thread, the best of several rounds: the machine's other
work is not ours. The peer is tinygrad's HCQ from
PyPI, where it is installed, with its own AM driver on the same board in the same null execution, in a process of its
own in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

import hcq
import mock
from amdrv.backend import open_backend
from amdrv.hal.mock import MockHal
from bench import write_json, write_section
from mock.nullexec import NullExecution

__all__ = ["Row", "main", "measure"]

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- bench.hcq -->\n", "<!-- end of bench.hcq -->\n"
LLVM_IR = """
target triple = "amdgcn-amd-amdhsa"
define amdgpu_kernel void @k(ptr addrspace(1) %out, ptr addrspace(1) noalias readonly %a,
                             ptr addrspace(1) noalias readonly %b, float %x) #0 {
  %v = load float, ptr addrspace(1) %a
  %w = load float, ptr addrspace(1) %b
  %p = fmul float %v, %x
  %s = fadd float %p, %w
  store float %s, ptr addrspace(1) %out
  ret void
}
attributes #0 = { "amdgpu-no-implicitarg-ptr" "amdgpu-no-dispatch-ptr" "amdgpu-no-queue-ptr" "amdgpu-no-dispatch-id"
                  "amdgpu-no-workitem-id-x" "amdgpu-no-workitem-id-y" "amdgpu-no-workitem-id-z"
                  "amdgpu-no-workgroup-id-y" "amdgpu-no-workgroup-id-z" }
"""
KERNELS = 1000                  # of the graph
LIVE = 20_000                   # buffers that are there, where it is asked whether they cost anything
ARGUMENTS = 3                   # pointers of a kernel; one in ten of all is an input
PEER_TIMEOUT = 600


@dataclass
class Row:
    """One figure. ``limit`` is what the project asks for, ``peer`` tinygrad's figure of the same thing."""

    what: str
    ours: float
    unit: str
    limit: float | None = None
    peer: float | None = None
    note: str = ""

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"  (limit {self.limit:g})"
        peer = "" if self.peer is None else f"  tinygrad {self.peer:.2f}, {self.peer / self.ours:.1f} x"
        return f"{self.what:<58} {self.ours:9.3f} {self.unit}{limit}{peer}  {self.note}"


def compiled(source: str = LLVM_IR) -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    code: bytes = machine.emit_object(binding.parse_assembly(source))
    return code


class _Bench:
    def __init__(self, device: hcq.Device, null: NullExecution, rounds: int) -> None:
        self.dev, self.null, self.rounds = device, null, rounds
        self.program = device.program(compiled(), "k")
        self.buffers = [device.alloc(4096) for _ in range(64)]
        self.x = np.float32(2)

    def held(self, work: Callable[[], object], times: int) -> float:
        """Best seconds of this thread's processor time a call takes, the engines standing still."""
        best = float("inf")
        for _ in range(self.rounds):
            with self.null.held():
                start = time.thread_time()
                for _ in range(times):
                    work()
                best = min(best, (time.thread_time() - start) / times)
            self.dev.synchronize()
        return best

    def launch(self) -> None:
        out, a, b = self.buffers[:3]
        self.program(out, a, b, self.x, grid=(64,), block=(256,))

    def by_hand(self, make: type[hcq.ComputeQueue]) -> None:
        """The same as a queue's commands."""
        out, a, b = self.buffers[:3]
        make(self.dev).memory_barrier().exec(self.program, (out, a, b, self.x), (64,), (256,)).submit()

    def ring_doorbell(self) -> None:
        """A fence and a store to a doorbell, with the value that is there: on a card some tens of nanoseconds."""
        ring = self.dev.backend.device.compute_rings[0]         # type: ignore[attr-defined]
        ring._fence()
        ring._ring_doorbell(4 * ring.doorbell, ring.wptr)

    def trips(self, work: Callable[[], object], times: int) -> float:
        """Median seconds with the engines running."""
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return median(seconds)

    def round_trip(self) -> None:
        self.launch()
        self.dev.synchronize()

    def signal_trips(self, times: int) -> float:
        """The host signals an engine, and it the host."""
        there, back = self.dev.signal(), self.dev.signal()
        queue = hcq.ComputeQueue(self.dev)
        for value in range(1, times + 1):
            queue.wait(there, value).signal(back, value)
        queue.submit()
        value = 0

        def trip() -> None:
            nonlocal value
            value += 1
            there.value = value
            back.wait(value)
        return self.trips(trip, times)

    def graph(self, kernels: int, kind: Literal["compute", "aql"] = "compute") -> tuple[float, float, float, float]:
        """Seconds of recording; of a replay with one argument in ten changed, to one of two sets of buffers in turn; to
        buffers that no replay has had; with nothing changed."""
        buffers, every = self.buffers, 10
        start = time.perf_counter()
        with self.dev.graph(kind=kind) as g:
            for i in range(kernels):
                args = [buffers[(i + n) % 32] for n in range(ARGUMENTS)]
                for n in range(ARGUMENTS):
                    if (ARGUMENTS * i + n) % every == 0:
                        args[n] = g.input(f"x{ARGUMENTS * i + n}", args[n])
                self.program(*args, self.x, grid=(64,), block=(256,))
        recorded = time.perf_counter() - start
        names = list(g.inputs)
        spare = [self.dev.alloc(4096) for _ in names]
        changes = [dict(zip(names, spare[k:] + spare[:k], strict=True)) for k in range(2)]
        g.replay(**changes[0])
        g.replay()
        self.dev.synchronize()
        best = [float("inf")] * 3
        for turn in range(2 * self.rounds):
            new = {name: buffer[:] for name, buffer in zip(names, spare, strict=True)}
            for number, changed in enumerate((changes[turn % 2], new, {})):
                with self.null.held():
                    start = time.thread_time()
                    g.replay(**changed)
                    best[number] = min(best[number], time.thread_time() - start)
                self.dev.synchronize()
        return recorded, best[0], best[1], best[2]

    def allocation(self) -> None:
        self.dev.alloc(8192)


@contextmanager
def _opened(name: str, machine: mock.Machine) -> Iterator[hcq.Device]:
    """AM on the machine's card, or KFD on a simulated kernel that drives it."""
    if name == "AM":
        with hcq.Device(open_backend(hal=MockHal(machine))) as device:
            yield device
        return
    from amdrv.kfd.backend import open_backend as open_kfd
    from amdrv.kfd.process import connect
    from amdrv.kfd.simulated import SimulatedKernel
    kernel = SimulatedKernel(MockHal(machine))
    try:
        with hcq.Device(open_kfd(process=connect(kernel))) as device:
            yield device
    finally:
        kernel.shutdown()


def measure(rounds: int = 12, name: str = "AM") -> list[Row]:
    """Our figures. :param name: of the backend: "AM", "KFD"."""
    rows: list[Row] = []
    with mock.Machine([mock.Gpu("gfx1100", vram="512M")]) as machine, _opened(name, machine) as device, \
            NullExecution(machine.gpus[0]) as null:
        bench = _Bench(device, null, rounds)
        live = LIVE if name == "AM" else 1_000        # a simulated kernel takes milliseconds a buffer
        us = 1e6
        few, many = bench.held(bench.launch, 50), bench.held(bench.launch, 800)
        store = bench.held(bench.ring_doorbell, 800)
        rows.append(Row("launch: program(3 buffers, a scalar), grid, block", us * (many - store), "us", 5.0, None,
                        f"without {us * store:.2f} us of the mock's, for the fence and the doorbell's store"))
        keep = [device.alloc(4096) for _ in range(live)]
        crowded, crowded_alloc = bench.held(bench.launch, 400), bench.held(bench.allocation, 1000)
        del keep
        alloc = bench.held(bench.allocation, 1000)
        rows.append(Row("the same, 50 launches in a row over 800", few / many, "x", None, None, "linear: about 1"))
        rows.append(Row(f"the same, with {live:,} live buffers over none", crowded / many, "x", None, None, "about 1"))
        bench.graph(KERNELS)                # a rehearsal: the interpreter makes code faster that it has run often
        recorded, changed, unknown, same = bench.graph(KERNELS)
        rows.append(Row(f"graph of {KERNELS} kernels: replay, 10 % of arguments changed, a kernel",
                        us * changed / KERNELS, "us", 0.2, None, f"recorded in {1e3 * recorded:.0f} ms"))
        rows.append(Row("the same, to buffers that it has never had, a kernel", us * unknown / KERNELS, "us"))
        rows.append(Row("the same, nothing changed, a kernel", us * same / KERNELS, "us"))
        _, double, *_ = bench.graph(2 * KERNELS)
        rows.append(Row(f"a graph of {2 * KERNELS} over one of {KERNELS}, a kernel", double / changed / 2, "x", None,
                        None, "linear: about 1"))
        _, changed_aql, *_ = bench.graph(KERNELS, "aql")
        rows.append(Row("the graph on an AQL queue, 10 % of arguments changed, a kernel", us * changed_aql / KERNELS,
                        "us"))
        copy, source = device.alloc(1 << 20), device.alloc(1 << 20)
        rows.append(Row("copy queue: copy and submit, by hand",
                        us * bench.held(lambda: hcq.CopyQueue(device).copy(copy, source).submit(), 200), "us"))
        rows.append(Row("copy_from", us * bench.held(lambda: copy.copy_from(source), 200), "us"))
        # launches by hand, so that two languages are compared in one way
        for language, make in (("PM4", hcq.ComputeQueue), ("AQL", hcq.AqlQueue)):
            seconds = bench.held(lambda make=make: bench.by_hand(make), 100)      # type: ignore[misc]
            rows.append(Row(f"a launch by hand in {language}: barrier, exec, submit", us * (seconds - store), "us"))
        rows.append(Row("allocation from the cache, freed again", us * alloc, "us", 2.0))
        rows.append(Row(f"the same, with {live:,} live buffers over none", crowded_alloc / alloc, "x", None, None,
                        "about 1"))
        rows.append(Row("doorbell round trip: launch, synchronize (median)",
                        us * bench.trips(bench.round_trip, 40 * rounds), "us", 200.0))
        rows.append(Row("signal round trip: host, engine, host (median)", us * bench.signal_trips(20 * rounds), "us"))
    return rows


PEER = r"""
import json, os, sys, time
sys.path[:0] = [ROOT, ROOT + "/tests/mock"]
import numpy as np
import mock, tinygrad_adapter
from mock.nullexec import NullExecution
from tinygrad import Device, Tensor, TinyJit
from tinygrad.runtime.support import hcq
from tinygrad.runtime.graph import hcq as graphs
machine = mock.Machine([mock.Gpu("gfx1100", vram="512M")])
tinygrad_adapter.connect(machine)
calls, replays = [], []
program_call, graph_call = hcq.HCQProgram.__call__, graphs.HCQGraph.__call__
def seen(self, *bufs, **options):
    calls.append((self, bufs, options))
    return program_call(self, *bufs, **options)
def seen_graph(self, *args, **options):
    replays.append((self, args, options))
    return graph_call(self, *args, **options)
hcq.HCQProgram.__call__, graphs.HCQGraph.__call__ = seen, seen_graph
a, b = (Tensor(np.ones(64, np.float32), device="AMD").realize() for _ in range(2))
(a * 2 + b).realize()
device = Device["AMD"]
device.synchronize()
program, bufs, options = calls[-1]
KERNELS = 1000
@TinyJit
def step(*xs):
    outs = []
    for x in xs:
        y = x
        for _ in range(10):
            y = (y + b).contiguous()
        outs.append(y)
    return tuple(y.realize() for y in outs)
xs = [Tensor(np.ones(64, np.float32), device="AMD").realize() for _ in range(KERNELS // 10)]
found = {}
with NullExecution(machine.gpus[0]) as null:
    def best(work, times, rounds):
        shortest, board = 9e9, machine.gpus[0]
        for _ in range(rounds):
            with null.held():
                board.hdp_flush = lambda: None          # at every launch, in the mock's time
                start = time.thread_time()
                for _ in range(times):
                    work()
                shortest = min(shortest, (time.thread_time() - start) / times)
                del board.hdp_flush
            device.synchronize()
        return shortest
    options = {**options, "wait": False}
    found["launch"] = 1e6 * best(lambda: program_call(program, *bufs, **options), 200, ROUNDS)
    try:
        for _ in range(3):
            step(*xs)
            device.synchronize()
        replays.clear()
        step(*xs)
        device.synchronize()
        per = []
        for graph, args, options in replays:
            per.append((best(lambda: graph_call(graph, *args, **options), 1, ROUNDS), len(graph.calls)))
        if sum(n for _, n in per) >= KERNELS // 2:
            found["graph"] = 1e6 * sum(t for t, _ in per) / sum(n for _, n in per)
    except Exception as error:
        found["why"] = f"{type(error).__name__}: {error}"
print("FOUND" + json.dumps(found), flush=True)
os._exit(0)
"""


def peer(rounds: int) -> dict[str, float]:
    """tinygrad's figures in microseconds; empty where it is not installed, or another version."""
    from importlib import metadata
    try:
        version = metadata.version("tinygrad")
    except metadata.PackageNotFoundError:
        return {}
    adapter = ROOT / "tests" / "mock" / "tinygrad_adapter.py"
    if not version.startswith("0.14.") or not adapter.exists():
        return {}
    compiler = next((path for name in ("clang", "clang-19", "clang-18") if (path := shutil.which(name))), "clang")
    script = PEER.replace("ROOT", repr(str(ROOT))).replace("ROUNDS", str(rounds))
    environment = {**os.environ, "DEV": "AMD:LLVM", "CC": compiler, "JIT_BATCH_SIZE": "0", "AMD_AQL": "0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PEER_TIMEOUT,
                          cwd=ROOT, env=environment)
    for line in done.stdout.splitlines():
        if line.startswith("FOUND"):
            found: dict[str, float] = json.loads(line.removeprefix("FOUND"))
            return found
    print(f"tinygrad could not be measured: {done.stderr[-2000:]}", file=sys.stderr)
    return {}


def _with_peer(rows: list[Row], found: dict[str, float]) -> None:
    for row in rows:
        for key, begins in (("launch", "launch:"), ("graph", "graph of")):
            if row.what.startswith(begins) and key in found:
                row.peer = found[key]


def _write_docs(rows: list[Row], path: Path) -> None:
    table = ["| what | ours | wanted | tinygrad | times as fast | |", "|---|--:|--:|--:|--:|---|"]
    for row in rows:
        wanted = "" if row.limit is None else f"{row.limit:g}"
        other = "" if row.peer is None else f"{row.peer:.2f}"
        times = "" if row.peer is None else f"{row.peer / row.ours:.1f}"
        table.append(f"| {row.what} | {row.ours:.3f} {row.unit} | {wanted} | {other} | {times} | {row.note} |")
    about = (f"`python -m bench.hcq --docs`, {os.cpu_count()} cores, {platform.machine()}, Python "
             f"{platform.python_version()}. Processor time of the calling thread, on the mock in null execution: "
             "engines fetch packets and perform only waits, signals and interrupts, and stand still while the host's "
             "part is measured; the best round counts, of round trips the median of wall time. Load average at the "
             f"end: {os.getloadavg()[0]:.0f}; niceness: {os.nice(0)}. The peer is tinygrad's HCQ from PyPI with its "
             "own AM driver on the same board, in the same run.")
    part = BEGIN + "## Queues and graphs\n\n" + about + "\n\n" + "\n".join(table) + "\n" + END
    write_section(path, BEGIN, END, part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--device", choices=("AM", "KFD"), default="AM",
                        help="KFD: over the kernel's driver, simulated (default: AM)")
    parser.add_argument("--no-peer", action="store_true", help="without tinygrad")
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/performance.md, too")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too; - is the standard output")
    options = parser.parse_args()
    rounds = 3 if options.quick else 12
    rows = measure(rounds, options.device)
    if options.device == "KFD" and options.docs:
        parser.error("docs/performance.md has AM's figures")
    if not options.no_peer and options.device == "AM":
        _with_peer(rows, peer(rounds))
    for row in rows:
        print(row, flush=True)
    if options.json:
        write_json(options.json, [asdict(row) for row in rows])
    if options.docs:
        _write_docs(rows, ROOT / "docs" / "performance.md")


if __name__ == "__main__":
    from tools.piped import piped
    piped(main)()
