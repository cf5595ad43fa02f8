"""Matrix instructions: sums of products of half-precision or 8-bit numbers by WMMA.

A wave of 32 lanes multiplies 16x16 matrices. Lane l holds row l % 16 of A, all 16 of it, and column l % 16 of B;
of the result, element i of lane l is row 2*i + l // 16, column l % 16 (RDNA3 ISA, "Wave Matrix Multiply Accumulate").
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler import dtypes
from compiler.lower import Axis, divides
from compiler.optimize import new_ranges, split
from compiler.symbolic import terms
from compiler.uop import Ops, UOp

__all__ = ["SIDE", "Product", "find_product", "to_matrix"]

SIDE = 16


@dataclass(frozen=True)
class Product:
    """``reduce`` sums ``a * b`` over ``k``; ``a`` depends on ``m`` and not on ``n``, ``b`` the other way round."""

    reduce: UOp
    a: UOp
    b: UOp
    m: UOp
    n: UOp
    k: UOp


def _factors(reduce: UOp) -> tuple[UOp, UOp] | None:
    """The narrow factors of what is summed, if a matrix instruction computes the same."""
    value = reduce.src[0]
    if reduce.arg is not Ops.ADD or value.op is not Ops.MUL:
        return None
    a, b = value.src
    if reduce.dtype is dtypes.float16 and a.dtype is b.dtype is dtypes.float16:
        return a, b
    if a.op is not Ops.CAST or b.op is not Ops.CAST:
        return None
    a, b = a.src[0], b.src[0]
    kinds = {dtypes.float16: dtypes.float32, dtypes.bfloat16: dtypes.float32, dtypes.int8: dtypes.int32,
             dtypes.uint8: dtypes.int32}
    return (a, b) if a.dtype is b.dtype and kinds.get(a.dtype) is reduce.dtype is value.dtype else None


def find_product(sink: UOp) -> Product | None:
    """The product of matrices in a kernel that has one reduction, with sides that 16 divides."""
    order = sink.toposort()
    reduces = [n for n in order if n.op is Ops.REDUCE]
    if len(reduces) != 1 or (factors := _factors(reduces[0])) is None:
        return None
    outer = [n for n in order if n.op is Ops.RANGE and n.arg[1] is Axis.GLOBAL and divides(SIDE, n)]
    inner = [r for r in reduces[0].src[1:] if divides(SIDE, r) and all(r in f.ranges for f in factors)]
    if not inner:
        return None
    steps = terms(sink.src[0].src[0].src[1])[0]
    best: Product | None = None
    for a, b in (factors, factors[::-1]):
        for m in outer:
            for n in outer:
                if m in a.ranges and m not in b.ranges and n in b.ranges and n not in a.ranges:
                    found = Product(reduces[0], a, b, m, n, inner[-1])
                    # lanes along the columns: the output's elements should lie side by side there
                    if best is None or steps.get(n, 1 << 60) < steps.get(best.n, 1 << 60):
                        best = found
    return best


def to_matrix(sink: UOp, product: Product, waves: tuple[int, int], tile: tuple[int, int], steps: int) -> UOp:
    """The kernel with WMMA: a workgroup of ``waves`` (rows, columns), each of which computes ``tile`` (rows, columns)
    of 16x16 results, ``steps`` instructions deep in a turn of the loop."""
    sink, ms = split(sink, product.m, [(waves[0], Axis.LOCAL), (tile[0], Axis.UNROLL), (SIDE, Axis.UNROLL)])
    # a lane's columns lie side by side, so that it stores them together
    sink, ns = split(sink, product.n, [(waves[1], Axis.LOCAL), (SIDE, Axis.UNROLL), (tile[1], Axis.UNROLL)])
    sink, ks = split(sink, product.k, [(steps, Axis.UNROLL), (SIDE, Axis.UNROLL)])
    mi, ni, ki = ms[-1], ns[-2 if tile[1] > 1 else -1], ks[-1]
    reduce = next(x for x in sink.toposort() if x.op is Ops.REDUCE)
    factors = _factors(reduce)
    assert factors is not None
    a, b = factors if mi in factors[0].ranges else factors[::-1]
    number = new_ranges(sink)

    def made(n: int, axis: Axis) -> UOp:
        return UOp(Ops.RANGE, mi.dtype, (mi.like(n),), (next(number), axis))

    half, lane, element = made(2, Axis.LOCAL), made(SIDE, Axis.LOCAL), made(8, Axis.UNROLL)
    left = UOp(Ops.VECTOR, a.dtype, (a.substitute({mi: lane}), ki))
    right = UOp(Ops.VECTOR, b.dtype, (b.substitute({ni: lane}), ki))
    rest = tuple(r for r in reduce.src[1:] if r is not ki)
    total = UOp(Ops.WMMA, reduce.dtype, (left, right))
    if rest:
        total = UOp(Ops.REDUCE, reduce.dtype, (total, *rest), Ops.ADD)
    packed = reduce.dtype is dtypes.float16     # each in a dword of its own
    out = UOp(Ops.ELEMENT, reduce.dtype, (total, element * 2 if packed else element))
    return sink.substitute({reduce: out, mi: element * 2 + half, ni: lane})
