"""python -m mock.isa disasm|trace|bench KERNEL.co, or coverage: code objects for people.

    disasm   every kernel: its descriptor and its code
    trace    what each instruction of one wave changed, up to a breakpoint or the end
    bench    how long it took, and which instructions ran how often; with --clock, how long a card would take, and why
    coverage which of the formats' opcodes are executed (takes no file)

``--args`` are the kernel's arguments, in order: ``buffer:BYTES`` (zeros), ``range:N`` (float32 0, 1, 2, ...),
``random:N`` (float32), ``i32:VALUE``, ``u64:VALUE``, ``f32:VALUE``, ``f64:VALUE``. With --json each screen is JSON.
Source lines are shown where the code object has debug information (clang -g) and pyelftools is installed.

    python -m mock.isa disasm kernel.co
    python -m mock.isa trace kernel.co --args range:64 buffer:256 i32:64 --break s_barrier --watch v3 exec
    python -m mock.isa bench kernel.co --args random:1000 f32:2 --grid 4 --block 256 --executor jit
"""

from __future__ import annotations

import argparse
import json
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mock.isa import IsaError, run
from mock.isa.clock import report
from mock.isa.coverage import coverage, table_text, write_table
from mock.isa.dispatch import Counts
from mock.isa.lines import Lines
from mock.isa.listing import instructions
from mock.isa.standalone import CodeObject, KernelDescriptor
from mock.isa.tracing import Breakpoint, StopTracing, Tracer, parse_register

__all__ = ["main"]


def _arguments(specifications: Sequence[str]) -> tuple[bytes, list[np.ndarray]]:
    """Kernarg bytes, and the arrays that they point to."""
    segment, arrays = b"", []
    for text in specifications:
        try:
            packed, array = _argument(text)
        except (ValueError, OverflowError, MemoryError, struct.error) as error:
            raise ValueError(f"argument {text!r}: {error}") from None
        arrays += [] if array is None else [array]
        segment += bytes(-len(segment) % len(packed)) + packed
    return segment, arrays


def _argument(text: str) -> tuple[bytes, np.ndarray | None]:
    """The bytes of one argument, and the array that they point to. :raises ValueError: no such kind, or value."""
    kind, _, value = text.partition(":")
    if kind in ("buffer", "range", "random"):
        n = int(value, 0)
        if n < 0:
            raise ValueError(f"a size is not negative, as {n} is")
        make: dict[str, Any] = {"buffer": lambda n: np.zeros(n, np.uint8),
                                "range": lambda n: np.arange(n, dtype=np.float32),
                                "random": lambda n: np.random.default_rng(0).random(n, np.float32)}
        array: np.ndarray = make[kind](n)
        return struct.pack("<Q", array.ctypes.data), array
    if kind in ("i32", "u64", "f32", "f64"):
        code = {"i32": "<i", "u64": "<Q", "f32": "<f", "f64": "<d"}[kind]
        return struct.pack(code, float(value) if kind[0] == "f" else int(value, 0)), None
    raise ValueError("use buffer:BYTES, range:N, random:N, i32:, u64:, f32: or f64:")


def _describe(kernel: KernelDescriptor, base: int) -> str:
    return (f"{kernel.name}: entry {kernel.entry - base:#x}, wave{kernel.wave_size}, kernarg {kernel.kernarg_bytes} B, "
            f"LDS {kernel.group_bytes} B, scratch {kernel.private_bytes} B a lane, rsrc1 {kernel.rsrc1:#010x}, "
            f"rsrc2 {kernel.rsrc2:#010x}")


def _disasm(options: argparse.Namespace, code: CodeObject) -> None:
    chosen = [k for k in code.kernels.values() if options.kernel in (None, k.name)]
    if options.kernel and not chosen:
        raise IsaError(f"the code object has no kernel {options.kernel!r}; it has {', '.join(sorted(code.kernels))}")
    rows = list(instructions(code, options.kernel))
    if options.json:
        print(json.dumps({"kernels": [_facts(kernel, code.base) for kernel in chosen],
                          "instructions": [{k: v for k, v in row.items() if v} | {"offset": row["offset"]}
                                           for row in rows]}, indent=1))
        return
    for kernel in chosen:
        print(_describe(kernel, code.base))
    source = ""
    for row in rows:
        for label in row["labels"]:
            print(f"\n{label}:")
        if row["source"] and row["source"] != source:
            source = row["source"]
            print(f"; {source}")
        print(f"{row['offset']:6x}  {row['bits']:<27}  {row['text']}" if row["bits"] else f"  {row['text']}")


def _facts(kernel: KernelDescriptor, base: int) -> dict[str, Any]:
    return {"name": kernel.name, "entry": kernel.entry - base, "wave_size": kernel.wave_size,
            "kernarg_bytes": kernel.kernarg_bytes, "lds_bytes": kernel.group_bytes,
            "scratch_bytes_per_lane": kernel.private_bytes, "rsrc1": kernel.rsrc1, "rsrc2": kernel.rsrc2,
            "rsrc3": kernel.rsrc3}


