"""A thousand boots and two hundred faults on the software card, and what is left of them: python -m tools.campaign

    python -m tools.campaign --docs             # the whole campaign; its table goes into docs/reliability.md
    python -m tools.campaign --boots 20 --faults 27

Each boot does work whose bytes are checked, and is shut down; every third card is left for the next boot to reset. Each
fault strikes in the middle of such work; then the process goes on, by ``recover()`` or, where the card does not come
back, by opening it again, and must find right bytes. What a process holds (VRAM, pages on the bus, memory, descriptors,
threads) is counted before and after.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import hcq
import mock
from amdrv.backend import AmBackend
from amdrv.device import Device
from amdrv.errors import AmdrvError
from amdrv.hal.mock import MockHal
from amdrv.ip import discovery, gfx, gmc, psp, sdma, smu

__all__ = ["Campaign", "FAULTS", "Holdings", "main"]

BEGIN, END = "<!-- tools.campaign -->\n", "<!-- end of tools.campaign -->\n"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
ITEMS = 1024
SETTLED = 10            # cycles before anything is counted, at least; where there are many, half of them: the process's
                        # allocator takes some two hundred to settle
COUNTED = 400           # cycles from which on a growth of resident memory says something
LEAK_BYTES = 1024       # of it a cycle, beside NOISE_BYTES
NOISE_BYTES = 2 << 20

LLVM_IR = """
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workitem.id.x()
declare i32 @llvm.amdgcn.workgroup.id.x()
define amdgpu_kernel void @add(ptr addrspace(1) %out, ptr addrspace(1) %a, i32 %k) #0 {
  %l = call i32 @llvm.amdgcn.workitem.id.x()
  %g = call i32 @llvm.amdgcn.workgroup.id.x()
  %s = shl i32 %g, 6
  %i = or i32 %s, %l
  %j = zext i32 %i to i64
  %p = getelementptr i32, ptr addrspace(1) %a, i64 %j
  %q = getelementptr i32, ptr addrspace(1) %out, i64 %j
  %x = load i32, ptr addrspace(1) %p
  %y = add i32 %x, %k
  store i32 %y, ptr addrspace(1) %q
  ret void
}
attributes #0 = { "amdgpu-no-implicitarg-ptr" "amdgpu-flat-work-group-size"="64,64" }
"""

# (what it is called in the table, the mock's kind, its settings); the last ones strike a boot
RUNNING: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("page fault", "page-fault", {"count": 1, "skip": 3, "client": 13}),
    ("bad PM4 packet", "bad-packet", {"count": 1, "queue": "compute 1.0.0"}),
    ("bad SDMA packet", "bad-packet", {"count": 1, "queue": "sdma 0.0"}),
    ("privileged register", "privileged-access", {"count": 1}),
    ("illegal instruction", "illegal-instruction", {"count": 1}),
    ("memory violation", "memory-violation", {"count": 1}),
    ("wave that never ends", "hung-wave", {"count": 1}),
    ("compute queue hangs", "queue-hang", {"count": 1, "queue": "compute 1.0.0"}),
    ("copy queue hangs", "queue-hang", {"count": 1, "queue": "sdma 0.0"}),
    ("doorbell lost", "doorbell-lost", {"count": 1}),
    ("interrupt lost", "lost-interrupt", {"count": 3}),
    ("interrupt late", "late-interrupt", {"count": 3, "seconds": 0.002}),
    ("interrupt from nowhere", "spurious-interrupt", {}),
    ("interrupt storm, ring overflows", "interrupt-storm", {"entries": 9000}),
    ("memory error, corrected", "ecc-error", {"address": 0x100}),
    ("memory error, uncorrectable", "ecc-error", {"address": 0x4000, "fatal": True}),
    ("queue that cannot be taken off", "dequeue-ignored", {"count": 1}),
    ("micro engine dead until reset", "mec-dead", {}),
    ("copy engine stuck until soft reset", "sdma-stuck", {"engine": 0}),
    ("copy engine dead until reset", "sdma-dead", {"engine": 0}),
    ("card off the bus", "card-lost", {}))
BOOTING: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("boot: firmware refused", "firmware-refused", {"firmware": "RS64_MEC", "count": 1}),
    ("boot: PSP command refused", "psp-status", {"status": 0xFFFF000A, "count": 1}),
    ("boot: PSP silent", "psp-silent", {}),
    ("boot: PSP's system does not come up", "psp-never-ready", {}),
    ("boot: SMU silent", "smu-silent", {}),
    ("boot: SMU refuses", "smu-wrong", {"message": 6, "result": 0xFD, "count": 1}))
FAULTS = RUNNING + BOOTING


@dataclass(frozen=True)
class Holdings:
    """What a process holds of the machine."""

    resident: int           # bytes; 0 where the system does not tell
    descriptors: int        # -1 likewise
    threads: int
    on_bus: int             # pieces of host memory that a card can reach
    vram: int = 0           # bytes of VRAM that a driver has given out

    @classmethod
    def now(cls, machine: mock.Machine, device: Device | None = None) -> Holdings:
        gc.collect()
        memory = device.memory if device is not None else None
        return cls(_resident(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else -1,
                   threading.active_count(), len(machine.bus.attached()), memory.allocated["vram"] if memory else 0)


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Outcome:
    """What became of all faults of a kind."""

    name: str
    injected: int = 0
    errors: int = 0             # the work ended with an error that says what happened
    harmless: int = 0           # it was absorbed: right bytes, no error
    by: Counter[str] = field(default_factory=Counter)       # what brought the card back
    wrong: int = 0              # wrong bytes and nobody said so, or a card that did not come back


@contextmanager
def software_card() -> Iterator[None]:
    """No pauses that only silicon needs."""
    kept = smu.RESET_TIME, psp.HANDSHAKE_DELAY
    smu.RESET_TIME = psp.HANDSHAKE_DELAY = 0
    try:
        yield
    finally:
        smu.RESET_TIME, psp.HANDSHAKE_DELAY = kept


@contextmanager
def impatient() -> Iterator[None]:
    """Short waits, for a card that is broken; a whole one gets its time, however busy this machine is."""
    kept: list[tuple[Any, str, float]] = []
    for module in (discovery, gfx, gmc, psp, sdma, smu):
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and name.endswith("_TIMEOUT"):
                kept.append((module, name, value))
                setattr(module, name, 0.3)
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


class Campaign:
    """:ivar problems: everything that should not have happened, as text."""

    def __init__(self, *, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.code = _code()
        self.problems: list[str] = []
        self.warm = 0
        self.outcomes = {name: Outcome(name) for name, _, _ in FAULTS}

    # -- boots -----------------------------------------------------------------------------------------------------

    def boots(self, count: int) -> tuple[Holdings, Holdings]:
        """Boot, work, shut down, so many times; what was held when it had settled, and at the end."""
        with mock.Machine([mock.Gpu(vram="128M")]) as machine, software_card():
            hal = MockHal(machine)
            start = Holdings.now(machine)
            for number in range(count):
                if number == min(max(SETTLED, count // 2), count - 1):
                    start = Holdings.now(machine)
                device = Device.open(hal)
                self.warm += device.warm
                with hcq.Device(AmBackend(device)) as dev:
                    self._work(dev, f"boot {number}")
                    if number % 3 == 2:
                        device.suspect = True           # nothing of it is to be built upon: the next boot resets
                self.problems += [f"boot {number}: {error}" for error in device.shutdown_errors]
                if left := machine.bus.attached():
                    self.problems.append(f"boot {number}: {len(left)} pieces of memory are still on the bus")
            end = Holdings.now(machine)
        self._compare("boots", start, end, count - max(SETTLED, count // 2))
        return start, end

    def _work(self, dev: hcq.Device, when: str) -> None:
        """Copies both ways and a kernel between; the bytes are checked."""
        program, a, b = dev.program(self.code, "add"), dev.alloc(4 * ITEMS), dev.alloc(4 * ITEMS)
        for k in range(2):
            values = self.random.integers(-1000, 1000, ITEMS).astype(np.int32)
            a.copyin(values)
            program(b, a, np.int32(k), grid=ITEMS // 64, block=64)
            if not np.array_equal(b.copyout(np.empty(ITEMS, np.int32)), values + k):
                self.problems.append(f"{when}: wrong bytes, and nobody said so")
                raise WrongBytes

    # -- faults ----------------------------------------------------------------------------------------------------

    def faults(self, count: int) -> tuple[Holdings, Holdings]:
        """So many faults, all kinds in turn, on one card in one process; holdings as for :meth:`boots`."""
        with mock.Machine([mock.Gpu(vram="128M")]) as machine, software_card():
            hal = MockHal(machine)
            dev = self._open(hal)
            start = Holdings.now(machine, _driver(dev))
            for number in range(count):
                if number == min(max(len(FAULTS), count // 2), count - 1):      # every kind has been met
                    start = self._settled(machine, dev)
                name, kind, settings = FAULTS[number % len(FAULTS)]
                dev = self._strike(hal, dev, self.outcomes[name], kind, settings)
            end = self._settled(machine, dev)
            dev.close()
            if left := machine.bus.attached():
                self.problems.append(f"faults: {len(left)} pieces of memory are still on the bus")
        self._compare("faults", start, end, max(count - max(len(FAULTS), count // 2), 1))
        return start, end

    def _open(self, hal: MockHal) -> hcq.Device:
        dev = hcq.Device(AmBackend(Device.open(hal)))
        self._work(dev, "after opening")
        return dev

    @staticmethod
    def _settled(machine: mock.Machine, dev: hcq.Device) -> Holdings:
        gc.collect()
        dev.synchronize()
        dev.trim()
        return Holdings.now(machine, _driver(dev))

    def _strike(self, hal: MockHal, dev: hcq.Device, outcome: Outcome, kind: str,
                settings: dict[str, Any]) -> hcq.Device:
        """One fault, and a device that works again."""
        faults = hal.machine.gpus[0].faults
        outcome.injected += 1
        booting = any(outcome.name == name for name, _, _ in BOOTING)
        if booting:
            _driver(dev).suspect = True             # the next boot is one from cold, which is what is to be disturbed
            dev.close()
        dev.timeout = 0.5
        faults.inject(kind, **settings)
        error: Exception | None = None
        try:
            if booting:
                with impatient():
                    dev = self._open(hal)
            else:
                if kind == "dequeue-ignored":       # by itself it does nothing
                    hcq.ComputeQueue(dev).wait(dev.signal(), 1).submit()
                self._work(dev, outcome.name)
        except WrongBytes:
            outcome.wrong += 1
        except (AmdrvError, hcq.HcqError) as caught:
            error = caught
        if error is None:
            outcome.harmless += 1
            faults.clear()
        else:
            outcome.errors += 1
            if len(str(error)) < 20:
                self.problems.append(f"{outcome.name}: the error says nothing: {error!r}")
            dev = self._bring_back(hal, dev, outcome, booting)
        dev.timeout = 30
        self._work(dev, f"after {outcome.name}")
        return dev

    def _bring_back(self, hal: MockHal, dev: hcq.Device, outcome: Outcome, booting: bool) -> hcq.Device:
        faults = hal.machine.gpus[0].faults
        if not booting:
            for kind in {kind for _, kind, _ in RUNNING} - {"mec-dead", "sdma-dead", "sdma-stuck", "dequeue-ignored",
                                                            "card-lost"}:
                faults.clear(kind)
            try:
                with impatient() if faults.active("card-lost") else nullcontext():
                    outcome.by[_highest_rung(dev.recover())] += 1
                return dev
            except AmdrvError:
                pass                # as good as closed: it is opened again
        faults.clear()
        dev.close()
        dev = self._open(hal)
        outcome.by["opened again"] += 1
        return dev

    # -- what is left ----------------------------------------------------------------------------------------------

    def _compare(self, what: str, start: Holdings, end: Holdings, cycles: int) -> None:
        for name in ("descriptors", "threads", "on_bus", "vram"):
            if getattr(end, name) > getattr(start, name):
                self.problems.append(f"{what}: {name} grew from {getattr(start, name)} to {getattr(end, name)}")
        if cycles >= COUNTED and end.resident - start.resident > NOISE_BYTES + LEAK_BYTES * cycles:
            self.problems.append(f"{what}: resident memory grew by {end.resident - start.resident:,} bytes in {cycles}")


class WrongBytes(Exception):
    pass


def _driver(dev: hcq.Device) -> Device:
    backend = dev.backend
    assert isinstance(backend, AmBackend)
    return backend.device


RUNGS = ("nothing to reset", "queue", "copy engine", "micro engine", "card")


def _highest_rung(text: str) -> str:
    """Of those that a recovery's text names."""
    found = RUNGS[0]
    for line in text.splitlines():
        if line.startswith("reset of "):
            rung = ("card" if line.startswith("reset of the whole card") else "micro engine" if "micro engine:" in line
                    else "copy engine" if line.startswith("reset of the engine of") else "queue")
            found = max(found, rung, key=RUNGS.index)
    return found


