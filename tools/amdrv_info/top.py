"""``top``: what a card is doing, look after look.

Engines' busy time is sampled: status registers are read some twenty times an interval (gc_11_0_0: GRBM_STATUS,
GRBM_STATUS2, SDMAn_STATUS_REG). Of a card that amdgpu drives its own counters are taken, and those of each process
(fdinfo); its registers are left alone.
"""

from __future__ import annotations

import csv
import json
import os
import runpy
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from rich.live import Live as Screen

from amdrv.errors import AmdrvError
from amdrv.hal import PciFunction
from amdrv.hal.looking import driven_by
from tools.amdrv_info import card, kernel, screens, sensors, space, views
from tools.amdrv_info.doctor import Host
from tools.amdrv_info.source import Live, live, looking_hal, of_device

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["driven_device", "flat", "kernel_once", "open_devices", "run", "run_program", "sample_once"]

READINGS = 20                   # of the status registers an interval
LONGEST_STEP = 0.05             # seconds between two of them
QUEUE_VMID = 8
ENGINES = (("graphics core", "GRBM_STATUS", "gui_active", 1), ("shaders", "GRBM_STATUS", "spi_busy", 1),
           ("compute processor", "GRBM_STATUS2", "cpc_busy", 1), ("translation", "GRBM_STATUS2", "utcl2_busy", 1),
           ("SDMA 0", "SDMA0_STATUS_REG", "idle", 0), ("SDMA 1", "SDMA1_STATUS_REG", "idle", 0))
"""(engine, register, field, its value when busy)."""

Sample = dict[str, Any]


class _Sampler:
    """Looks at one card, by its registers."""

    def __init__(self, source: Live, driver: int | None = None) -> None:
        """:param driver: the process that drives the card, where it is another."""
        self.source, self.start = source, time.monotonic()
        self._driver = os.getpid() if source.device is not None else driver
        self._registers = [each for each in ENGINES if each[1] in source.registers]

    def look(self, interval: float, stop: threading.Event | None = None) -> Sample:
        """Read for that many seconds (or until ``stop``), then say what was seen."""
        busy = dict.fromkeys((name for name, *_ in self._registers), 0)
        step = min(interval / READINGS, LONGEST_STEP)
        end, readings = time.monotonic() + interval, 0
        waits = stop or threading.Event()
        while True:
            readings += 1
            values = {name: self.source.register(name) for _, name, *_ in self._registers}
            for engine, name, field, when in self._registers:
                busy[engine] += int(values[name][field] == when)
            if time.monotonic() + step > end or waits.wait(step):
                break
        missing: list[str] = []
        memory = self._memory(missing)
        return {"card": self.source.name, "seconds": round(time.monotonic() - self.start, 3), "readings": readings,
                "engines": [{"name": name, "busy_percent": round(100 * count / readings, 1)}
                            for name, count in busy.items()],
                "queues": self._queues(), "memory": memory, "sensors": self._sensors(missing),
                "counters": self._counters(), "processes": self._processes(memory), "missing": missing}

    def _processes(self, memory: dict[str, Any]) -> list[dict[str, Any]]:
        """A card of ours has one process: all that works and all that is mapped is its."""
        if self._driver is None:
            return []
        return [{"pid": self._driver, "name": kernel.process_name(Host(), self._driver), "engines_percent": {},
                 "memory": {kind: memory[f"{kind}_used"] for kind in ("vram", "system")
                            if memory[f"{kind}_used"] is not None}}]

    def _queues(self) -> list[dict[str, Any]]:
        """Of a card that is ours, by the driver's own pointers: its selectors are not touched while it works."""
        device = self.source.device
        if device is None:
            return []
        return [{"name": ring.name, "pending_words": ring.pending * ring.unit_words,
                 "written_words": ring.wptr * ring.unit_words, "ring_words": ring.words}
                for ring in (*device.compute_rings, *device.sdma_rings)]

    def _memory(self, missing: list[str]) -> dict[str, Any]:
        device, total = self.source.device, self.source.vram_size
        if device is not None and device.memory is not None:
            used = device.memory.allocated
            return {"vram_total": total, "vram_used": used["vram"] + used["tables"], "system_used": used["system"]}
        try:
            found = space.map_document(self.source, "gc", QUEUE_VMID)["bytes"]
            return {"vram_total": total, "vram_used": found["vram"], "system_used": found["system"]}
        except AmdrvError as error:
            missing.append(f"memory: {error}")
            return {"vram_total": total, "vram_used": None, "system_used": None}

    def _sensors(self, missing: list[str]) -> dict[str, Any] | None:
        if self.source.device is None:
            missing.append("sensors: the SMU answers the card's driver only; boot the card (--boot), or run its "
                           "program here (--run)")
            return None
        try:
            return sensors.of_device(self.source.device)
        except AmdrvError as error:
            missing.append(f"sensors: {error}")
            return None

    def _counters(self) -> dict[str, int] | None:
        return dict(sorted(self.source.device.statistics.items())) if self.source.device is not None else None


