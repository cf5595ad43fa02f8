"""python -m mock.isa disasm|trace|bench KERNEL.co, or coverage: code objects for people.

    disasm   every kernel: its descriptor and its code
    trace    what each instruction of one wave changed
    bench    how long it took, and which instructions ran how often; with --clock, how long a card would take, and why
    coverage which of the formats' opcodes are executed (takes no file)

``--args`` are the kernel's arguments, in order: ``buffer:BYTES`` (zeros), ``range:N`` (float32 0, 1, 2, ...),
``random:N`` (float32), ``i32:VALUE``, ``u64:VALUE``, ``f32:VALUE``, ``f64:VALUE``.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mock.isa import IsaError, run
from mock.isa.clock import report
from mock.isa.coverage import table_text
from mock.isa.decode import Instruction
from mock.isa.disassembler import disassemble
from mock.isa.dispatch import Counts, IllegalInstruction
from mock.isa.standalone import CodeObject, KernelDescriptor
from mock.isa.state import State

__all__ = ["Tracer", "main"]

_EXECUTABLE = 4                 # SHF_EXECINSTR
_NAMES = {106: "vcc_lo", 107: "vcc_hi", 125: "m0", 126: "exec_lo", 127: "exec_hi"}


class StopTracing(Exception):
    """The limit or the breakpoint was reached."""


class Tracer:
    """Prints what the instructions of one wave change: scalar registers, and vector registers of one lane."""

    def __init__(self, wave: int, lane: int, limit: int, breakpoint_: int | None, base: int,
                 output: Any = None) -> None:
        self.wave, self.lane, self.limit, self.breakpoint, self.base = wave, lane, limit, breakpoint_, base
        self.output = output or sys.stdout
        self._before: tuple[np.ndarray, np.ndarray, bool] | None = None
        self.shown = 0

    def __call__(self, pc: int, instruction: Instruction, state: State) -> None:
        where = np.flatnonzero(state.per_wave["id"] == self.wave)
        if not len(where):
            return
        index = int(where[0])
        now = state.vgpr[:, self.lane, index].copy(), state.sgpr[:, index].copy(), bool(state.scc[index])
        changes = self._changes(now)
        self._before = now
        print(f"{pc - self.base:6x}  {instruction!s:<58} {' '.join(changes)}".rstrip(), file=self.output)
        self.shown += 1
        if self.shown >= self.limit:
            raise StopTracing(f"stopped after {self.shown} instructions")
        if self.breakpoint is not None and pc - self.base == self.breakpoint:
            raise StopTracing(f"breakpoint {self.breakpoint:#x}")

    def _changes(self, now: tuple[np.ndarray, np.ndarray, bool]) -> list[str]:
        if self._before is None:
            return []
        vectors, scalars, scc = self._before
        changes = [f"v{i}={int(now[0][i]):#x} ({now[0][i:i + 1].view(np.float32)[0]:g})"
                   for i in np.flatnonzero(vectors != now[0])]
        changes += [f"{_NAMES.get(int(i), f's{i}')}={int(now[1][i]):#x}" for i in np.flatnonzero(scalars != now[1])]
        return changes + ([f"scc={int(now[2])}"] if scc != now[2] else [])


def _arguments(specifications: Sequence[str]) -> tuple[bytes, list[np.ndarray]]:
    """Kernarg bytes, and the arrays that they point to."""
    segment, arrays = b"", []
    for text in specifications:
        kind, _, value = text.partition(":")
        if kind in ("buffer", "range", "random"):
            n = int(value, 0)
            make: dict[str, Any] = {"buffer": lambda n: np.zeros(n, np.uint8),
                                    "range": lambda n: np.arange(n, dtype=np.float32),
                                    "random": lambda n: np.random.default_rng(0).random(n, np.float32)}
            array: np.ndarray = make[kind](n)
            arrays.append(array)
            packed = struct.pack("<Q", array.ctypes.data)
        elif kind in ("i32", "u64", "f32", "f64"):
            code = {"i32": "<i", "u64": "<Q", "f32": "<f", "f64": "<d"}[kind]
            packed = struct.pack(code, float(value) if kind[0] == "f" else int(value, 0))
        else:
            raise SystemExit(f"argument {text!r}: use buffer:BYTES, range:N, random:N, i32:, u64:, f32: or f64:")
        segment += bytes(-len(segment) % len(packed)) + packed
    return segment, arrays


def _describe(kernel: KernelDescriptor, base: int) -> str:
    return (f"{kernel.name}: entry {kernel.entry - base:#x}, wave{kernel.wave_size}, kernarg {kernel.kernarg_bytes} B, "
            f"LDS {kernel.group_bytes} B, scratch {kernel.private_bytes} B a lane, rsrc1 {kernel.rsrc1:#010x}, "
            f"rsrc2 {kernel.rsrc2:#010x}")


def _disasm(code: CodeObject) -> None:
    for kernel in code.kernels.values():
        print(_describe(kernel, code.base))
    labels: dict[int, list[str]] = {}
    for name, offset in code.symbols.items():
        labels.setdefault(offset, []).append(name)
    wave = next((k.wave_size for k in code.kernels.values()), 32)
    for i, section in enumerate(code.sections):
        if not section[2] & _EXECUTABLE:
            continue
        start = code.places.get(i, section[3])
        body = bytes(code.image[start:start + section[5]])
        try:
            for address, instruction, text in disassemble(body, start, wave_size=wave):
                for name in labels.get(address, ()):
                    print(f"\n{name}:")
                if instruction.mnemonic != "s_code_end":
                    print(f"{address:6x}  {instruction.bits.hex(' ', 4):<27}  {text}")
        except IllegalInstruction as error:
            print(f"  {error}")


def _launch(options: argparse.Namespace, code: CodeObject, **more: Any) -> Counts:
    segment, arrays = _arguments(options.arguments)
    counts = run(code, kernel=options.kernel, grid=options.grid, block=options.block, kernarg=segment,
                 executor=getattr(options, "executor", "interpreter"), **more)
    del arrays
    return counts


def _trace(options: argparse.Namespace, code: CodeObject) -> None:
    tracer = Tracer(options.wave, options.lane, options.limit, options.breakpoint, code.base)
    try:
        counts = _launch(options, code, trace=tracer)
        print(f"{counts.instructions} wave instructions in {counts.waves} waves")
    except StopTracing as stop:
        print(stop)


def _bench(options: argparse.Namespace, code: CodeObject) -> None:
    start = time.perf_counter()
    more: dict[str, Any] = {"count_mnemonics": True} if options.executor == "interpreter" else {}
    if options.clock or options.svg:
        more["clock"] = True
    counts = _launch(options, code, **more)
    seconds = time.perf_counter() - start
    print(f"{counts.instructions} wave instructions, {counts.waves} waves, {counts.workgroups} workgroups in "
          f"{seconds:.3f} s: {counts.instructions / seconds / 1e6:.2f} M/s")
    for name, count in counts.by_mnemonic.most_common(30):
        print(f"{count:12}  {name}")
    if counts.clock is not None:
        print(report.text(counts.clock))
        if options.svg:
            options.svg.write_text(report.picture(counts.clock, options.kernel or options.file.name))


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(","))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mock.isa", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("disasm", "trace", "bench"):
        command = commands.add_parser(name)
        command.add_argument("file", type=Path, help="code object (or relocatable object) for gfx1100")
        if name == "disasm":
            continue
        command.add_argument("--args", dest="arguments", nargs="+", default=(), help="kernel arguments")
        command.add_argument("--kernel", help="which kernel, where there are several")
        command.add_argument("--grid", type=_sizes, default=(1,), help="workgroups, e.g. 4,4")
        command.add_argument("--block", type=_sizes, default=(32,), help="work-items of a workgroup, e.g. 16,16")
        if name == "trace":
            command.add_argument("--wave", type=int, default=0, help="which wave of the launch")
            command.add_argument("--lane", type=int, default=0, help="whose vector registers to show")
            command.add_argument("--limit", type=int, default=10000, help="instructions to show")
            command.add_argument("--breakpoint", type=lambda x: int(x, 16), help="stop after this offset (hexadecimal)")
        else:
            command.add_argument("--executor", default="interpreter", choices=("interpreter", "jit"))
            command.add_argument("--clock", action="store_true", help="modelled time on a Radeon RX 7900 XTX")
            command.add_argument("--svg", type=Path, help="write the roofline to this file")
    commands.add_parser("coverage")
    options = parser.parse_args(arguments)
    if options.command == "coverage":
        print(table_text())
        return
    try:
        code = CodeObject(options.file.read_bytes())
        {"disasm": lambda: _disasm(code), "trace": lambda: _trace(options, code),
         "bench": lambda: _bench(options, code)}[options.command]()
    except BrokenPipeError:
        raise SystemExit(0) from None
    except (IsaError, OSError) as error:
        raise SystemExit("\n".join([str(error), *getattr(error, "__notes__", ())])) from None


if __name__ == "__main__":
    main()
