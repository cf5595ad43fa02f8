"""Simplification that never changes a value: constant folding, identities, and integer algebra for indices.

Integer sums are kept as ``a*x + b*y + ... + constant``. Division and remainder are taken apart along such sums,
with the intervals of :attr:`UOp.bounds` deciding what may be dropped; that is what turns the index arithmetic of
reshapes and flattened grids back into the plain ranges it came from. All of it is exact for wrapping integers:
a rule that would be wrong on overflow asks for intervals that exclude it.
"""

from __future__ import annotations

from math import gcd, prod

from compiler import dtypes
from compiler.match import PatternMatcher, UPat, graph_rewrite
from compiler.uop import ALU, COMPARE, Ops, UOp, fold

__all__ = ["load_rules", "simplify", "symbolic"]

INTS = tuple(t for t in dtypes.all_types if t.is_int)
Terms = dict[UOp, int]


def terms(node: UOp) -> tuple[Terms, int]:
    """An integer node as ({factor: coefficient}, constant), modulo the type's wrapping."""
    out: Terms = {}
    constant = 0
    stack = [(node, 1)]
    while stack:
        x, k = stack.pop()
        if x.op is Ops.CONST:
            constant += k * x.arg
        elif x.op is Ops.ADD:
            stack.append((x.src[1], k))
            stack.append((x.src[0], k))
        elif x.op is Ops.MUL and x.src[1].op is Ops.CONST:
            stack.append((x.src[0], k * x.src[1].arg))
        elif x.op is Ops.NEG:
            stack.append((x.src[0], -k))
        else:
            out[x] = out.get(x, 0) + k
    return out, constant


def build(parts: Terms, constant: int, like: UOp) -> UOp:
    """The node for a sum of terms; the inverse of :func:`terms`."""
    total: UOp | None = None
    for x, k in parts.items():
        k = like.dtype.cast(k)
        if k:
            piece = x if k == 1 else x * k
            total = piece if total is None else total + piece
    constant = like.dtype.cast(constant)
    if total is None:
        return like.like(constant)
    return total + constant if constant else total


def true_bounds(parts: Terms, constant: int) -> tuple[int, int]:
    """The interval of the sum over the integers, without wrapping."""
    low = high = constant
    for x, k in parts.items():
        a, b = x.bounds
        low, high = low + min(k * a, k * b), high + max(k * a, k * b)
    return low, high


def _cannot_wrap(node: UOp, parts: Terms, constant: int) -> bool:
    low, high = true_bounds(parts, constant)
    return node.dtype.min <= low and high <= node.dtype.max


def _recombine(parts: Terms) -> Terms:
    """``(x // c) * c*m + (x % c) * m`` is ``x * m``; ``(x // a % b) * a*m + (x % a) * m`` is ``x % (a*b) * m``."""
    for mod, m in parts.items():
        if mod.op is not Ops.MOD or mod.src[1].op is not Ops.CONST or (c := mod.src[1].arg) <= 0:
            continue
        x = mod.src[0]
        for other, k in parts.items():
            if k != m * c:
                continue
            if other.op is Ops.IDIV and _is_quotient(other, x, c):
                joined: UOp | None = x
            elif (other.op is Ops.MOD and other.src[1].op is Ops.CONST and other.src[1].arg > 0 and x.vmin >= 0
                  and other.src[0].op is Ops.IDIV and _is_quotient(other.src[0], x, c)
                  and c * other.src[1].arg <= x.dtype.max):
                joined = x % (c * other.src[1].arg)
            else:
                continue
            assert joined is not None
            rest = {y: n for y, n in parts.items() if y is not mod and y is not other}
            more, constant = terms(joined)
            if constant:
                more, constant = {joined: 1}, 0
            for y, n in more.items():
                rest[y] = rest.get(y, 0) + n * m
            return _recombine(rest)
    return parts


def _is_quotient(node: UOp, x: UOp, c: int) -> bool:
    return node.src[1].op is Ops.CONST and node.src[1].arg == c and node.src[0] is x


def canonical_sum(x: UOp) -> UOp | None:
    parts, constant = terms(x)
    return build(_recombine(parts), constant, x)


