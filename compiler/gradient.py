"""Reverse-mode derivatives: one rule an operation, and the walk that applies them.

A rule gets the node and the gradient of its value, and gives the gradients of its sources (None: nothing flows).
They are tensor nodes like any other, so that derivatives of derivatives need nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from compiler import dtypes, graph
from compiler.graph import alu, full
from compiler.match import PatternMatcher, UPat
from compiler.uop import COMPARE, Ops, UOp

__all__ = ["derivatives", "gradients", "rules"]

_FEW = 4        # values for each element of a table's axis, up to which their places are searched for all over the axis

Grads = tuple[UOp | None, ...]
derivatives: dict[str, Callable[[UOp, UOp], Grads]] = {}
"""Of DERIVED nodes, by their names; :mod:`compiler.methods.derived` fills it."""


def _like(x: UOp, value: float) -> UOp:
    return full(x.shape, x.dtype, value)


def _mul(a: UOp, b: UOp) -> UOp:
    return alu(Ops.MUL, a, b)


def _div(a: UOp, b: UOp) -> UOp:
    return alu(Ops.FDIV, a, b)


def _neg(a: UOp) -> UOp:
    return alu(Ops.NEG, a)


def _where(c: UOp, a: UOp, b: UOp) -> UOp:
    return alu(Ops.WHERE, c, a, b)


def _cos(x: UOp) -> UOp:
    return alu(Ops.SIN, alu(Ops.ADD, _like(x, math.pi / 2), _neg(x)))


def _cast(n: UOp, ctx: UOp) -> Grads:
    return (graph.cast(ctx, n.src[0].dtype) if n.src[0].dtype.is_float else None,)


def _max(n: UOp, ctx: UOp) -> Grads:
    """The greater one's; at a tie half each, as PyTorch has it."""
    x, y = n.src
    tie = alu(Ops.CMPEQ, x, y)
    half = _mul(ctx, _like(ctx, 0.5))
    zero = _like(ctx, 0.0)
    return (_where(tie, half, _where(alu(Ops.CMPLT, y, x), ctx, zero)),
            _where(tie, half, _where(alu(Ops.CMPLT, x, y), ctx, zero)))


def _expand(n: UOp, ctx: UOp) -> Grads:
    x = n.src[0]
    axes = [a for a, (i, o) in enumerate(zip(x.shape, n.shape, strict=True)) if i != o]
    return (graph.reduce(ctx, Ops.ADD, axes),)


def _unfold(n: UOp, ctx: UOp) -> UOp:
    shape = n.src[0].shape
    wide = graph.window(ctx, n.arg[0], shape[-1], *n.arg[2:])
    return graph.shrink(wide, [(0, m) for m in shape])      # the axis may have room for a window more


def _reduce(n: UOp, ctx: UOp) -> Grads:
    (op, axes), x = n.arg, n.src[0]
    g, value = graph.expand(ctx, x.shape), graph.expand(n, x.shape)
    if op is Ops.ADD:
        return (g,)
    if op is Ops.MAX:       # shared equally by those that are greatest, or NaN
        hit = graph.cast(alu(Ops.OR, alu(Ops.CMPEQ, x, value), alu(Ops.CMPNE, x, x)), x.dtype)
        count = graph.expand(graph.reduce(hit, Ops.ADD, axes), x.shape)
        return (_div(_mul(g, hit), count),)
    # a product: of the others, also where there are zeros
    zero = alu(Ops.CMPEQ, x, _like(x, 0.0))
    zeros = graph.expand(graph.reduce(graph.cast(zero, dtypes.int32), Ops.ADD, axes), x.shape)
    rest = graph.expand(graph.reduce(_where(zero, _like(x, 1.0), x), Ops.MUL, axes), x.shape)
    none = alu(Ops.CMPEQ, zeros, full(x.shape, dtypes.int32, 0))
    one = alu(Ops.CMPEQ, zeros, full(x.shape, dtypes.int32, 1))
    others = _where(zero, _where(one, rest, _like(x, 0.0)),
                    _where(none, _div(value, _where(zero, _like(x, 1.0), x)), _like(x, 0.0)))
    return (_mul(g, others),)


def _gather(n: UOp, ctx: UOp) -> Grads:
    x, places = n.src[1:]
    axis = n.arg[1]
    if places.shape[axis] in range(1, _FEW + 1):
        return (None, _one_hot(ctx, axis, places, x.shape[axis]), None)
    return (None, graph.scatter(_like(x, 0.0), Ops.ADD, n.arg[1], places, ctx), None)


