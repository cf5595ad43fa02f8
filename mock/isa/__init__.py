"""RDNA3 (gfx1100) machine code: decoder, disassembler, semantics, executors.

    execute(dispatch, memory)            what an engine calls: a launch in an address space
    run(code, grid=..., block=..., ...)  stand-alone: machine code or a code object on this process's memory
    decode(code) -> Instruction          prints as text that LLVM's assembler takes back to the same bits
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

from mock.isa.dispatch import (
    Counts,
    Dispatch,
    HungWave,
    IllegalInstruction,
    IsaError,
    Memory,
    MemoryFault,
    SqInterrupt,
    Trap,
)

__all__ = ["Counts", "Dispatch", "HungWave", "IllegalInstruction", "IsaError", "Memory", "MemoryFault", "SqInterrupt",
           "Trap", "default_executor", "execute", "has_native_code", "run"]

EXECUTORS = ("auto", "jit", "interpreter")
_TRACING = {"trace", "count_mnemonics"}
_OPTIONS = _TRACING | {"threads", "watchdog", "check_hazards", "clock"}


def execute(dispatch: Dispatch, memory: Memory, *, executor: str = "interpreter", **options: Any) -> Counts:
    """Run every workgroup of ``dispatch`` to its end.

    ``executor``: "interpreter"; "jit": native code, compiled first; "auto": whichever ends first (small launches are
    interpreted until they add up). Where the memory has ``plain`` False (it wants to see each access), or something is
    to be traced or counted, it is the interpreter.

    ``options``: ``watchdog`` (seconds, then :class:`HungWave`); ``threads`` for native code (default: all cores).
    ``trace(pc, instruction, state)`` is called after each instruction; ``count_mnemonics=True`` fills
    ``Counts.by_mnemonic``; ``check_hazards=False`` lets code run that does not wait for its loads. ``clock=True`` (or a
    :class:`mock.isa.clock.Chip`) fills ``Counts.clock`` with the modelled time, the same number by either executor.

    :raises IllegalInstruction: with PC and bits. A memory fault of ``memory`` passes through, with a note
        naming the PC and the instruction.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"executor must be one of {', '.join(EXECUTORS)}, not {executor!r}")
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise ValueError(f"unknown option {', '.join(sorted(unknown))}; there are {', '.join(sorted(_OPTIONS))}")
    if "watchdog" in options and not options["watchdog"] > 0:
        raise ValueError(f"watchdog must be a positive number of seconds, not {options['watchdog']!r}")
    clock = options.pop("clock", None)
    if clock:
        from mock.isa.clock import Chip, measure
        return measure(dispatch, memory, lambda noting: execute(dispatch, noting, executor=executor, **options),
                       clock if isinstance(clock, Chip) else None)
    if executor == "interpreter" or not getattr(memory, "plain", True) or _TRACING & options.keys() \
            or (executor == "auto" and not has_native_code()):
        from mock.isa.interpreter import execute as interpret
        return interpret(dispatch, memory, **{k: v for k, v in options.items() if k != "threads"})
    from mock.isa import jit
    return (jit.execute if executor == "jit" else jit.execute_auto)(dispatch, memory, **options)


@cache
def has_native_code() -> bool:
    """Is there a compiler (llvmlite)?"""
    return importlib.util.find_spec("llvmlite") is not None


def default_executor() -> str:
    """``AMDRV_ISA``: auto (if it is not set), jit or interpreter."""
    return os.environ.get("AMDRV_ISA") or "auto"


def run(code: Any, **launch: Any) -> Counts:
    """Run machine code or a code object stand-alone; see :func:`mock.isa.standalone.run`."""
    from mock.isa.standalone import run as run_alone
    return run_alone(code, **launch)