class _KernelSampler:
    """Looks at a card that amdgpu drives."""

    def __init__(self, host: Host, address: str) -> None:
        self.host, self.address, self.start = host, address, time.monotonic()
        self._last: tuple[float, list[dict[str, Any]]] = time.monotonic(), kernel.fdinfo(host, address)

    def look(self, interval: float, stop: threading.Event | None = None) -> Sample:
        (stop or threading.Event()).wait(interval)
        now, found = time.monotonic(), kernel.fdinfo(self.host, self.address)
        then, before = self._last
        self._last = now, found
        elapsed = max(now - then, 1e-3) * 1e9
        earlier = {each["pid"]: each["engines_ns"] for each in before}
        processes, busy = [], dict[str, float]()
        for each in found:
            percent = {name: round(100 * max(0, ns - earlier.get(each["pid"], {}).get(name, ns)) / elapsed, 1)
                       for name, ns in each["engines_ns"].items()}
            for name, value in percent.items():
                busy[name] = busy.get(name, 0.0) + value
            processes.append({"pid": each["pid"], "name": each["name"], "engines_percent": percent,
                              "memory": each["memory"]})
        seen, about = kernel.sensors_of(self.host, self.address), kernel.gpu(self.host, self.address) or {}
        usage = seen["usage_percent"]["gfx"]
        engines = ([] if usage is None else [{"name": "graphics core", "busy_percent": usage}]) + [
            {"name": name, "busy_percent": round(value, 1)} for name, value in sorted(busy.items())]
        memory = about.get("memory", {})
        return {"card": self.address, "seconds": round(now - self.start, 3), "readings": 1, "engines": engines,
                "queues": [], "memory": {"vram_total": memory.get("vram_total"), "vram_used": memory.get("vram_used"),
                                         "system_used": memory.get("gtt_used")},
                "sensors": seen, "counters": None, "processes": processes, "missing": []}


def sample_once(source: Live) -> Sample:
    """One short look, for a report."""
    return _Sampler(source).look(0.1)


def kernel_once(function: PciFunction) -> Sample:
    """The same of a card that amdgpu drives."""
    return _KernelSampler(Host(), function.address).look(0.1)


# ---- the command