def _launch(options: argparse.Namespace, code: CodeObject, **more: Any) -> Counts:
    segment, arrays = _arguments(options.arguments)
    if options.watchdog is not None:
        more["watchdog"] = options.watchdog
    counts = run(code, kernel=options.kernel, grid=options.grid, block=options.block, kernarg=segment,
                 executor=getattr(options, "executor", "interpreter"), **more)
    del arrays
    return counts


def _trace(options: argparse.Namespace, code: CodeObject) -> None:
    breakpoints = [Breakpoint(text, code.symbols) for text in options.breakpoints]
    watch = [register for text in options.watch for register in parse_register(text)]
    tracer = Tracer(options.wave, options.lane, options.limit, code.base, breakpoints=breakpoints, watch=watch,
                    as_json=options.json, lines=Lines(code.data))
    ending: dict[str, Any] = {}
    try:
        counts = _launch(options, code, trace=tracer)
        ending = {"instructions": counts.instructions, "waves": counts.waves}
        text = f"{counts.instructions} wave instructions in {counts.waves} waves"
        if not tracer.followed:
            raise IsaError(f"the launch has no wave {options.wave}: {counts.waves} waves ran")
    except StopTracing as stop:
        ending, text = {"stopped": str(stop)}, f"{stop}\n{tracer.registers()}"
    if options.json:
        print(json.dumps(ending | {"followed": tracer.followed, "by_mnemonic": dict(tracer.counts)}))
        return
    print(text)
    if options.statistics:
        print(tracer.statistics())


def _bench(options: argparse.Namespace, code: CodeObject) -> None:
    start = time.perf_counter()
    more: dict[str, Any] = {"count_mnemonics": True} if options.executor == "interpreter" else {}
    if options.clock or options.svg:
        more["clock"] = True
    counts = _launch(options, code, **more)
    seconds = time.perf_counter() - start
    if options.json:
        print(json.dumps({"instructions": counts.instructions, "waves": counts.waves, "workgroups": counts.workgroups,
                          "seconds": seconds, "executor": options.executor,
                          "by_mnemonic": dict(counts.by_mnemonic.most_common())}))
        return
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
    for name, about in (("disasm", "list kernels and code"), ("trace", "follow one wave"),
                        ("bench", "time a launch and count instructions")):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("file", type=Path, help="code object (or relocatable object) for gfx1100")
        command.add_argument("--kernel", help="which kernel, where there are several")
        command.add_argument("--json", action="store_true", help="print JSON")
        if name != "disasm":
            _launch_options(command)
        if name == "trace":
            _trace_options(command)
        if name == "bench":
            command.add_argument("--executor", default="interpreter", choices=("auto", "interpreter", "jit"),
                                 help="the interpreter also counts mnemonics")
            command.add_argument("--clock", action="store_true", help="modelled time on a Radeon RX 7900 XTX")
            command.add_argument("--svg", type=Path, help="write the roofline to this file")
    command = commands.add_parser("coverage", help="which opcodes are executed")
    command.add_argument("--write", type=Path, help="put the table into this page")
    command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        _command(options)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SystemExit(f"{error.filename or options.command}: {error.strerror or error}") from None
    except (IsaError, ValueError) as error:
        raise SystemExit("\n".join([str(error), *getattr(error, "__notes__", ())])) from None


def _launch_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--args", dest="arguments", nargs="+", default=(),
                         help="the kernel's arguments, in order: buffer:BYTES (zeros), range:N and random:N (float32), "
                         "i32:, u64:, f32:, f64:VALUE")
    command.add_argument("--grid", type=_sizes, default=(1,), help="workgroups, e.g. 4,4")
    command.add_argument("--block", type=_sizes, default=(32,), help="work-items of a workgroup, e.g. 16,16")
    command.add_argument("--watchdog", type=float, help="seconds after which a wave counts as hung")


def _trace_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--wave", type=int, default=0, help="which wave of the launch (of the first 512)")
    command.add_argument("--lane", type=int, default=0, help="whose vector registers to show")
    command.add_argument("--limit", type=int, default=10000, help="instructions to show")
    command.add_argument("--break", dest="breakpoints", action="append", default=[], metavar="WHERE",
                         help="stop behind this offset (hexadecimal), label, FILE:LINE or mnemonic (s_barrier, "
                              "'global_*'), and show the registers; may be given again")
    command.add_argument("--watch", nargs="+", default=(), metavar="REGISTER",
                         help="show only what changes one of these: v3, s[4:5], vcc, exec, scc")
    command.add_argument("--statistics", action="store_true", help="end with what the wave ran, how often")


def _command(options: argparse.Namespace) -> None:
    if options.command == "coverage":
        if options.write:
            write_table(options.write)
        elif options.json:
            print(json.dumps([dict(zip(("format", "opcodes", "executed", "rest"), row, strict=True))
                              for row in coverage()]))
        else:
            print(table_text())
        return
    code = CodeObject(options.file.read_bytes())
    {"disasm": _disasm, "trace": _trace, "bench": _bench}[options.command](options, code)


if __name__ == "__main__":
    from tools.piped import piped
    piped(main)()
