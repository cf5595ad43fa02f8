"""Arithmetic exceptions: which flags an instruction raises, for waves whose trap handler wants to know.

Flags are those of TRAPSTS.EXCP and MODE.EXCP_EN (RDNA3 ISA, "Trap status register"): invalid, input denormal, division
by zero, overflow, underflow, inexact, integer division by zero. They are found from the values by exact rationals, lane
by lane, and only while MODE enables one of them and there is a handler; so TRAPSTS tells of no others. The result is
written, and the handler is entered behind the instruction. Packed, dot, matrix, dual and DPP instructions raise none
here.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from mock.isa.bind import bind_sources
from mock.isa.decode import Instruction
from mock.isa.dispatch import PRIV, TRAP_EN
from mock.isa.semantics import Entry, table
from mock.isa.state import State

__all__ = ["ArithmeticException", "enabled", "raising", "watched"]

INVALID, DENORMAL, ZERO_DIVIDE, OVERFLOW, UNDERFLOW, INEXACT, INTEGER_ZERO_DIVIDE = (1 << i for i in range(7))
_FLOATS = ("f16", "f32", "f64")
_EXCP_EN = 12
Exact = Callable[..., Fraction | None]


class ArithmeticException(Exception):
    """``flags`` of TRAPSTS that are enabled. Never seen outside: the wave is led to its handler."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        super().__init__(f"arithmetic exception {flags:#x}")


def enabled(mode: int) -> int:
    """The arithmetic exceptions that enter the wave's trap handler."""
    return mode >> _EXCP_EN & 0x7f if mode & TRAP_EN and not mode & PRIV else 0


def _kind(token: str) -> str:
    return token.rpartition(":")[2] if token.partition(":")[0] not in ("p", "all", "src", "lo", "hi") else ""


def watched(instruction: Instruction) -> bool:
    """Can the instruction raise any?"""
    entry = table().get(instruction.mnemonic)
    if not isinstance(entry, Entry) or instruction.dpp is not None or entry.modifiers:
        return False
    if not instruction.encoding.startswith("VOP") or instruction.encoding == "VOP3P":
        return False
    if any(part in instruction.mnemonic for part in ("cndmask", "_mov_", "dot2", "_pk_", "div_scale", "div_fmas")):
        return False
    return any(_kind(token) in _FLOATS for token in (*entry.sources, *entry.results))


def raising(instruction: Instruction, step: Callable[[State], Any], wave_size: int) -> Callable[[State], Any]:
    """``step``, which then raises :class:`ArithmeticException` where the wave wants it."""
    entry = table()[instruction.mnemonic]
    assert isinstance(entry, Entry)
    function, fetches = bind_sources(instruction, entry, wave_size)

    def checked(s: State) -> None:
        wanted = enabled(s.mode)
        if not wanted:
            step(s)
            return
        sources = [np.array(np.broadcast_to(fetch(s), (s.lanes, s.waves))) for fetch in fetches]
        results = function(s.v, *sources)
        result = np.broadcast_to(results[0] if isinstance(results, tuple) else results, (s.lanes, s.waves))
        step(s)
        found = 0
        kinds = [_kind(token) for token in entry.sources]
        for lane, wave in np.argwhere(s.active() if s.mask is not None else np.ones((s.lanes, s.waves), np.bool_)):
            found |= _flags(instruction.mnemonic, kinds, [x[lane, wave] for x in sources], result[lane, wave])
        if found & wanted:
            raise ArithmeticException(found & wanted)
    return checked


def _flags(name: str, kinds: list[str], sources: list[Any], result: Any) -> int:
    """Of one lane."""
    values = [x for x, kind in zip(sources, kinds, strict=True) if kind in _FLOATS]
    found = 0
    for x in values:
        fraction = np.finfo(x.dtype).nmant
        bits = int(x.view(f"u{x.itemsize}"))
        if np.isnan(x):
            found |= 0 if bits >> fraction - 1 & 1 else INVALID
        elif x != 0 and abs(x) < np.finfo(x.dtype).tiny:
            found |= DENORMAL
    if any(np.isnan(x) for x in values):
        return found
    is_float = np.issubdtype(np.asarray(result).dtype, np.floating)
    if is_float and np.isnan(result):
        return found | INVALID
    zero_divide = _divides_by_zero(name, values)
    if zero_divide:
        return found | (INTEGER_ZERO_DIVIDE if "iflag" in name else ZERO_DIVIDE)
    if any(np.isinf(x) for x in values):
        return found | (INVALID if not is_float and name.startswith("v_cvt") else 0)
    exact = _exact(name, values)
    if not is_float:
        if exact is None or not name.startswith("v_cvt"):
            return found
        if abs(Fraction(int(result)) - exact) >= 1:
            return found | INVALID
        return found | (INEXACT if exact != int(result) else 0)
    if np.isinf(result):
        return found | OVERFLOW | INEXACT
    if exact is None:
        return found | (INEXACT if name.startswith(_TRANSCENDENTAL) and result not in (0, 1) else 0)
    if Fraction(float(result)) != exact:
        tiny = Fraction(float(np.finfo(np.asarray(result).dtype).tiny))
        found |= INEXACT | (UNDERFLOW if abs(exact) < tiny else 0)
    return found


_TRANSCENDENTAL = ("v_exp_", "v_log_", "v_sin_", "v_cos_", "v_rsq_")


def _divides_by_zero(name: str, values: list[Any]) -> bool:
    if name.startswith(("v_rcp_", "v_rsq_", "v_log_")):
        return bool(values[0] == 0)
    if name.startswith("v_div_fixup"):      # quotient, denominator, numerator
        return bool(values[1] == 0 and values[2] != 0 and np.isfinite(values[2]))
    return False


def _exact(name: str, values: list[Any]) -> Fraction | None:
    """The result before rounding, where rationals have it."""
    x = [Fraction(float(value)) for value in values]
    core = name.removeprefix("v_").rpartition("_f")[0]
    if name.startswith("v_sqrt_"):
        root = Fraction(float(np.sqrt(values[0])))
        return root if root * root == x[0] else None
    rules: dict[str, Exact] = {
        "add": lambda: x[0] + x[1], "sub": lambda: x[0] - x[1], "subrev": lambda: x[1] - x[0],
        "mul": lambda: x[0] * x[1], "rcp": lambda: 1 / x[0] if x[0] else None,
        "fma": lambda: x[0] * x[1] + x[2], "fmac": lambda: x[0] * x[1] + x[2]}
    if core in rules:
        return rules[core]()
    if name.startswith(("v_fmaak", "v_fmamk")) and len(x) == 3:
        return x[0] * x[1] + x[2] if "aak" in name else None
    if name.startswith("v_cvt_") and len(x) == 1:
        return x[0]
    return None
