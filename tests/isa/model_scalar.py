"""What scalar instructions do, as plain integers, from the ISA guide's pseudo-code: see :mod:`model_vector`.

The types name what the function gets; ``exec`` is EXEC as wide as the instruction, ``scc`` a bool. Results after ">".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model_vector import Lane, low, signed

SCALARS: dict[str, Lane] = {}


def op(name: str, types: str, function: Callable[..., Any]) -> None:
    assert name not in SCALARS, name
    SCALARS[name] = (types, function)


def _set(name: str, types: str, function: Callable[..., int]) -> None:
    """SCC says whether the result is not zero."""
    bits = int(types.split(">")[1][1:])

    def apply(*xs: int) -> tuple[int, bool]:
        result = low(function(*xs), bits)
        return result, result != 0
    op(name, types + " scc", apply)


def _overflows(n: int) -> bool:
    return not -(1 << 31) <= n < 1 << 31


def _field(a: int, control: int, bits: int, sign: bool) -> int:
    offset, width = control & bits - 1, min(control >> 16 & 127, bits)
    if width == 0:
        return 0
    part = a >> offset
    return signed(part, width) if sign and width < bits else part if width >= bits else part & (1 << width) - 1


def _first(a: int, bits: int) -> int:
    return bits - a.bit_length() if a else -1


def _last(a: int) -> int:
    return (a & -a).bit_length() - 1 if a else -1


def _run(a: int, bits: int) -> int:
    return _first(low(~a, bits) if a < 0 else a, bits)


def _twice(a: int) -> int:
    return sum((a >> i & 1) * 3 << 2 * i for i in range(32))


def _quads(a: int, bits: int) -> list[bool]:
    return [bool(a >> 4 * i & 15) for i in range(bits // 4)]


LOGIC: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "nand": lambda a, b: ~(a & b),
    "nor": lambda a, b: ~(a | b), "xnor": lambda a, b: ~(a ^ b), "and_not1": lambda a, b: a & ~b,
    "or_not1": lambda a, b: a | ~b}
SAVING = {**LOGIC, "and_not0": lambda a, b: ~a & b, "or_not0": lambda a, b: ~a | b}
RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b, "lg": lambda a, b: a != b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b}


def _define_two() -> None:
    op("s_add_u32", "u32 u32>u32 scc", lambda a, b: (a + b, a + b >> 32 != 0))
    op("s_sub_u32", "u32 u32>u32 scc", lambda a, b: (a - b, a < b))
    op("s_add_i32", "i32 i32>i32 scc", lambda a, b: (a + b, _overflows(a + b)))
    op("s_sub_i32", "i32 i32>i32 scc", lambda a, b: (a - b, _overflows(a - b)))
    op("s_addc_u32", "u32 u32 scc>u32 scc", lambda a, b, c: (a + b + c, a + b + c >> 32 != 0))
    op("s_subb_u32", "u32 u32 scc>u32 scc", lambda a, b, c: (a - b - c, a - b - c < 0))
    _set("s_absdiff_i32", "i32 i32>i32", lambda a, b: abs(signed(a - b)))
    for n in range(1, 5):
        op(f"s_lshl{n}_add_u32", "u32 u32>u32 scc", lambda a, b, n=n: ((a << n) + b, (a << n) + b >> 32 != 0))
    for k in ("u32", "i32"):
        op(f"s_min_{k}", f"{k} {k}>{k} scc", lambda a, b: (min(a, b), a < b))
        op(f"s_max_{k}", f"{k} {k}>{k} scc", lambda a, b: (max(a, b), a >= b))
        op(f"s_mul_hi_{k}", f"{k} {k}>{k}", lambda a, b: a * b >> 32)
    op("s_mul_i32", "i32 i32>i32", lambda a, b: a * b)
    for name, (i, j) in {"ll": (0, 0), "lh": (0, 1), "hh": (1, 1), "hl": (1, 0)}.items():
        op(f"s_pack_{name}_b32_b16", "u32 u32>u32",
           lambda a, b, i=i, j=j: a >> 16 * i & 0xffff | (b >> 16 * j & 0xffff) << 16)
    for n in (32, 64):
        u, i = f"u{n}", f"i{n}"
        _set(f"s_lshl_b{n}", f"{u} u32>{u}", lambda a, k, n=n: a << (k & n - 1))
        _set(f"s_lshr_b{n}", f"{u} u32>{u}", lambda a, k, n=n: a >> (k & n - 1))
        _set(f"s_ashr_i{n}", f"{i} u32>{i}", lambda a, k, n=n: a >> (k & n - 1))
        _set(f"s_bfe_u{n}", f"{u} u32>{u}", lambda a, k, n=n: _field(a, k, n, False))
        _set(f"s_bfe_i{n}", f"{i} u32>{i}", lambda a, k, n=n: _field(a, k, n, True))
        op(f"s_bfm_b{n}", f"u32 u32>{u}", lambda w, k, n=n: (1 << (w & n - 1)) - 1 << (k & n - 1))
        op(f"s_cselect_b{n}", f"{u} {u} scc>{u}", lambda a, b, c: a if c else b)
        for name, logic in LOGIC.items():
            _set(f"s_{name}_b{n}", f"{u} {u}>{u}", logic)
        for name, relation in RELATIONS.items():
            if n == 32:
                for k in ("u32", "i32"):
                    op(f"s_cmp_{name}_{k}", f"{k} {k}>scc", relation)
                    op(f"s_cmpk_{name}_{k}", f"d:{k} {'imm' if k == 'i32' else 'uimm'}>scc", relation)
            elif name in ("eq", "lg"):
                op(f"s_cmp_{name}_u64", "u64 u64>scc", relation)
        op(f"s_bitcmp0_b{n}", f"{u} u32>scc", lambda a, k, n=n: not a >> (k & n - 1) & 1)
        op(f"s_bitcmp1_b{n}", f"{u} u32>scc", lambda a, k, n=n: bool(a >> (k & n - 1) & 1))
    op("s_movk_i32", "imm>i32", lambda k: k)
    op("s_cmovk_i32", "imm scc d:i32>i32", lambda k, c, d: k if c else d)
    op("s_addk_i32", "d:i32 imm>i32 scc", lambda d, k: (d + k, _overflows(d + k)))
    op("s_mulk_i32", "d:i32 imm>i32", lambda d, k: d * k)


def _define_one() -> None:
    for n in (32, 64):
        u, i = f"u{n}", f"i{n}"
        op(f"s_mov_b{n}", f"{u}>{u}", lambda a: a)
        op(f"s_cmov_b{n}", f"{u} scc d:{u}>{u}", lambda a, c, d: a if c else d)
        op(f"s_brev_b{n}", f"{u}>{u}", lambda a, n=n: int(f"{a:0{n}b}"[::-1], 2))
        op(f"s_ctz_i32_b{n}", f"{u}>i32", _last)
        op(f"s_clz_i32_u{n}", f"{u}>i32", lambda a, n=n: _first(a, n))
        op("s_cls_i32" + ("_i64" if n == 64 else ""), f"{i}>i32", lambda a, n=n: _run(a, n))
        op(f"s_bitset0_b{n}", f"u32 d:{u}>{u}", lambda k, d, n=n: d & ~(1 << (k & n - 1)))
        op(f"s_bitset1_b{n}", f"u32 d:{u}>{u}", lambda k, d, n=n: d | 1 << (k & n - 1))
        _set(f"s_bcnt0_i32_b{n}", f"{u}>u32", lambda a, n=n: n - a.bit_count())
        _set(f"s_bcnt1_i32_b{n}", f"{u}>u32", lambda a: a.bit_count())
        _set(f"s_quadmask_b{n}", f"{u}>{u}", lambda a, n=n: sum(q << i for i, q in enumerate(_quads(a, n))))
        _set(f"s_wqm_b{n}", f"{u}>{u}", lambda a, n=n: sum(q * 15 << 4 * i for i, q in enumerate(_quads(a, n))))
        _set(f"s_not_b{n}", f"{u}>{u}", lambda a: ~a)
        for name, logic in SAVING.items():
            def save(a: int, old: int, logic: Any = logic, n: int = n) -> tuple[int, int, bool]:
                new = low(logic(a, old), n)
                return old, new, new != 0

            def write(a: int, old: int, logic: Any = logic, n: int = n) -> tuple[int, int, bool]:
                new = low(logic(a, old), n)
                return new, new, new != 0
            op(f"s_{name}_saveexec_b{n}", f"{u} exec{n}>{u} exec{n} scc", save)
            if name in ("and_not0", "and_not1"):
                op(f"s_{name}_wrexec_b{n}", f"{u} exec{n}>{u} exec{n} scc", write)
    op("s_sext_i32_i8", "u32>i32", lambda a: signed(a, 8))
    op("s_sext_i32_i16", "u32>i32", lambda a: signed(a, 16))
    op("s_bitreplicate_b64_b32", "u32>u64", _twice)
    _set("s_abs_i32", "i32>i32", abs)


_define_two()
_define_one()