def _code() -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    code: bytes = target.emit_object(binding.parse_assembly(LLVM_IR))
    return code


# -- the report --------------------------------------------------------------------------------------------------------


def table(campaign: Campaign, boots: int, faults: int, held: Sequence[tuple[str, Holdings, Holdings]],
          seconds: float) -> str:
    """Markdown."""
    lines = [f"`python -m tools.campaign --docs`: {boots} boots, {campaign.warm} of them warm, and {faults} faults in "
             f"{seconds:.0f} s on the mock card; {os.cpu_count()} cores, {platform.machine()}, Python "
             f"{platform.python_version()}.", "",
             "| fault | injected | reported as an error | absorbed | brought back by | wrong bytes |",
             "|---|--:|--:|--:|---|--:|"]
    for each in campaign.outcomes.values():
        if each.injected:
            by = ", ".join(f"{what} {count}" for what, count in each.by.most_common())
            lines.append(f"| {each.name} | {each.injected} | {each.errors} | {each.harmless} | {by} | {each.wrong} |")
    lines += ["", "| held by the process | of | when settled | at the end |", "|---|---|--:|--:|"]
    for what, start, end in held:
        for name, text in (("resident", "resident memory, MiB"), ("descriptors", "file descriptors"),
                           ("threads", "threads"), ("on_bus", "pieces of memory on the bus"), ("vram", "VRAM, bytes")):
            first, last = getattr(start, name), getattr(end, name)
            if name == "resident":
                first, last = f"{first / 2**20:.1f}", f"{last / 2**20:.1f}"
            lines.append(f"| {text} | {what} | {first} | {last} |")
    lines += ["", "Nothing else was found." if not campaign.problems else "Found: " + "; ".join(campaign.problems)]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.campaign", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boots", type=int, default=1000, help="boot and shutdown cycles (default: 1000)")
    parser.add_argument("--faults", type=int, default=200, help="injected faults (default: 200)")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/reliability.md")
    parser.add_argument("--json", metavar="FILE", help="write what was found there")
    options = parser.parse_args(argv)
    if options.boots < 1 or options.faults < 1:
        parser.error("at least one boot and one fault")
    campaign, start = Campaign(), time.monotonic()
    held = [(f"{options.boots} boots", *campaign.boots(options.boots)),
            (f"{options.faults} faults", *campaign.faults(options.faults))]
    text = table(campaign, options.boots, options.faults, held, time.monotonic() - start)
    print(text, end="")
    if options.json:
        Path(options.json).write_text(json.dumps({
            "outcomes": {each.name: {"injected": each.injected, "errors": each.errors, "harmless": each.harmless,
                                     "wrong": each.wrong, "by": dict(each.by)} for each in campaign.outcomes.values()},
            "held": {what: [vars(first), vars(last)] for what, first, last in held},
            "warm": campaign.warm, "problems": campaign.problems}, indent=1) + "\n")
    if options.docs:
        page = DOCS.read_text()
        DOCS.write_text(page[:page.index(BEGIN) + len(BEGIN)] + text + page[page.index(END):])
    return 1 if campaign.problems else 0


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
