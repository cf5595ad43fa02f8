"""Loads, stores and atomics, for every address space: DS, FLAT, GLOBAL, SCRATCH, MUBUF.

Only what happens to the data is here; where it lies is the executor's matter, by format.
"""

from __future__ import annotations

from typing import Any

from mock.isa.semantics.table import Atomic, Load, Store, Table

__all__ = ["define"]

V = Any


def _increment(v: V, old: Any, limit: Any) -> Any:
    """Up to the limit, then around to 0."""
    return v.select(v.ge(old, limit), 0, v.add(old, 1))


def _decrement(v: V, old: Any, limit: Any) -> Any:
    """Down to 0, then around to the limit."""
    return v.select(v.or_(v.eq(old, 0), v.gt(old, limit)), limit, v.sub(old, 1))


def _swap(v: V, old: Any, new: Any) -> Any:
    return new


def _compare_swap(v: V, old: Any, new: Any, expected: Any) -> Any:
    return v.select(v.eq(old, expected), new, old)


def _subtract_clamped(v: V, old: Any, data: Any) -> Any:
    return v.select(v.lt(old, data), 0, v.sub(old, data))


_INTEGER: dict[str, Any] = {
    "add": lambda v, m, d: v.add(m, d), "sub": lambda v, m, d: v.sub(m, d), "rsub": lambda v, m, d: v.sub(d, m),
    "min": lambda v, m, d: v.min(m, d), "max": lambda v, m, d: v.max(m, d), "and": lambda v, m, d: v.and_(m, d),
    "or": lambda v, m, d: v.or_(m, d), "xor": lambda v, m, d: v.xor(m, d), "inc": _increment, "dec": _decrement,
    "swap": _swap}
_SCAN = {name: name for name in ("add", "sub", "min", "max", "and", "or", "xor", "swap")}
_FLOAT: dict[str, Any] = {
    "add": lambda v, m, d: v.fadd(m, d), "min": lambda v, m, d: v.fmin(m, d), "max": lambda v, m, d: v.fmax(m, d)}
_INTEGER_KINDS = (("add", "u"), ("sub", "u"), ("rsub", "u"), ("min", "i"), ("min", "u"), ("max", "i"), ("max", "u"),
                  ("and", "b"), ("or", "b"), ("xor", "b"), ("inc", "u"), ("dec", "u"), ("swap", "b"))


def define(t: Table) -> None:
    for prefix in ("flat", "global", "scratch", "buffer"):
        for kind in ("u8", "i8", "u16", "i16"):
            t[f"{prefix}_load_{kind}"] = Load(kind)
        for kind in ("u8", "i8"):
            t[f"{prefix}_load_d16_{kind}"] = Load(kind, half=0)
            t[f"{prefix}_load_d16_hi_{kind}"] = Load(kind, half=1)
        t[f"{prefix}_load_d16_b16"] = Load("u16", half=0)
        t[f"{prefix}_load_d16_hi_b16"] = Load("u16", half=1)
        for bits, kind in ((8, "u8"), (16, "u16")):
            t[f"{prefix}_store_b{bits}"] = Store(kind)
            t[f"{prefix}_store_d16_hi_b{bits}"] = Store(kind, half=1)
        _define_wide(t, prefix)
    for name in ("load", "store"):
        t[f"global_{name}_addtid_b32"] = Load("u32") if name == "load" else Store("u32")
    for prefix in ("flat_atomic", "global_atomic", "buffer_atomic"):
        _define_atomics(t, prefix)
        t[f"{prefix}_csub_u32"] = Atomic("u32", _subtract_clamped)
    _define_ds(t)


def _define_wide(t: Table, prefix: str) -> None:
    for count in (1, 2, 3, 4):
        t[f"{prefix}_load_b{32 * count}"] = Load("u32", count)
        t[f"{prefix}_store_b{32 * count}"] = Store("u32", count)


