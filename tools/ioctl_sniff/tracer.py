"""The ptrace backend: static programs, running processes, and machines without a C compiler.

The kernel stops the target at its system calls and this process looks at them. For a program that it starts itself a
seccomp filter lets it stop only at the calls that matter; of one that it attaches to it sees them all. Either way a
call costs tens of microseconds (the end of a run says how much), where the preloaded recorder needs less than one.
Linux on x86-64 and aarch64.
"""

from __future__ import annotations

import copy
import ctypes
import errno
import fnmatch
import os
import platform
import signal
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.ioctl_sniff.capture import Event, Writer
from tools.ioctl_sniff.program import Programs, gather
from tools.ioctl_sniff.submissions import Submissions

__all__ = ["TraceError", "Tracer", "supported"]

# linux/ptrace.h
TRACEME, CONT, ATTACH_SEIZE, INTERRUPT, SYSCALL, DETACH = 0, 7, 0x4206, 0x4207, 24, 17
SETOPTIONS, GETEVENTMSG, GETREGSET, LISTEN = 0x4200, 0x4201, 0x4204, 0x4208
O_TRACESYSGOOD, O_FORK, O_VFORK, O_CLONE, O_EXEC, O_SECCOMP, O_EXITKILL = 1, 2, 4, 8, 16, 0x80, 0x100000
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_SECCOMP, EVENT_STOP = 1, 2, 3, 4, 7, 128
NT_PRSTATUS = 1
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RET_ALLOW, RET_TRACE = 0x7FFF0000, 0x7FF00000


@dataclass(frozen=True)
class Machine:
    """Where a system call's number, arguments and result stand among the registers (64-bit words), and the numbers."""

    audit: int
    number: int
    arguments: tuple[int, ...]
    result: int
    calls: dict[str, int]


DRM_TYPE = 0x64                         # the type byte of DRM's ioctls
MACHINES = {
    "x86_64": Machine(0xC000003E, 15, (14, 13, 12, 7, 9, 8), 10, {
        "open": 2, "close": 3, "mmap": 9, "ioctl": 16, "dup": 32, "dup2": 33, "openat": 257, "dup3": 292}),
    "aarch64": Machine(0xC00000B7, 8, (0, 1, 2, 3, 4, 5), 0, {
        "dup": 23, "dup3": 24, "ioctl": 29, "openat": 56, "close": 57, "mmap": 222}),
}


class TraceError(Exception):
    """The target cannot be traced. The message says what to do."""


def supported() -> bool:
    return sys.platform.startswith("linux") and platform.machine() in MACHINES


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@dataclass
class _Thread:
    pid: int
    call: int | None = None                     # the system call that it is in
    arguments: tuple[int, ...] = ()
    before: list[tuple[int, bytes]] = field(default_factory=list)
    started: int = 0
    entered: bool = False
    fresh: bool = True                          # its first stop is not a signal of its own