def _one_hot(values: UOp, axis: int, places: UOp, n: int) -> UOp:
    """Few values to their places among ``n``: a sum over all that may be there, which fuses with what follows."""
    axes = [*(a for a in range(len(values.shape)) if a != axis), axis]
    wide = (*values.shape[:axis], n, *values.shape[axis + 1:], values.shape[axis])

    def spread(t: UOp) -> UOp:
        t = graph.permute(t, axes)
        return graph.expand(graph.reshape(t, (*t.shape[:axis], 1, *t.shape[axis:])), wide)
    at = graph.reshape(graph.iota(n, places.dtype), tuple(n if a == axis else 1 for a in range(len(wide))))
    hit = alu(Ops.CMPEQ, spread(places), graph.expand(at, wide))
    picked = graph.reduce(_where(hit, spread(values), full(wide, values.dtype, 0)), Ops.ADD, [len(wide) - 1])
    return graph.reshape(picked, wide[:-1])


derivatives["gather"] = _gather


def _scatter(n: UOp, ctx: UOp) -> Grads:
    """Each value's from its place; of maxima shared equally by those that are greatest, of products by the others."""
    (op, axis), (x, places, values) = n.arg, n.src

    def there(t: UOp) -> UOp:
        return graph.gather(t, axis, places)
    if op is Ops.ADD:
        return (ctx, None, there(ctx))
    if op is Ops.MAX:
        best = there(n)
        stays, comes = (graph.cast(alu(Ops.OR, alu(Ops.CMPEQ, s, t), alu(Ops.CMPNE, s, s)), x.dtype)
                        for s, t in ((x, n), (values, best)))
        share = _div(ctx, alu(Ops.MAX, graph.scatter(stays, Ops.ADD, axis, places, comes), _like(ctx, 1.0)))
        return (_mul(share, stays), None, _mul(there(share), comes))
    nothing = [alu(Ops.CMPEQ, s, _like(s, 0.0)) for s in (x, values)]
    ones = [_where(z, _like(s, 1.0), s) for z, s in zip(nothing, (x, values), strict=True)]
    zeros = graph.scatter(graph.cast(nothing[0], dtypes.int32), Ops.ADD, axis, places,
                          graph.cast(nothing[1], dtypes.int32))
    rest = _mul(ctx, graph.scatter(ones[0], Ops.MUL, axis, places, ones[1]))

    def share_of(zero: UOp, one: UOp, zeros: UOp, rest: UOp) -> UOp:
        alone = _where(alu(Ops.CMPEQ, zeros, full(zeros.shape, dtypes.int32, 1)), rest, _like(rest, 0.0))
        others = _where(alu(Ops.CMPEQ, zeros, full(zeros.shape, dtypes.int32, 0)), _div(rest, one), _like(rest, 0.0))
        return _where(zero, alone, others)
    return (share_of(nothing[0], ones[0], zeros, rest), None,
            share_of(nothing[1], ones[1], there(zeros), there(rest)))


def _multi(n: UOp, ctx: UOp) -> Grads:
    """To each part its own; where all are the whole, to the first."""
    axis, devices = n.arg
    if axis is None:
        return (graph.copy(ctx, devices[0]), *(None,) * (len(n.src) - 1))
    out, at = [], 0
    for part, device in zip(n.src, devices, strict=True):
        cut = [(at, at + part.shape[axis]) if a == axis else (0, size) for a, size in enumerate(n.shape)]
        out.append(graph.shrink(graph.copy(ctx, device), cut))
        at += part.shape[axis]
    return tuple(out)


