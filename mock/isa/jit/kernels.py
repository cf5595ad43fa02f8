"""Kernels that were met: what is known of them, and code compiled when it pays.

A kernel begins as decoded instructions. It is compiled *quickly* at its first launch when that launch is large or has
loops, in the background when many small launches went through the interpreter, and *optimised* in the background when
it has run for long. Object files of earlier processes are used at once. A launch keeps the code that it began with.
"""

from __future__ import annotations

import atexit
import gc
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mock.isa import hazards
from mock.isa.jit.compiler import Compiled, chunk_lanes, compile_module, digest, hold_at_fork, load_cached
from mock.isa.jit.context import PAGE
from mock.isa.jit.translate import Flow, Point, called, discover, translate
from mock.isa.program import Code, is_terminator

__all__ = ["Kernel", "find", "wait_for_compiler"]

_HEAD = 256                 # bytes by which kernels are looked up before they are compared whole
LARGE = 50_000
"""Instructions of a launch without loops (waves times instructions) from which compiling first is quicker."""
INTERPRETED_SECONDS = 0.05
"""Time in the interpreter after which a kernel is compiled in the background."""
COMPILED_SECONDS = 0.3
"""Time in quickly made code after which a kernel is optimised in the background."""


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hundreds of thousands of objects are made, none of them garbage: looking for some takes longer than the rest."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Unwanted(Exception):
    """The process ends."""


@dataclass
class Kernel:
    """Code as it was found, and what became of it. ``points``: where its waves can start or go on."""

    flow: Flow
    ranges: list[tuple[int, int]]
    content: bytes
    lanes: int
    vgprs: int
    points: list[Point]
    compiled: Compiled | None = None
    optimised: bool = False
    error: BaseException | None = None      # why it cannot be compiled
    interpreted_seconds: float = 0.0
    compiled_seconds: float = 0.0
    _asked: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.loops = any(i.mnemonic.startswith(("s_branch", "s_cbranch", "s_setpc", "s_swappc", "s_call"))
                         and (i.mnemonic.endswith("_b64") or i.fields.get("simm16", 0) & 0x8000)
                         for i in self.flow.instructions.values() if is_terminator(i.mnemonic))

    def _name(self, optimise: bool) -> str:
        return digest((self.content, self.ranges, self.points, self.lanes, chunk_lanes(), self.vgprs, optimise))

    def look_on_disk(self, wait: bool = False) -> None:
        """Take what an earlier process compiled, the best of it. A launch does not wait until another kernel, which may
        take long, is compiled: it is interpreted meanwhile."""
        for optimise in (True, False):
            found = load_cached(self._name(optimise), self.lanes, wait=wait)
            if found is not None:
                self.compiled, self.optimised = found, optimise
                return

    def compile(self, optimise: bool = False, wanted: Callable[[], bool] = lambda: True) -> Compiled:
        """Compile now, unless it is. ``wanted`` is asked before LLVM begins. :raises _Unwanted: it said no."""
        with self._lock:
            if self.compiled is None:
                self.look_on_disk(wait=True)
            if self.compiled is None or (optimise and not self.optimised):
                chunk = chunk_lanes()
                with _uncollected():
                    made = translate(self.flow, self.points, lanes=self.lanes, chunk=chunk, vgprs=self.vgprs,
                                     optimise=optimise)
                    if not wanted():
                        raise _Unwanted
                    code = compile_module(made, self._name(optimise), self.lanes, optimise=optimise)
                self.compiled, self.optimised = code, optimise
            return self.compiled

    def worth(self, waves: int) -> bool:
        """Should a launch of so many waves wait for code?"""
        return self.error is None and (self.loops or waves * len(self.flow.instructions) >= LARGE)

    def interpreted_for(self, seconds: float) -> None:
        self.interpreted_seconds += seconds
        if self.interpreted_seconds > INTERPRETED_SECONDS and self.compiled is None and self.error is None:
            self._ask(False)

    def ran_for(self, seconds: float) -> None:
        self.compiled_seconds += seconds
        if self.compiled_seconds > COMPILED_SECONDS and not self.optimised and self.error is None:
            self._ask(True)

    def _ask(self, optimise: bool) -> None:
        if not self._asked:         # who asks twice at once is answered twice, the second time at once
            self._asked = True
            _background.ask(self, optimise)

    def answered(self) -> None:
        self._asked = False


class _Background:
    """A thread that compiles, one kernel after the other. The process's end does not wait for those not begun."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Kernel, bool] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ending = False
        self._open = 0
        self._idle = threading.Condition(self._lock)

    def ask(self, kernel: Kernel, optimise: bool) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="isa compiler", daemon=True)
                self._thread.start()
                atexit.register(self._end)
            self._open += 1
        self._queue.put((kernel, optimise))

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if item is None or self._ending:
                return
            kernel, optimise = item
            try:
                kernel.compile(optimise, lambda: not self._ending)
            except Exception as error:      # the interpreter, or the code that is there, goes on
                kernel.error = error
            kernel.answered()
            with self._idle:
                self._open -= 1
                self._idle.notify_all()

    def _end(self) -> None:
        """Nothing new begins; the compiler itself waits for what is under way."""
        self._ending = True
        self._queue.put(None)

    def wait(self, timeout: float) -> bool:
        with self._idle:
            return self._idle.wait_for(lambda: not self._open, timeout)


_known: dict[tuple[bytes, int, int, int], list[Kernel]] = {}
_lock = threading.Lock()
_background = _Background()


def _forget_threads() -> None:
    """In a child process: the thread is not there, and what it was asked for may be asked for again."""
    global _background, _lock
    _background, _lock = _Background(), threading.Lock()
    for kernels in _known.values():
        for kernel in kernels:
            kernel._lock = threading.Lock()
            kernel.answered()


hold_at_fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def wait_for_compiler(timeout: float = 60.0) -> bool:
    """Until nothing is left to compile in the background. False: it took longer than ``timeout`` seconds."""
    return _background.wait(timeout)


def _content(code: Code, ranges: list[tuple[int, int]]) -> bytes | None:
    """The code bytes, or None where they cannot be read any more."""
    try:
        return b"".join(code.bytes(at, min(PAGE, end - at)) for begin, end in ranges for at in range(begin, end, PAGE))
    except Exception:       # whatever the memory's own fault is: then it is not the kernel that we know
        return None


def find(code: Code, lanes: int, mode: int, vgprs: int, points: list[Point], *, check_hazards: bool = True) -> Kernel:
    """The kernel at the code address with (at least) these resume points, in this order.

    :raises mock.isa.hazards.HazardError: when the code is new and does not wait for its loads.
    """
    head = code.bytes(0, min(_HEAD, PAGE - code.address % PAGE))
    with _lock:
        known = _known.setdefault((head, lanes, mode, vgprs), [])
        for kernel in reversed(known):      # the newest has met the most
            if kernel.points[:len(points)] == points and _content(code, kernel.ranges) == kernel.content:
                return kernel
    with _uncollected():
        if check_hazards:
            hazards.check(code, lanes=lanes)
        flow = discover(code, {pc for pc, _ in points})
        while missing := [(pc, mode) for pc in sorted(called(flow)) if (pc, mode) not in points]:
            points = [*points, *missing]        # else each function that is met would have all compiled anew
            flow = discover(code, {pc for pc, _ in points})
    ranges = flow.ranges()
    kernel = Kernel(flow, ranges, _content(code, ranges) or b"", lanes, vgprs, points)
    kernel.look_on_disk()
    with _lock:
        known.append(kernel)
    return kernel