def run(options: Namespace) -> int:
    if options.program:
        return _beside_program(options)
    hal = looking_hal(options.hal)
    function = card.choose(hal, options.device)
    with ExitStack() as stack:
        sampler: _Sampler | _KernelSampler
        if function.driver == "amdgpu" and hal.name != "mock" and not options.boot:
            sampler = _KernelSampler(Host(), function.address)
        else:
            owner = None if options.boot else driven_by(hal, function)
            number = (owner or "").removeprefix("process ")
            sampler = _Sampler(stack.enter_context(live(hal, function, boot=options.boot)),
                               int(number) if number.isdigit() else None)
            if owner:
                print(f"amdrv-info: driven by {owner}: looked at through its registers", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            _show(options, _samples(sampler, options.interval, options.count))
    return 0


def _samples(sampler: _Sampler | _KernelSampler, interval: float, count: int) -> Iterator[Sample]:
    number = 0
    while not count or number < count:
        yield sampler.look(interval)
        number += 1


def _show(options: Namespace, samples: Iterator[Sample]) -> None:
    if options.json:
        for sample in samples:
            print(json.dumps({"schema": card.SCHEMA, "command": "top"} | sample), flush=True)
    elif options.csv:
        writer, columns = csv.writer(sys.stdout), list[str]()
        for sample in samples:
            values = flat(sample)
            if not columns:
                columns = list(values)
                writer.writerow(columns)
            writer.writerow([values.get(name, "") for name in columns])
            sys.stdout.flush()
    else:
        console = screens.console()
        if not console.is_terminal:
            for sample in samples:
                console.print(views.top(sample))
            return
        with Screen(console=console, auto_refresh=False, transient=False) as screen:
            for sample in samples:
                screen.update(views.top(sample), refresh=True)


def flat(sample: Sample) -> dict[str, Any]:
    """The numbers of a sample by names with dots, for a table; engines, queues and sensors by their names."""
    found: dict[str, Any] = {"seconds": sample["seconds"]}
    for engine in sample["engines"]:
        found[f"busy.{engine['name']}"] = engine["busy_percent"]
    for queue in sample["queues"]:
        found[f"pending.{queue['name']}"] = queue["pending_words"]
    found |= {f"memory.{name}": value for name, value in sample["memory"].items()}
    seen = sample["sensors"] or {}
    for group in ("temperatures", "power", "clocks_mhz", "voltages_mv", "fan", "usage_percent"):
        found |= {f"{group}.{name}": value for name, value in seen.get(group, {}).items()}
    found |= {f"count.{name}": value for name, value in (sample["counters"] or {}).items()}
    return {name: "" if value is None else value for name, value in found.items()}


# ---- a program in this process

def driven_device(besides: Collection[Device] = ()) -> Device | None:
    """A card that this process drives, booted to the end; None where there is none.

    :param besides: cards that were open before.
    """
    from amdrv import device
    return next((each for each in device.opened()
                 if each not in besides and hasattr(each, "sdma") and each.sdma_rings), None)


def open_devices() -> list[Device]:
    from amdrv import device
    return device.opened()


def run_program(program: list[str]) -> str | None:
    """Run a Python file as ``python FILE ARGUMENTS`` would; returns what ended it with an error, in words.

    :raises AmdrvError: there is no such file.
    """
    path, *arguments = program
    if not os.path.isfile(path):
        raise AmdrvError(f"--run {path}: there is no such file; give a Python program")
    before, where = sys.argv, list(sys.path)
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as left:
        return None if left.code in (None, 0) else f"exit status {left.code}"
    except KeyboardInterrupt:
        return "interrupted"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        sys.argv, sys.path[:] = before, where
    return None


def _beside_program(options: Namespace) -> int:
    """The program in this thread, where signals and its own threads expect it; the looks in another."""
    if options.hal:
        os.environ["AMDRV_HAL"] = options.hal
    before = open_devices()
    done = threading.Event()
    shown = threading.Thread(target=_guarded, args=(lambda: _show(options, _while_running(options, done, before)),),
                             daemon=True)
    shown.start()
    try:
        error = run_program(options.program)
    finally:
        done.set()
        shown.join(timeout=options.interval + 5)
    if error:
        print(f"amdrv-info: the program failed: {error}", file=sys.stderr)
    return int(error is not None)


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except AmdrvError as error:
        print(f"amdrv-info: {error}", file=sys.stderr)


def _while_running(options: Namespace, done: threading.Event, before: Collection[Device]) -> Iterator[Sample]:
    """Looks at whatever card the program drives; a card that is closed in the middle of a look ends that look only."""
    count, sampler, last = 0, None, None
    while not done.is_set() and (not options.count or count < options.count):
        device = driven_device(before)
        if device is None:
            done.wait(0.02)
            continue
        if device is not last:
            sampler, last = _Sampler(of_device(device)), device
        assert sampler is not None
        try:
            sample = sampler.look(options.interval, done)
        except (AmdrvError, AttributeError, ValueError, TypeError):     # it was closed under the look
            last = None
            continue
        count += 1
        yield sample
