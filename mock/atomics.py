"""Memory atomics of the micro engines (PM4 ATOMIC_MEM, SDMA ATOMIC), by the names of TC_OP in soc21_enum.h.

The two engines, and every queue of theirs, share one lock a process: among themselves they are atomic. Integer
operations wrap; INC and DEC are AMD's (wrap at the operand); float operations are IEEE single and double.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from functools import cache

from amdrv.facts import pm4

__all__ = ["apply", "operation", "LOCK"]

LOCK = threading.Lock()


@cache
def _names() -> dict[int, str]:
    return {number: name for name, number in pm4.ENUMS["ATOMIC_OP"].items()}


@cache
def operation(number: int) -> tuple[str, int, bool] | None:
    """(operation, bytes, does it return the old value?) or None for a number that is none."""
    name = _names().get(number)
    if name is None:
        return None
    parts = name.removeprefix("ATOMIC_").split("_")
    bits = int(parts[-1])
    returns = "RTN" in parts
    return "_".join(part for part in parts[:-1] if part not in ("RTN", "FLUSH", "DENORM")), bits // 8, returns


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _float(kind: Callable[[float, float], float], old: int, new: int, size: int) -> int:
    form, word = ("<f", "<I") if size == 4 else ("<d", "<Q")
    a, b = (struct.unpack(form, struct.pack(word, v))[0] for v in (old, new))
    try:
        return int(struct.unpack(word, struct.pack(form, kind(a, b)))[0])
    except OverflowError:
        return 0x7F800000 if size == 4 else 0x7FF0 << 48


def apply(name: str, size: int, old: int, source: int, compare: int) -> int:
    """The value that memory holds afterwards."""
    bits = 8 * size
    mask = (1 << bits) - 1
    source, compare = source & mask, compare & mask
    if name == "SWAP":
        return source
    if name == "CMPSWAP":
        return source if old == compare else old
    if name in ("ADD", "SUB"):
        return (old + source if name == "ADD" else old - source) & mask
    if name == "CLAMP_SUB":
        return max(old - source, 0)
    if name in ("SMIN", "SMAX"):
        pick = min if name == "SMIN" else max
        return pick(_signed(old, bits), _signed(source, bits)) & mask
    if name in ("UMIN", "UMAX"):
        return (min if name == "UMIN" else max)(old, source)
    if name == "AND":
        return old & source
    if name == "OR":
        return old | source
    if name == "XOR":
        return old ^ source
    if name == "INC":
        return 0 if old >= source else old + 1
    if name == "DEC":
        return source if old == 0 or old > source else old - 1
    if name == "FADD":
        return _float(lambda a, b: a + b, old, source, size)
    if name in ("FMIN", "FMAX"):
        return _float(min if name == "FMIN" else max, old, source, size)
    if name == "FCMPSWAP":
        same = _float(lambda a, b: float(a == b), old, compare, size)
        return source if same else old
    raise KeyError(name)
