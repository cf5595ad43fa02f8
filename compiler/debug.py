"""``DEBUG=1`` to ``DEBUG=7``: the compiler tells on the terminal (stderr) what it does; each level tells more.

    DEBUG=2 python my.py            # a line a kernel
    python -m compiler.debug        # the levels

In a program, ``with compiler.debug.showing(2):``. From level 2 on, every kernel is waited for and timed by the device's
own clock, so a program is slower than without. Without ``DEBUG`` none of this is imported.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from compiler import watch
from compiler.buffer import pool
from compiler.choices import Choice
from compiler.disassembly import disassembly
from compiler.engine import Program
from compiler.linearize import Begin, End, Instruction
from compiler.places import located, text_of
from compiler.render.objects import disk_cache
from compiler.runtime import runtime
from compiler.schedule import CopyItem, KernelItem, Schedule
from compiler.uop import Ops, UOp
from compiler.work import label, shapes, what, work

__all__ = ["LEVELS", "Debug", "from_environment", "listing", "showing"]

LEVELS = {
    1: "devices when they are opened, the kernel cache, and a summary at the end",
    2: "a line a kernel: name, shapes, time, GFLOP/s, GB/s, memory in use, your line",
    3: "schedules (what is stored, and why so many kernels) and the choices that each kernel got",
    4: "each kernel's UOps as they become code: in order, in loops",
    5: "each kernel's UOps before any rewrite",
    6: "which rewrite rules fired, and the LLVM IR",
    7: "the instructions",
}

_RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN, _GREY, _BOLD = 31, 32, 33, 34, 35, 36, 90, 1
_SLOW, _MIDDLING = 10e-3, 1e-3      # seconds, for colours
_RULES = 12                         # rules that are listed a kernel


def from_environment() -> None:
    """Show what ``DEBUG`` asks for; a value that is no level is said and ignored, for others use that name, too."""
    text = os.environ.get("DEBUG", "")
    if text.isascii() and text.isdigit() and int(text) in range(8):
        if int(text):
            shown = Debug(int(text))
            watch.watchers.append(shown)
            atexit.register(shown.close)
    else:
        print(f"compiler: DEBUG={text} is no level from 0 to 7 ('python -m compiler.debug' lists them); "
              "nothing is shown", file=sys.stderr)


@contextlib.contextmanager
def showing(level: int, file: IO[str] | None = None) -> Iterator[Debug]:
    """Show what ``DEBUG=level`` does while this is open. :raises ValueError: for other levels than 1 to 7."""
    if level not in LEVELS:
        raise ValueError(f"a level of DEBUG is 1 to 7, not {level!r}; 'python -m compiler.debug' lists them")
    shown = Debug(level, file)
    watch.watchers.append(shown)
    try:
        yield shown
    finally:
        watch.watchers.remove(shown)
        shown.close()


def listing() -> str:
    """The levels, a line each."""
    return "\n".join(["DEBUG=n in the environment shows, on stderr, all of these up to n:",
                      *(f"  {n}  {text}" for n, text in LEVELS.items()),
                      "Colours where stderr is a terminal; NO_COLOR=1 for none, FORCE_COLOR=1 for some anywhere."])


def _coloured(file: IO[str]) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return not file.closed and file.isatty() and os.environ.get("TERM") != "dumb"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:8.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:8.2f} ms" if seconds < 1 \
        else f"{seconds:8.3f} s "


def _rate(amount: float, seconds: float) -> str:
    """Thousands of millions a second."""
    rate = amount / max(seconds, 1e-9) / 1e9
    return f"{rate:8.2f}" if rate >= 0.01 or not rate else f"{rate:8.1e}"


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def uops(instructions: Sequence[Instruction]) -> str:
    """A linear kernel as text: one UOp a line, loops indented, with the user's line where it is known."""
    number: dict[UOp, int] = {}
    lines: list[str] = []
    depth = 0

    def name(node: UOp) -> str:
        if node.op is Ops.CONST:
            return f"{node.arg}"
        if node.op is Ops.PARAM:
            return f"p{node.arg}"
        if node.op is Ops.VARIABLE:
            return str(node.arg[0])
        if node.op is Ops.RANGE:
            return f"r{node.arg[0]}"
        return f"%{number.setdefault(node, len(number))}"

    for item in instructions:
        if isinstance(item, End):
            depth -= 1
            done = "".join(f"  {name(r)} = {r.arg!r} of {name(r.src[0])}" for r in item.reduces)
            lines.append(f"{'  ' * depth}end {name(item.range)}{done}")
        elif isinstance(item, Begin):
            lines.append(f"{'  ' * depth}for {name(item.range)} in 0..{name(item.range.src[0])}  "
                         f"{item.range.arg[1]!r}")
            depth += 1
        else:
            arg = "" if item.arg is None else f" {item.arg!r}"
            where = f"  # {located(item.place)}" if item.place is not None else ""
            lines.append(f"{'  ' * depth}{name(item)} = {item.op.name} {item.dtype.name} "
                         f"{' '.join(map(name, item.src))}{arg}{where}")
    return "\n".join(lines)


