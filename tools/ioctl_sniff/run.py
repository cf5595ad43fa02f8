"""Running a target under one of the two mechanisms, and choosing which."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.ioctl_sniff import build, capture, program
from tools.ioctl_sniff.abi import Library
from tools.ioctl_sniff.tracer import TraceError, Tracer

__all__ = ["Plan", "Result", "RunError", "attach", "choose", "record"]

DEFAULT_DEVICES = ("/dev/kfd", "/dev/dri/*", "/dev/nvidia*", "/dev/vfio/*", "/dev/iommu", "/dev/accel/*",
                   "anon_inode:*vfio*", "/dmabuf:*", "/dev/udmabuf", "anon_inode:sync_file")

STARTING, PATIENCE = 1.0, 2.0
"""Seconds: for an executed process to open the capture; until waiting for what outlives the program is told."""


class RunError(Exception):
    """The target cannot be run or followed."""


@dataclass(frozen=True)
class Plan:
    """What to watch. ``types``: ioctl type bytes, None for all. ``options``: of :mod:`capture`."""

    library: Library
    devices: tuple[str, ...] = DEFAULT_DEVICES
    types: tuple[int, ...] | None = None
    options: tuple[str, ...] = ()
    capacity: int = 4 << 30


@dataclass(frozen=True)
class Result:
    mechanism: str
    reason: str
    status: int                 # the target's; 128 + signal where one killed it
    cost: int = 0               # ns that the target stood still, where ptrace measured it
    stops: int = 0


def choose(command: Sequence[str], wanted: str = "auto") -> tuple[str, str]:
    """("preload" or "ptrace", why). :raises RunError: there is no such program, or it cannot be followed here."""
    path = shutil.which(command[0])
    if path is None:
        raise RunError(f"{command[0]}: there is no such program")
    if wanted != "auto":
        return wanted, "asked for"
    reason = why_not_preload(Path(path))
    if reason is None:
        try:
            build.recorder()
            return "preload", "a dynamic program"
        except build.BuildError as error:
            reason = str(error)
    return "ptrace", reason


def why_not_preload(path: Path) -> str | None:
    """The reason for which a preloaded library does not get into a program; None where it does."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        mode = path.stat().st_mode
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if mode & 0o6000:
        return "a set-user-ID program takes no preloaded library"
    if head[:2] == b"#!":
        interpreter = head[2:].split(b"\n")[0].split()
        return why_not_preload(Path(os.fsdecode(interpreter[0]))) if interpreter else None
    if head[:4] != b"\x7fELF":
        return "no ELF program"
    machine = {62: "x86_64", 183: "aarch64"}.get(struct.unpack_from("<H", head, 18)[0])
    if head[4] != 2 or machine != platform.machine():
        return "a program for another machine"
    offset, size, count = (*struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54))
    with path.open("rb") as file:
        file.seek(offset)
        table = file.read(size * count)
    kinds = [struct.unpack_from("<I", table, index * size)[0] for index in range(count) if size]
    return None if 3 in kinds else "a static program"       # PT_INTERP


def record(plan: Plan, command: Sequence[str], path: Path, *, mechanism: str = "auto") -> Result:
    """Run a program to its end and record what it does.

    :raises RunError: it cannot be run. :raises build.BuildError, TraceError, capture.CaptureError: as they say.
    """
    mechanism, reason = choose(command, mechanism)
    library = build.recorder() if mechanism == "preload" else None
    programs = _create(plan, path, command=list(command), mechanism=mechanism)
    if library is None:
        return _traced(plan, path, programs, reason, command=command)
    environment = dict(os.environ)
    before = environment.get("LD_PRELOAD")
    environment["LD_PRELOAD"] = f"{library}:{before}" if before else str(library)
    environment["IOCTL_SNIFF_CAPTURE"] = str(path.absolute())
    try:
        child = subprocess.Popen(list(command), env=environment)
    except OSError as error:
        raise RunError(f"{command[0]}: {error.strerror or error}") from error
    while True:
        try:
            status = child.wait()
            break
        except KeyboardInterrupt:               # the target has got it too, and decides
            continue
    left = _outlived(path)
    if left:
        reason += f"; not to the end of {_several(left)}"
    else:
        capture.finish(path)                    # nobody writes there any more: a store past a file's end is SIGBUS
    return Result(mechanism, reason, 128 - status if status < 0 else status)


def _outlived(path: Path) -> list[int]:
    """Wait for the processes that outlive the program (it became a daemon, it left jobs); those that remained when
    Ctrl-C ended the wait. One that has just been executed has not opened the capture yet: it gets a moment."""
    end = time.monotonic()
    pause, told = 0.01, False
    recording, starting = _followed(path)
    try:
        while recording or (starting and time.monotonic() < end + STARTING):
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
            recording, starting = _followed(path)
            if recording and not told and time.monotonic() > end + PATIENCE:
                told = True
                print(f"ioctl-sniff: the program has ended, {_several(recording)} of it not: waiting; Ctrl-C shows "
                      "what there is", file=sys.stderr)
    except KeyboardInterrupt:
        return recording
    return []


def _followed(path: Path) -> tuple[list[int], list[int]]:
    """Processes that have the capture open, and those that were told of it only."""
    recording, starting = [], []
    name = os.fsencode(os.path.realpath(path)) + b"\n"
    told = b"IOCTL_SNIFF_CAPTURE=" + os.fsencode(path.absolute()) + b"\0"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if name in (process / "maps").read_bytes():
                recording.append(int(process.name))
            elif told in (process / "environ").read_bytes():
                starting.append(int(process.name))
        except OSError:
            continue                            # it ended, or is another user's
    return recording, starting


def _several(processes: Sequence[int]) -> str:
    return f"process {processes[0]}" if len(processes) == 1 else f"{len(processes)} processes"


def attach(plan: Plan, pid: int, path: Path) -> Result:
    """Follow a running process until it ends or SIGINT."""
    programs = _create(plan, path, pid=pid, mechanism="ptrace")
    return _traced(plan, path, programs, "a process that runs already", pid=pid)


def _create(plan: Plan, path: Path, **about: object) -> bytes:
    programs = program.table(plan.library)
    capture.create(path, patterns=plan.devices, types=plan.types, programs=programs, options=plan.options,
                   capacity=plan.capacity,
                   metadata=about | {"machine": platform.machine(), "kernel": platform.release(),
                                     "monotonic": time.monotonic_ns(), "time": time.time(), "python": sys.version})
    return programs


def _traced(plan: Plan, path: Path, programs: bytes, reason: str, *, command: Sequence[str] = (),
            pid: int = 0) -> Result:
    writer = capture.Writer(path)
    status = 0
    try:
        tracer = Tracer(writer, plan.devices, programs, plan.types)
        try:
            if command:
                old = signal.signal(signal.SIGINT, signal.SIG_IGN)      # the target's, not ours
                try:
                    status = tracer.run(command)
                finally:
                    signal.signal(signal.SIGINT, old)
            else:
                tracer.attach(pid)
        except KeyboardInterrupt:
            tracer.detach()
        return Result("ptrace", reason, status, tracer.cost, tracer.stops)
    except TraceError as error:
        raise RunError(str(error)) from error
    finally:
        writer.close()
        capture.finish(path)