class Tracer:
    """Follows a program, its threads and children, and writes what they do into a capture.

    :raises TraceError: not here (:func:`supported`).
    """

    def __init__(self, writer: Writer, patterns: Sequence[str], programs: bytes, types: Sequence[int] | None) -> None:
        if not supported():
            raise TraceError("ptrace is used on Linux, x86-64 and aarch64; this is "
                             f"{sys.platform}, {platform.machine()}")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = ctypes.c_long
        self._libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        self._libc.process_vm_readv.restype = ctypes.c_ssize_t
        self._machine = MACHINES[platform.machine()]
        self._names = {number: name for name, number in self._machine.calls.items()}
        self._writer, self._patterns, self._programs = writer, list(patterns), Programs(programs)
        self._types = None if types is None else set(types)
        self._threads: dict[int, _Thread] = {}
        self._watched: dict[tuple[int, int], str | None] = {}
        self._groups: dict[int, int] = {}       # thread -> process
        self._submissions: dict[int, Submissions] = {}
        self._begun: set[int] = set()           # processes whose program is known
        self._early: dict[int, int] = {}        # stops of children whose birth has not been told yet
        self._resume = SYSCALL
        self.stops = 0
        self.cost = 0                           # ns that targets stood still for us

    # Starting --------------------------------------------------------------------------------------------

    def run(self, command: Sequence[str]) -> int:
        """Start a program and follow it to its end; returns its exit status, 128 + signal where one killed it.

        :raises TraceError: it cannot be started.
        """
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            self._become(command, write)
        os.close(write)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            reason = os.read(read, 4096).decode("utf-8", "replace")
            os.close(read)
            raise TraceError(f"{command[0]}: {reason or 'ended before it began'}")
        # Inherited by what it starts. Without the filter (no_new_privs refused) every call stops.
        self._resume = CONT
        self._ptrace(SETOPTIONS, child, O_TRACESYSGOOD | O_FORK | O_VFORK | O_CLONE | O_EXEC | O_SECCOMP | O_EXITKILL)
        self._threads[child] = _Thread(child, fresh=False)
        self._ptrace(CONT, child, 0)
        status = self._loop(child)
        reason = os.read(read, 4096).decode("utf-8", "replace")
        os.close(read)
        if reason:
            raise TraceError(f"{command[0]}: {reason}")
        return status

    def _become(self, command: Sequence[str], pipe: int) -> None:
        """In the child: ask to be traced, take the filter, become the program. Never returns."""
        try:
            if self._libc.ptrace(TRACEME, 0, None, None):
                raise OSError(ctypes.get_errno(), "ptrace is not allowed here (kernel.yama.ptrace_scope?)")
            os.kill(os.getpid(), signal.SIGSTOP)
            self._filter()
            os.execvp(command[0], list(command))
        except OSError as error:
            os.write(pipe, (error.strerror or str(error)).encode())
        finally:
            os._exit(127)

    def _filter(self) -> None:
        """A seccomp filter that stops at our system calls and lets all others pass."""
        calls = sorted(self._machine.calls.values())
        # BPF: load the machine, others pass; load the number; equal to one of ours: trace; pass
        program = [(0x20, 0, 0, 4), (0x15, 1, 0, self._machine.audit), (0x06, 0, 0, RET_ALLOW), (0x20, 0, 0, 0)]
        for index, number in enumerate(calls):
            program.append((0x15, len(calls) - index, 0, number))
        program += [(0x06, 0, 0, RET_ALLOW), (0x06, 0, 0, RET_TRACE)]
        code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in program))
        header = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code)))
        self._libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if self._libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
            raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")

    def attach(self, pid: int) -> None:
        """Follow a running process and its threads until it ends or :meth:`detach`.

        :raises TraceError: there is none, or it may not be traced.
        """
        tasks = Path(f"/proc/{pid}/task")
        if not tasks.is_dir():
            raise TraceError(f"there is no process {pid}")
        options = O_TRACESYSGOOD | O_FORK | O_VFORK | O_CLONE | O_EXEC
        for task in sorted(int(each.name) for each in tasks.iterdir()):
            if self._libc.ptrace(ATTACH_SEIZE, task, None, options):
                number = ctypes.get_errno()
                if number == errno.ESRCH:
                    continue
                raise TraceError(f"process {pid} may not be traced: {os.strerror(number)}; be root, or its user with "
                                 "kernel.yama.ptrace_scope=0 (and no other tracer)")
            self._threads[task] = _Thread(task)
            self._libc.ptrace(INTERRUPT, task, None, None)
        self._loop(pid)

    def detach(self) -> None:
        """Let go of all targets; they run on. Works at any moment, between a stop and its answer too."""
        for tid in list(self._threads):
            deadline = time.monotonic() + 5
            asked = False
            while self._libc.ptrace(DETACH, tid, None, None) and time.monotonic() < deadline:
                if not asked:                   # it runs: only a stopped thread can be let go
                    self._libc.ptrace(INTERRUPT, tid, None, None)
                    asked = True
                try:
                    found, _ = os.waitpid(tid, 0x40000000 | os.WNOHANG)
                except OSError:
                    break                       # it has ended
                if not found:
                    time.sleep(0.001)
        self._threads.clear()

    # The loop --------------------------------------------------------------------------------------------

    def _loop(self, first: int) -> int:
        exit_status = 0
        while self._threads:
            try:
                tid, status = os.waitpid(-1, 0x40000000)         # __WALL
            except ChildProcessError:
                break
            begun = time.perf_counter_ns()
            thread = self._threads.get(tid)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self._threads.pop(tid, None)
                if tid == first:
                    exit_status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
                continue
            if thread is None:
                self._early[tid] = status       # told of by its parent's stop, which comes later
                continue
            self._stopped(thread, status)
            self.stops += 1
            self.cost += time.perf_counter_ns() - begun
        return exit_status

    def _stopped(self, thread: _Thread, status: int) -> None:
        tid, number = thread.pid, os.WSTOPSIG(status)
        event = status >> 16
        deliver = 0
        resume = self._resume
        if event in (EVENT_FORK, EVENT_VFORK, EVENT_CLONE):
            self._born(tid, event)
        elif event == EVENT_EXEC:
            group = self._group(tid)
            kind = "exec" if group in self._begun else "start"
            self._begun.add(group)
            self._put(Event(kind, group, tid, -1, 0, 0, 0, 0, (0, 0, 0, 0), text=self._link(tid, "exe")))
            self._watched = {key: path for key, path in self._watched.items() if key[0] != group}
            self._submissions.pop(group, None)
            thread.call = None
        elif event == EVENT_SECCOMP:
            self._enter(thread)
            resume = SYSCALL                    # and the end of this call
        elif event == EVENT_STOP:
            if not thread.fresh and number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
                thread.fresh = False
                self._libc.ptrace(LISTEN, tid, None, None)
                return
        elif number == signal.SIGTRAP | 0x80:
            if thread.call is not None or thread.entered:
                self._leave(thread)
            elif self._resume == SYSCALL:
                self._enter(thread)
        elif not (thread.fresh and number == signal.SIGSTOP):
            deliver = number
        thread.fresh = False
        if thread.call is not None:
            resume = SYSCALL
        self._libc.ptrace(resume, tid, None, deliver)

    def _born(self, parent: int, event: int) -> None:
        message = ctypes.c_ulong()
        if self._libc.ptrace(GETEVENTMSG, parent, None, ctypes.addressof(message)):
            return
        child = int(message.value)
        thread = self._threads[child] = _Thread(child)
        if event != EVENT_CLONE or self._group(child) == child:
            self._put(Event("fork", child, child, -1, 0, 0, 0, 0, (self._group(parent), 0, 0, 0)))
            if self._group(parent) in self._submissions:        # its memory is a copy
                self._submissions[child] = copy.deepcopy(self._submissions[self._group(parent)])
        if child in self._early:
            self._stopped(thread, self._early.pop(child))

    # System calls ----------------------------------------------------------------------------------------

    def _registers(self, tid: int) -> list[int]:
        buffer = (ctypes.c_uint64 * 34)()
        vector = _IoVec(ctypes.addressof(buffer), ctypes.sizeof(buffer))
        if self._libc.ptrace(GETREGSET, tid, NT_PRSTATUS, ctypes.addressof(vector)):
            return []
        return list(buffer)

    def _enter(self, thread: _Thread) -> None:
        registers = self._registers(thread.pid)
        thread.entered = True
        thread.call = None
        if not registers:
            return
        number = registers[self._machine.number]
        if number not in self._names:
            return
        thread.call = number
        thread.arguments = tuple(registers[index] for index in self._machine.arguments)
        thread.before = []
        if self._names[number] == "ioctl" and self._wanted(thread):
            thread.before = gather(self._programs, thread.arguments[1] & 0xFFFFFFFF, thread.arguments[2],
                                   lambda address, length: self._peek(thread.pid, address, length))
        thread.started = time.monotonic_ns()

    def _wanted(self, thread: _Thread) -> bool:
        fd, request = _signed(thread.arguments[0]), thread.arguments[1]
        typed = self._types is None or (request >> 8 & 0xFF) in self._types
        return typed and self._device(thread.pid, fd) is not None

    def _leave(self, thread: _Thread) -> None:
        thread.entered = False
        if thread.call is None:
            return
        name, arguments, tid = self._names[thread.call], thread.arguments, thread.pid
        thread.call = None
        registers = self._registers(tid)
        if not registers:
            return
        result = registers[self._machine.result]
        result -= (result >> 63) << 64
        error = -result if -4096 < result < 0 else 0
        took = time.monotonic_ns() - thread.started
        group = self._group(tid)
        event = Event(name, group, tid, _signed(arguments[0]), thread.started, took, error, -1 if error else result,
                      (0, 0, 0, 0))
        if name == "ioctl":
            if not self._wanted(thread):
                return
            event.numbers = (arguments[1], arguments[2], 0, 0)
            event.before = thread.before
            event.after = gather(self._programs, arguments[1] & 0xFFFFFFFF, arguments[2],
                                 lambda address, length: self._peek(tid, address, length))
            if not error and arguments[1] >> 8 & 0xFF == DRM_TYPE:
                self._writer.put(event)
                self._submitted(event, group, tid)
                return
        elif name in ("open", "openat"):
            event.kind, event.fd = "open", -1 if error else result
            raw = self._peek(tid, arguments[0 if name == "open" else 1], 512)
            path = raw.split(b"\0")[0].decode("utf-8", "replace")
            self._watched.pop((group, event.fd), None)
            if error and not self._matches(path):
                return
            if not error and self._device(tid, event.fd) is None:
                return
            event.text = path
        elif name == "mmap":
            fd = _signed(arguments[4])
            if fd < 0 or self._device(tid, fd) is None:
                return
            event.fd = fd
            event.numbers = (arguments[1], arguments[2] & 0xFFFFFFFF | arguments[3] << 32, arguments[5], 0)
            if not error:
                self._submissions.setdefault(group, Submissions()).mapped(result, arguments[1], arguments[5])
        elif name == "close":
            if self._watched.pop((group, event.fd), None) is None:
                return
        else:
            event.kind = "dup"
            if error:
                return
            known = self._watched.get((group, event.fd))
            self._watched.pop((group, result), None)
            if known is None:
                return
        self._writer.put(event)

    def _submitted(self, event: Event, group: int, tid: int) -> None:
        """Command buffers of amdgpu, as submits.h puts them."""
        before = int.from_bytes(event.before[0][1][:4], "little") if event.before else 0
        known = self._submissions.setdefault(group, Submissions())
        for each in known.done(event.numbers[0] & 0xFFFFFFFF, event.numbers[1], before,
                               lambda address, length: self._peek(tid, address, length)):
            self._writer.put(Event("dump", group, tid, event.fd, event.time + 1, 0, 0, each.nbytes,
                                   (each.ip, each.instance << 32 | each.ring, each.flags, each.va),
                                   after=each.pieces))

    # What a target has -----------------------------------------------------------------------------------

    def _device(self, tid: int, fd: int) -> str | None:
        """The watched device behind a descriptor, asked for once."""
        key = self._group(tid), fd
        if key not in self._watched:
            path = self._link(tid, f"fd/{fd}")
            self._watched[key] = path if path and self._matches(path) else None
            if self._watched[key]:
                self._put(Event("device", key[0], tid, fd, 0, 0, 0, 0, (0, 0, 0, 0), text=path))
        return self._watched[key]

    def _matches(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self._patterns)

    def _group(self, tid: int) -> int:
        if tid not in self._groups:
            try:
                text = Path(f"/proc/{tid}/status").read_text()
                self._groups[tid] = int(text.split("Tgid:")[1].split()[0])
            except (OSError, IndexError):
                return tid
        return self._groups[tid]

    @staticmethod
    def _link(tid: int, name: str) -> str:
        try:
            return os.readlink(f"/proc/{tid}/{name}")
        except OSError:
            return ""

    def _peek(self, tid: int, address: int, length: int) -> bytes:
        buffer = ctypes.create_string_buffer(length)
        local, remote = _IoVec(ctypes.addressof(buffer), length), _IoVec(address, length)
        got = self._libc.process_vm_readv(tid, ctypes.byref(local), ctypes.c_ulong(1), ctypes.byref(remote),
                                          ctypes.c_ulong(1), ctypes.c_ulong(0))
        return buffer.raw[:got] if got > 0 else b""

    def _put(self, event: Event) -> None:
        event.time = event.time or time.monotonic_ns()
        self._writer.put(event)

    def _ptrace(self, request: int, tid: int, data: int) -> None:
        if self._libc.ptrace(request, tid, None, data):
            number = ctypes.get_errno()
            raise TraceError(f"ptrace of {tid} failed: {os.strerror(number)}")


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (value >> 31 << 32)
