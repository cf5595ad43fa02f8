"""v_cmp and v_cmpx: a mask into VCC or an SGPR, or into EXEC."""

from __future__ import annotations

from typing import Any

from mock.isa.semantics.table import Table

__all__ = ["define"]

_FLOAT = ("f", "lt", "eq", "le", "gt", "lg", "ge", "o", "u", "nge", "nlg", "ngt", "nle", "neq", "nlt", "t")
_INTEGER: dict[str, Any] = {
    "lt": lambda v, a, b: v.lt(a, b), "eq": lambda v, a, b: v.eq(a, b), "le": lambda v, a, b: v.le(a, b),
    "gt": lambda v, a, b: v.gt(a, b), "ne": lambda v, a, b: v.ne(a, b), "ge": lambda v, a, b: v.ge(a, b),
    "f": lambda v, a, b: v.ne(a, a), "t": lambda v, a, b: v.eq(a, a)}


def define(t: Table) -> None:
    for prefix, result in (("v_cmp", "mask"), ("v_cmpx", "exec_mask")):
        for kind in ("f16", "f32", "f64"):
            for relation in _FLOAT:
                t.op(f"{prefix}_{relation}_{kind}", f"{kind} {kind} -> {result}",
                     lambda v, a, b, relation=relation: v.compare(relation, a, b))
            t.op(f"{prefix}_class_{kind}", f"{kind} u32 -> {result}", lambda v, a, wanted: v.classify(a, wanted))
        for kind in ("i16", "u16", "i32", "u32", "i64", "u64"):
            for relation, function in _INTEGER.items():
                if kind.endswith("16") and relation in ("f", "t"):
                    continue
                t.op(f"{prefix}_{relation}_{kind}", f"{kind} {kind} -> {result}", function)