def _define_atomics(t: Table, prefix: str) -> None:
    for width in (32, 64):
        for name, sign in _INTEGER_KINDS:
            if name != "rsub":
                t[f"{prefix}_{name}_{sign}{width}"] = Atomic(f"{sign}{width}", _INTEGER[name], scan=_SCAN.get(name))
        t[f"{prefix}_cmpswap_b{width}"] = Atomic(f"b{width}", _compare_swap, compares=True, exchanges=True)
    for name, function in _FLOAT.items():
        t[f"{prefix}_{name}_f32"] = Atomic("f32", function, scan="add" if name == "add" else None)
    t[f"{prefix}_cmpswap_f32"] = Atomic("f32", _compare_swap, compares=True, exchanges=True)


def _define_ds(t: Table) -> None:
    for kind in ("u8", "i8", "u16", "i16"):
        t[f"ds_load_{kind}"] = Load(kind)
        if kind != "i16":
            t[f"ds_load_{kind}_d16"] = Load(kind, half=0)
            t[f"ds_load_{kind}_d16_hi"] = Load(kind, half=1)
    for bits, kind in ((8, "u8"), (16, "u16")):
        t[f"ds_store_b{bits}"] = Store(kind)
        t[f"ds_store_b{bits}_d16_hi"] = Store(kind, half=1)
    _define_wide(t, "ds")
    for name in ("2addr", "2addr_stride64"):
        for width, count in ((32, 1), (64, 2)):
            t[f"ds_load_{name}_b{width}"] = Load("u32", count)
            t[f"ds_store_{name}_b{width}"] = Store("u32", count)
            t[f"ds_storexchg_{name}_rtn_b{width}"] = Atomic(f"b{width}", _swap, scan="swap")
    t["ds_load_addtid_b32"], t["ds_store_addtid_b32"] = Load("u32"), Store("u32")
    for width in (32, 64):
        for name, sign in _INTEGER_KINDS:
            if name == "swap":
                t[f"ds_storexchg_rtn_b{width}"] = Atomic(f"b{width}", _swap, scan="swap")
                continue
            atomic = Atomic(f"{sign}{width}", _INTEGER[name], scan=_SCAN.get(name))
            t[f"ds_{name}_{sign}{width}"] = t[f"ds_{name}_rtn_{sign}{width}"] = atomic
        # The data operand holds the new value, the second one what memory is compared with.
        for kind in ("b", "f"):
            compare = Atomic(f"{kind}{width}", _compare_swap, compares=True, exchanges=True)
            t[f"ds_cmpstore_{kind}{width}"] = t[f"ds_cmpstore_rtn_{kind}{width}"] = compare
        mask_or = Atomic(f"b{width}", lambda v, old, mask, data: v.or_(v.and_(old, v.not_(mask)), data), compares=True)
        t[f"ds_mskor_b{width}"] = t[f"ds_mskor_rtn_b{width}"] = mask_or
        for name in ("min", "max"):
            atomic = Atomic(f"f{width}", _FLOAT[name])
            t[f"ds_{name}_f{width}"] = t[f"ds_{name}_rtn_f{width}"] = atomic
    t["ds_add_f32"] = t["ds_add_rtn_f32"] = Atomic("f32", _FLOAT["add"], scan="add")
    t["ds_wrap_rtn_b32"] = Atomic("u32", lambda v, old, back, limit: v.select(
        v.ge(old, back), v.sub(old, back), v.add(old, limit)), compares=True)
    # Bit 63 of the data says whether to store the 32 bits below it, in each half.
    t["ds_condxchg32_rtn_b64"] = Atomic("u64", _conditional_exchange)


def _conditional_exchange(v: V, old: Any, data: Any) -> Any:
    def half(old_half: Any, new_half: Any) -> Any:
        return v.select(v.ne(v.shr(new_half, 31), 0), v.and_(new_half, 0x7fffffff), old_half)
    return v.join(half(v.low(old), v.low(data)), half(v.high(old), v.high(data)))