def rule_name(function: Callable[..., object]) -> str:
    """A rule by its function's name, or by its line."""
    code = function.__code__        # type: ignore[attr-defined]
    name = "rule" if function.__name__ == "<lambda>" else function.__name__
    return f"{name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"


class Debug(watch.Watcher):
    """Prints to ``file`` (stderr) what ``level`` asks for."""

    def __init__(self, level: int, file: IO[str] | None = None) -> None:
        self.level, self.file = level, file if file is not None else sys.stderr
        self.clocked = level >= 2
        self.colour = _coloured(self.file)
        self.devices: dict[str, None] = {}
        self.rules: Counter[str] = Counter()
        self.numbers: dict[str, int] = {}           # kernels, by name
        self.trying = False
        self.runs = self.copies = self.built_kernels = 0
        self.seconds = 0.0
        self.closed = False
        self._before = (disk_cache().hits, disk_cache().misses)

    def paint(self, text: str, *codes: int) -> str:
        """The text in a colour, where there are colours."""
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m" if self.colour else text

    def say(self, text: str) -> None:
        """A line, or several."""
        with contextlib.suppress(OSError, ValueError):      # the terminal may be gone; the work goes on
            print(text, file=self.file, flush=True)

    def title(self, text: str) -> None:
        """What comes next."""
        self.say(self.paint(f"--- {text}", _MAGENTA))

    def device(self, name: str) -> None:
        """Level 1: facts of a device, when it is first seen."""
        if name in self.devices:
            return
        self.devices[name] = None
        import llvmlite.binding as llvm
        on = runtime(name)
        facts = [on.target.cpu]
        properties = getattr(getattr(on, "device", None), "properties", None)
        if properties is None:
            facts.append(f"{os.cpu_count()} threads")
        else:
            facts[:0] = [str(properties.name)]
        facts.append("LLVM " + ".".join(map(str, llvm.llvm_version_info)))
        cache = disk_cache().path
        self.say(f"{self.paint(name, _CYAN, _BOLD)}: {', '.join(facts)}; "
                 + (f"kernel cache {cache}" if cache else "no kernel cache"))

    # what the compiler tells

    def searching(self, sink: UOp, device: str, on: bool) -> None:
        self.trying = on
        if on and self.level >= 3:
            self.title(f"search for {what(sink)} {shapes(sink)} on {device}")

    def rewrote(self, root: UOp, result: UOp, fired: Sequence[watch.Firing]) -> None:
        if self.level >= 6 and not self.trying:
            self.rules.update(rule_name(f) for _, _, f in fired)

    def scheduled(self, roots: Sequence[UOp], device: str, plan: Schedule) -> None:
        self.device(device)
        if self.level < 3:
            return
        kernels = [i for i in plan.items if isinstance(i, KernelItem)]
        self.title(f"schedule on {device}: {len(roots)} value{'s'[:len(roots) != 1]} wanted, {len(kernels)} "
                   f"kernel{'s'[:len(kernels) != 1]}, {len(plan.items) - len(kernels)} copies; "
                   f"{plan.inputs} buffers given, {len(plan.made)} made "
                   f"({_size(sum(s.size * s.dtype.itemsize for s in plan.made))})")
        for n, item in enumerate(plan.items):
            if isinstance(item, CopyItem):
                self.say(f"  {n:3}  copy b{item.src} -> b{item.dst}")
                continue
            reads = [s for s in item.slots if s not in item.writes]
            where = f"   {text_of(item.places[0])}" if item.places else ""
            self.say(f"  {n:3}  {label(item.sink, item.places)}: {' '.join(f'b{s}' for s in reads) or 'nothing'} -> "
                     f"{' '.join(f'b{s}' for s in item.writes)}{self.paint(where, _GREY)}")

    def building(self, sink: UOp, device: str) -> None:
        if self.level >= 6 and self.rules:
            self._rules("while scheduling")
        self.rules.clear()

    def built(self, sink: UOp, device: str, program: Program, choices: Sequence[Choice] | None) -> None:
        self.device(device)
        self.built_kernels += 1
        name = program.source.name
        number = self.numbers.setdefault(name, len(self.numbers))
        if self.level < 3:
            return
        if choices is None:
            from compiler.heuristics import choose
            from compiler.optimize import merge_ranges
            choices, by = choose(merge_ranges(sink), runtime(device).target.gpu), "by heuristics"
        else:
            by = "by a search"
        made = ", ".join(f"{c.kind} {c.axis}: {'x'.join(map(str, c.amounts))}" for c in choices)
        source = program.source
        launch = f"grid {source.grid} of {source.block}" if runtime(device).target.gpu else \
            f"{source.outer} iterations for the threads"
        self.title(f"kernel {number} {what(sink)} {shapes(sink)} for {device}, {name}: "
                   f"{made or 'no choices'} ({by}); {launch}")
        if self.level >= 5:
            self.title("UOps before")
            self.say(sink.tree())
        if self.level >= 6:
            self._rules(f"for kernel {number}")
        if self.level >= 4:
            self.title("UOps")
            self.say(uops(program.instructions))
        if self.level >= 6:
            self.title("LLVM IR")
            self.say(source.text.rstrip())
        if self.level >= 7:
            self.title("instructions")
            self.say(disassembly(program, runtime(device).target).rstrip())

    def _rules(self, when: str) -> None:
        total = self.rules.total()
        self.title(f"{total} rewrites {when}, by {len(self.rules)} rules")
        for rule, count in self.rules.most_common(_RULES):
            self.say(f"  {count:6}  {rule}")
        if len(self.rules) > _RULES:
            self.say(f"          and {len(self.rules) - _RULES} more rules")
        self.rules.clear()

    def ran(self, ran: watch.Ran) -> None:
        self.device(ran.device)
        self.runs += max(len(ran.parts), ran.kind == "kernel")
        self.copies += ran.kind == "copy"
        self.seconds += ran.seconds or 0
        if self.level < 2:
            return
        device = self.paint(f"{ran.device:<5}", _CYAN)
        seconds = ran.seconds or (ran.end - ran.begin) / 1e9
        time = self.paint(_time(seconds), _RED if seconds > _SLOW else _YELLOW if seconds > _MIDDLING else _GREEN)
        memory = _size(pool(ran.device).used)
        where = self.paint(located(ran.places[0]), _GREY) if ran.places else ""
        if ran.kind == "copy":
            nbytes = ran.sizes[0]
            self.say(f"{device}      {'copy ' + _size(nbytes):<34} {time} {'':>16}"
                     f" {_rate(nbytes, seconds)} GB/s  mem {memory:>8}  {where}")
            return
        parts = ran.parts or [ran]
        done = [work(p.program.sink, p.sizes, p.values) for p in parts if p.program is not None]
        rate = f"{_rate(sum(w.operations for w in done), seconds)} GFLOP/s " \
               f"{_rate(sum(w.bytes for w in done), seconds)} GB/s"
        if ran.program is not None:
            number = self.numbers.setdefault(ran.program.source.name, len(self.numbers))
            text = f"{number:4}  {label(ran.program.sink, ran.places):<34}"
        else:
            text = f"  --  {f'jit replay: {len(done)} kernels, {len(parts) - len(done)} copies':<34}"
        self.say(f"{device} {self.paint(text, _BOLD)} {time} {rate}  mem {memory:>8}  {where}")

    def close(self) -> None:
        """Level 1: what there was in all."""
        if self.closed or not self.devices:
            return
        self.closed = True
        cache = disk_cache()
        hits, misses = cache.hits - self._before[0], cache.misses - self._before[1]
        peak = ", ".join(f"{d} {_size(pool(d).peak)}" for d in self.devices)
        took = f" in {_time(self.seconds).strip()}" if self.clocked else ""
        self.say(f"{self.runs} kernels ran{took}, {self.copies} copies; {self.built_kernels} were built "
                 f"({hits} found in the cache, {misses} not); memory at most: {peak}")


def main() -> None:
    print(listing())


if __name__ == "__main__":
    from tools.piped import piped
    piped(main)()
