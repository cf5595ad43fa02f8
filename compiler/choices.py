"""Optional rewrites of a kernel, as a list of choices that a heuristic or a search makes.

============  =====================  =============================================================================
kind          amounts                what it does
============  =====================  =============================================================================
``upcast``    n                      an iteration of GLOBAL range ``axis`` computes n neighbours, side by side
``local``     n                      n iterations of GLOBAL range ``axis`` are work-items of one workgroup
``unroll``    n                      n iterations of REDUCE range ``axis`` are done in one turn of its loop
``group``     n                      n work-items share REDUCE range ``axis`` and add up their parts in the end;
                                     alone, for the workgroup computes one output
``matrix``    rows, columns of       a product of matrices by matrix instructions (:mod:`compiler.matrix`)
              waves, of tiles; depth
``shared``    0 or 1                 what a workgroup loads in common goes through its own memory; with 1, the next
                                     tile is under way meanwhile (:mod:`compiler.shared`, :mod:`compiler.pipeline`)
============  =====================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler import watch
from compiler.expand import expand
from compiler.lower import Axis, divides
from compiler.matrix import SIDE, find_product, to_matrix
from compiler.optimize import flatten_grid, merge_ranges, ranges_of, split
from compiler.pipeline import rotate
from compiler.shared import loads_to_stage, share_reduction, stage
from compiler.symbolic import simplify
from compiler.uop import Ops, UOp

__all__ = ["Choice", "apply", "optimized"]


@dataclass(frozen=True)
class Choice:
    """One optional rewrite. ``axis`` is the number of a range: RANGE's ``arg[0]``."""

    kind: str
    axis: int
    amounts: tuple[int, ...]


_KINDS = {"upcast": (Axis.GLOBAL, Axis.UNROLL), "local": (Axis.GLOBAL, Axis.LOCAL),
          "unroll": (Axis.REDUCE, Axis.UNROLL)}


def _varies(sink: UOp) -> bool:
    """Is the number of iterations given with the launch? Then they are no workgroups."""
    return any(r.src[0].op is not Ops.CONST for r in ranges_of(sink, Axis.GLOBAL))


def _apply(sink: UOp, choice: Choice) -> UOp | None:
    if choice.kind in _KINDS:
        had, gets = _KINDS[choice.kind]
        (n,) = choice.amounts
        r = next((x for x in sink.toposort() if x.op is Ops.RANGE and x.arg == (choice.axis, had)), None)
        if r is None or n < 2 or not divides(n, r) or (gets is Axis.LOCAL and _varies(sink)):
            return None
        return split(sink, r, [(n, gets)])[0]
    if choice.kind == "group":
        return None if _varies(sink) else share_reduction(sink, choice.axis, choice.amounts[0])
    if choice.kind == "matrix":
        product = find_product(sink)
        rows, columns, down, across, depth = choice.amounts
        if product is None or _varies(sink) or not (
                divides(SIDE * rows * down, product.m) and divides(SIDE * columns * across, product.n)
                and divides(SIDE * depth, product.k)):
            return None
        return to_matrix(sink, product, (rows, columns), (down, across), depth)
    assert choice.kind == "shared", choice
    sink = simplify(sink)
    return stage(sink, loads_to_stage(sink), bool(choice.amounts[0]))


def apply(sink: UOp, choices: Sequence[Choice]) -> UOp | None:
    """The kernel with these choices, in this order; None if one of them cannot be."""
    if len(choices) > 1 and any(c.kind == "group" for c in choices):
        return None
    for choice in choices:
        made = _apply(sink, choice)
        if made is None:
            return None
        watch.step(f"{choice.kind} {choice.axis}: {', '.join(map(str, choice.amounts))}", sink, made)
        sink = made
    if not choices:
        return sink
    made = rotate(expand(simplify(sink)))
    watch.step("expand", sink, made)
    return made


def optimized(sink: UOp, choices: Sequence[Choice], gpu: bool) -> UOp | None:
    """The kernel ready to be made legal: ranges merged, choices applied, and on a GPU its grid flat.

    Choices number the ranges that :func:`merge_ranges` leaves.
    """
    merged = merge_ranges(sink)
    watch.step("merge ranges", sink, merged)
    made = apply(merged, choices)
    if made is None or not gpu:
        return made
    flat = flatten_grid(made)
    watch.step("flatten the grid", made, flat)
    return flat