rules = PatternMatcher(
    [
        (UPat(Ops.NEG, name="n"), lambda n, ctx: (_neg(ctx),)),
        (UPat(Ops.SQRT, name="n"), lambda n, ctx: (_div(ctx, _mul(n, _like(n, 2.0))),)),
        (UPat(Ops.EXP2, name="n"), lambda n, ctx: (_mul(ctx, _mul(n, _like(n, math.log(2)))),)),
        (UPat(Ops.LOG2, name="n"), lambda n, ctx: (_div(ctx, _mul(n.src[0], _like(n, math.log(2)))),)),
        (UPat(Ops.SIN, name="n"), lambda n, ctx: (_mul(ctx, _cos(n.src[0])),)),
        (
            UPat(Ops.DERIVED, name="n"),
            lambda n, ctx: derivatives[n.arg if isinstance(n.arg, str) else n.arg[0]](n, ctx),
        ),
        (UPat(Ops.TRUNC, name="n"), lambda n, ctx: (_like(ctx, 0.0),)),
        (
            UPat(
                (Ops.DETACH, Ops.BITCAST, Ops.IDIV, Ops.AND, Ops.OR, Ops.XOR, Ops.SHL, Ops.SHR, Ops.MOD),
                name="n",
            ),
            lambda n, ctx: (None,) * len(n.src),
        ),
        (UPat(COMPARE, name="n"), lambda n, ctx: (None, None)),
        (UPat(Ops.CAST, name="n"), _cast),
        (UPat(Ops.ADD, name="n"), lambda n, ctx: (ctx, ctx)),
        (UPat(Ops.MUL, name="n"), lambda n, ctx: (_mul(ctx, n.src[1]), _mul(ctx, n.src[0]))),
        (UPat(Ops.FDIV, name="n"), lambda n, ctx: (_div(ctx, n.src[1]), _neg(_div(_mul(ctx, n), n.src[1])))),
        (UPat(Ops.MAX, name="n"), _max),
        (
            UPat(Ops.WHERE, name="n"),
            lambda n, ctx: (None, _where(n.src[0], ctx, _like(ctx, 0.0)), _where(n.src[0], _like(ctx, 0.0), ctx)),
        ),
        (UPat(Ops.RESHAPE, name="n"), lambda n, ctx: (graph.reshape(ctx, n.src[0].shape),)),
        (
            UPat(Ops.PERMUTE, name="n"),
            lambda n, ctx: (graph.permute(ctx, [n.arg.index(a) for a in range(len(n.arg))]),),
        ),
        (UPat(Ops.EXPAND, name="n"), _expand),
        (
            UPat(Ops.PAD, name="n"),
            lambda n, ctx: (graph.shrink(ctx, [(b, b + s) for (b, _), s in zip(n.arg, n.src[0].shape, strict=True)]),),
        ),
        (
            UPat(Ops.SHRINK, name="n"),
            lambda n, ctx: (graph.pad(ctx, [(b, s - e) for (b, e), s in zip(n.arg, n.src[0].shape, strict=True)]),),
        ),
        (
            UPat(Ops.WINDOW, name="n"),
            lambda n, ctx: (graph.fold(ctx, n.arg[0], n.src[0].shape[n.arg[0]], *n.arg[2:]),),
        ),
        (
            UPat(Ops.FOLD, name="n"),
            lambda n, ctx: (_unfold(n, ctx),),
        ),
        (UPat(Ops.FLIP, name="n"), lambda n, ctx: (graph.flip(ctx, n.arg),)),
        (UPat(Ops.REDUCE_AXIS, name="n"), _reduce),
        (UPat(Ops.SCATTER, name="n"), _scatter),
        (UPat(Ops.CONTIGUOUS, name="n"), lambda n, ctx: (ctx,)),
        (UPat(Ops.COPY, name="n"), lambda n, ctx: (graph.copy(ctx, n.src[0].device) if n.src[0].device else ctx,)),
        (UPat(Ops.ASSIGN, name="n"), lambda n, ctx: (None, ctx)),
        (UPat(Ops.MULTI, name="n"), _multi),
    ]
)


def gradients(root: UOp, seed: UOp, targets: Sequence[UOp]) -> dict[UOp, UOp]:
    """The gradient of ``root`` (weighted by ``seed``) for each target that it depends on."""
    wanted = set(targets)
    order = list(root.toposort(lambda n: n not in wanted or n is root))
    leads: dict[UOp, bool] = {}
    for node in order:
        leads[node] = node in wanted or (node.op is not Ops.DETACH and any(
            leads.get(s, False) for s in node.src[node.op is Ops.DERIVED:]))
    grads: dict[UOp, UOp] = {root: seed}
    for node in reversed(order):
        g = grads.get(node)
        if g is None or not leads[node] or not node.src or (node in wanted and node is not root):
            continue
        sources = rules.rewrite(node, g)
        assert sources is not None, f"no derivative rule for {node.op.name}"
        for s, part in zip(node.src, sources, strict=True):
            if part is not None and leads.get(s, False):
                if part.place is None and part.src:
                    part.place = node.place
                grads[s] = part if s not in grads else alu(Ops.ADD, grads[s], part)
    return {t: grads[t] for t in wanted if t in grads}