def divide(n: UOp, x: UOp, c: UOp) -> UOp | None:
    """``x // c``"""
    d = c.arg
    if d == 1:
        return x
    if d <= 0:
        return None
    low, high = x.bounds
    if low < 0:
        return n.like(0) if -d < low and high < d else None
    if low // d == high // d:
        return n.like(low // d)
    if x.op is Ops.IDIV and x.src[1].op is Ops.CONST and x.src[1].arg > 0 and x.src[0].vmin >= 0:
        product = x.src[1].arg * d
        return x.src[0] // product if product <= x.dtype.max else n.like(0)
    if x.op is Ops.MOD and x.src[1].op is Ops.CONST and x.src[1].arg % d == 0 and x.src[0].vmin >= 0:
        return (x.src[0] // d) % (x.src[1].arg // d)
    parts, constant = terms(x)
    if not _cannot_wrap(x, parts, constant):
        return None
    whole: Terms = {}
    rest: Terms = {}
    for y, k in parts.items():
        (whole if k % d == 0 else rest)[y] = k
    q, r = divmod(constant, d)
    if (whole or q) and true_bounds(rest, r)[0] >= 0:
        outer = build({y: k // d for y, k in whole.items()}, q, x)
        return outer + build(rest, r, x) // d
    for g in _divisors(parts, d):
        small = {y: k for y, k in parts.items() if k % g}
        a, b = true_bounds(small, constant % g)
        if a >= 0 and b < g:
            big = build({y: k // g for y, k in parts.items() if k % g == 0}, constant // g, x)
            return big // (d // g) if big.vmin >= 0 else None
    return None


def remainder(n: UOp, x: UOp, c: UOp) -> UOp | None:
    """``x % c``"""
    d = c.arg
    if d == 1:
        return n.like(0)
    if d <= 0:
        return None
    low, high = x.bounds
    if -d < low and high < d and (low >= 0 or high <= 0):
        return x
    if x.op is Ops.MOD and x.src[1].op is Ops.CONST and x.src[1].arg > 0 and x.src[1].arg % d == 0:
        return x.src[0] % d
    if low < 0:
        return None
    parts, constant = terms(x)
    if not _cannot_wrap(x, parts, constant):
        return None
    if low // d == high // d:
        return build(parts, constant - low // d * d, x)
    # only whole terms go, coefficients stay: x // d next to it has the same ones, and the two may recombine
    rest, r = {y: k for y, k in parts.items() if k % d}, constant % d
    if (
        (len(rest) < len(parts) or r != constant)
        and true_bounds(rest, r)[0] >= 0
        and true_bounds(rest, r)[1] <= x.dtype.max
    ):
        return build(rest, r, x) % d
    for g in _divisors(parts, d):
        small = {y: k for y, k in parts.items() if k % g}
        a, b = true_bounds(small, constant % g)
        if a >= 0 and b < g:
            big = build({y: k // g for y, k in parts.items() if k % g == 0}, constant // g, x)
            return (big % (d // g)) * g + build(small, constant % g, x) if big.vmin >= 0 else None
    return None


def _divisors(parts: Terms, d: int) -> list[int]:
    return sorted({g for k in parts.values() if (g := gcd(k, d)) > 1}, reverse=True)


def less(x: UOp, y: UOp) -> UOp | None:
    """``x < y`` with a constant on one side."""
    if x.op is Ops.CONST:       # c < y
        parts, constant = terms(y)
        if constant and parts and _cannot_wrap(y, parts, constant) and _cannot_wrap(y, parts, 0) \
                and y.dtype.min <= x.arg - constant <= y.dtype.max:
            return x.like(x.arg - constant).lt(build(parts, 0, y))
        return None
    parts, constant = terms(x)
    if not parts or not _cannot_wrap(x, parts, constant):
        return None
    limit = y.arg - constant
    if constant and _cannot_wrap(x, parts, 0) and x.dtype.min <= limit <= x.dtype.max:
        return build(parts, 0, x).lt(limit)
    if constant:
        return None
    for g in _divisors(parts, 0):
        small = {z: k for z, k in parts.items() if k % g}
        a, b = true_bounds(small, 0)
        if a >= 0 and b < g and (not small or limit % g == 0):
            big = build({z: k // g for z, k in parts.items() if k % g == 0}, 0, x)
            return big.lt(-(-limit // g))
    return None


def fold_constants(x: UOp) -> UOp | None:
    if any(s.op is not Ops.CONST for s in x.src):
        return None
    value = fold(x.op, x.dtype, tuple(s.arg for s in x.src), x.src[0].dtype)
    return None if value is None else UOp.const(x.dtype, value)


def fold_bounds(x: UOp) -> UOp | None:
    if x.dtype.is_float:
        return None
    low, high = x.bounds
    return UOp.const(x.dtype, low) if low == high else None


def _cast_of_cast(x: UOp, y: UOp, c: UOp) -> UOp | None:
    """``x -> y -> c``: the middle type may go where it keeps every value of the first."""
    a, b = x.dtype, y.dtype
    if a is dtypes.float16 and b is dtypes.float32 and c.dtype is not a:
        return None         # the way in which float16 leaves (compiler/render/legalize.py)
    keeps = a.kind == "b" or (a.kind == b.kind and b.bits >= a.bits and not a.coded and not b.coded) or \
        (a.kind == "u" and b.kind == "i" and b.bits > a.bits) or (a.is_int and b.is_int and c.dtype.is_int and
                                                                 b.bits >= c.dtype.bits)
    if not keeps and a.is_int and b.is_int and x.vmin >= b.min and x.vmax <= b.max:
        keeps = True
    return x.cast(c.dtype) if keeps else None


_any, _c = UPat.var, UPat.const

symbolic = PatternMatcher(
    [
        (UPat(ALU - {Ops.CAST}, name="x"), fold_constants),
        (UPat(ALU, name="x"), fold_bounds),
        (UPat(Ops.CAST, src=(UPat(Ops.CONST),), name="x"), fold_constants),
        (UPat(Ops.RANGE, name="x"), fold_bounds),
        # identities that hold for every value, NaN and -0.0 included
        (UPat(Ops.ADD, INTS, src=[_any("x"), _c(0)]), lambda x: x),
        (UPat(Ops.MUL, src=[_any("x"), _c(1)]), lambda x: x),
        (UPat(Ops.MUL, INTS, src=[_any("x"), _c(0, "z")]), lambda x, z: z),
        (UPat(Ops.FDIV, src=(_any("x"), _c(1))), lambda x: x),
        (UPat(Ops.NEG, src=(UPat(Ops.NEG, src=(_any("x"),)),)), lambda x: x),
        (UPat(Ops.NEG, INTS, src=(_any("x"),)), lambda x: x * -1),
        (UPat((Ops.XOR, Ops.OR), INTS, src=[_any("x"), _c(0)]), lambda x: x),
        (UPat((Ops.SHL, Ops.SHR), src=(_any("x"), _c(0))), lambda x: x),
        (UPat((Ops.AND, Ops.OR, Ops.MAX), src=(_any("x"), _any("x"))), lambda x: x),
        (UPat(Ops.AND, dtypes.bool_, src=[_any("x"), _c(True)]), lambda x: x),
        (UPat(Ops.AND, dtypes.bool_, src=[_any("x"), _c(False, "f")]), lambda x, f: f),
        (UPat(Ops.OR, dtypes.bool_, src=[_any("x"), _c(False)]), lambda x: x),
        (UPat(Ops.OR, dtypes.bool_, src=[_any("x"), _c(True, "t")]), lambda x, t: t),
        (
            UPat(
                (Ops.CMPNE, Ops.XOR),
                src=[UPat((Ops.CMPNE, Ops.XOR), src=[_any("x", dtypes.bool_), _c(True)]), _c(True)],
            ),
            lambda x: x,
        ),
        (UPat((Ops.CMPNE, Ops.XOR), src=[_any("x", dtypes.bool_), _c(False)]), lambda x: x),
        (UPat(Ops.CMPEQ, src=[_any("x", dtypes.bool_), _c(True)]), lambda x: x),
        (
            UPat(
                Ops.CMPNE,
                dtypes.bool_,
                src=[UPat(Ops.CMPEQ, src=(_any("x", (*INTS, dtypes.bool_)), _any("y"))), _c(True)],
            ),
            lambda x, y: x.ne(y),
        ),
        (
            UPat(
                Ops.CMPNE,
                dtypes.bool_,
                src=[UPat(Ops.CMPNE, src=(_any("x", (*INTS, dtypes.bool_)), _any("y"))), _c(True)],
            ),
            lambda x, y: x.eq(y),
        ),
        (UPat(Ops.CAST, name="c", src=(_any("x"),)), lambda c, x: x if c.dtype is x.dtype else None),
        (UPat(Ops.CAST, name="c", src=(UPat(Ops.CAST, name="y", src=(_any("x"),)),)), _cast_of_cast),
        (UPat(Ops.BITCAST, name="c", src=(UPat(Ops.BITCAST, src=(_any("x"),)),)), lambda c, x: x.bitcast(c.dtype)),
        # where
        (UPat(Ops.WHERE, src=(_any(), _any("x"), _any("x"))), lambda x: x),
        (UPat(Ops.WHERE, src=(_c(True), _any("x"), _any())), lambda x: x),
        (UPat(Ops.WHERE, src=(_c(False), _any(), _any("y"))), lambda y: y),
        (UPat(Ops.WHERE, dtypes.bool_, src=(_any("x"), _c(True), _c(False))), lambda x: x),
        (
            UPat(Ops.WHERE, src=(_any("a"), UPat(Ops.WHERE, src=(_any("b"), _any("x"), _any("y"))), _any("y"))),
            lambda a, b, x, y: (a & b).where(x, y),
        ),
        (
            UPat(Ops.WHERE, src=(_any("a"), UPat(Ops.WHERE, src=(_any("a"), _any("x"), _any())), _any("z"))),
            lambda a, x, z: a.where(x, z),
        ),
        (
            UPat(Ops.WHERE, src=(UPat(Ops.CMPNE, src=[_any("a", dtypes.bool_), _c(True)]), _any("x"), _any("y"))),
            lambda a, x, y: a.where(y, x),
        ),
        # integers: constants to the right, sums in canonical form, division taken apart
        (
            UPat(
                (Ops.ADD, Ops.MUL, Ops.MAX, Ops.AND, Ops.OR, Ops.XOR, Ops.CMPEQ, Ops.CMPNE),
                src=(_c(name="c"), _any("x")),
                name="n",
            ),
            lambda c, x, n: UOp(n.op, n.dtype, (x, c)) if x.op is not Ops.CONST else None,
        ),
        (UPat(Ops.ADD, INTS, name="x"), canonical_sum),
        (UPat(Ops.MUL, INTS, name="x", src=(UPat((Ops.ADD, Ops.MUL)), UPat(Ops.CONST))), canonical_sum),
        (UPat(Ops.IDIV, INTS, name="n", src=(_any("x"), _c(name="c"))), divide),
        (UPat(Ops.MOD, INTS, name="n", src=(_any("x"), _c(name="c"))), remainder),
        (UPat(Ops.CMPLT, src=(_any("x", INTS), _c(name="y"))), less),
        (UPat(Ops.CMPLT, src=(_c(name="x"), _any("y", INTS))), less),
    ]
)


def _fold_one_hot(n: UOp, cond: UOp, value: UOp, zero: UOp) -> UOp | None:
    """``sum over r of (r == e and p ? v(r) : 0)`` is ``0 <= e < len(r) and p(e) ? v(e) : 0`` for e free of r."""
    clauses = _clauses(cond)
    for r in n.src[1:]:
        for i, clause in enumerate(clauses):
            if clause.op is not Ops.CMPEQ:
                continue
            for side, other in (clause.src, clause.src[::-1]):
                if (
                    side is r or (side.op is Ops.CAST and side.src[0] is r and side.dtype.is_int)
                ) and r not in other.ranges:
                    inside = (other.like(-1).lt(other) if other.dtype.kind == "i" else UOp.const(dtypes.bool_, True)) \
                        & other.lt(r.src[0].cast(other.dtype))
                    if r.src[0].vmax > other.dtype.max:
                        return None
                    for p in clauses[:i] + clauses[i + 1:]:
                        inside = inside & p
                    at = _place(value, r, other.cast(r.dtype), inside)
                    inside = inside.substitute({r: other.cast(r.dtype)})
                    return _reduce(n, inside.where(at, zero), tuple(s for s in n.src[1:] if s is not r))
    return None


def _clauses(cond: UOp) -> list[UOp]:
    return [c for s in cond.src for c in _clauses(s)] if cond.op is Ops.AND else [cond]


def _place(value: UOp, r: UOp, e: UOp, gate: UOp) -> UOp:
    """``value`` with ``e`` for ``r``, where what is loaded at such a place is loaded only under ``gate``."""
    done: dict[UOp, UOp] = {r: e}
    gate = gate.substitute({r: e})
    for node in value.toposort(lambda x: x not in done):
        if node in done:
            continue
        new = node.replace(tuple(done[s] for s in node.src))
        if node.op is Ops.LOAD and r in node.ranges:
            new = UOp(Ops.LOAD, new.dtype, (new.src[0], new.src[1] & gate if len(new.src) > 1 else gate))
        done[node] = new
    return done[value]


def _reduce(n: UOp, value: UOp, ranges: tuple[UOp, ...]) -> UOp:
    return UOp(Ops.REDUCE, n.dtype, (value, *ranges), n.arg) if ranges else value


def _reduce_of_constant(n: UOp) -> UOp | None:
    """Ranges that the value does not depend on: a sum multiplies, a maximum stays."""
    value = n.src[0]
    free = [r for r in n.src[1:] if r not in value.ranges]
    if not free or (n.arg is Ops.ADD and n.dtype.is_float and value.op is not Ops.CONST) or n.arg is Ops.MUL:
        return None
    rest = tuple(r for r in n.src[1:] if r not in free)
    if any(r.src[0].op is not Ops.CONST for r in free):
        return None
    count = prod(r.src[0].arg for r in free)
    if count == 0:
        return None
    if n.arg is Ops.MAX:
        return _reduce(n, value, rest)
    if n.dtype.is_float and (rest or count >= 1 << 24):
        return None
    return _reduce(n, value * count, rest)


def _one_hot_sum(n: UOp) -> UOp | None:
    """The one term that is not 0, as it is: its -0.0 too, of which a sum would make 0.0."""
    value = n.src[0]
    if value.op is not Ops.WHERE or value.src[2].op is not Ops.CONST or value.src[2].arg != 0:
        return None
    return _fold_one_hot(n, *value.src)


load_rules = PatternMatcher([
    (UPat(Ops.WHERE, src=(_any("g"), UPat(Ops.LOAD, name="x"), _c(0))),
     lambda g, x: x if len(x.src) > 1 and set(_clauses(g)) <= set(_clauses(x.src[1])) else None),
    (UPat(Ops.WHERE, src=(_any("g"), UPat(Ops.MUL, name="m", src=(UPat(Ops.LOAD, name="x"), UPat(Ops.LOAD, name="y"))),
                          _c(0))),
     lambda g, m, x, y: m if all(len(s.src) > 1 and set(_clauses(g)) <= set(_clauses(s.src[1])) for s in (x, y))
     else None),
    (UPat(Ops.LOAD, name="x", src=(_any("i"), _c(name="c"))),
     lambda x, i, c: UOp(Ops.LOAD, x.dtype, (i,)) if c.arg else UOp.const(x.dtype, 0)),
    (UPat(Ops.REDUCE, name="n", arg=Ops.ADD), _one_hot_sum),
    (UPat(Ops.REDUCE, name="n"), _reduce_of_constant),
])


kernel_rules = symbolic + load_rules


def simplify(root: UOp, known: dict[UOp, UOp] | None = None) -> UOp:
    """``root`` with every rule of this module applied. ``known`` keeps results from one call to the next."""
    return graph_rewrite(root, kernel_rules, done=known)


assert COMPARE <= ALU
