"""What code generation asks about nodes of a kernel: none of this writes code."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from compiler.expand import summands
from compiler.lower import Axis, length
from compiler.symbolic import terms
from compiler.uop import Ops, UOp

__all__ = ["absorbed", "alignment", "apart", "no_wrap", "of_wave", "root", "together", "walks_by_ones", "width"]


_VECTORS = 16       # iterations of a loop below which vectors of partial sums do not pay


def root(node: UOp) -> UOp:
    """The memory of an address."""
    while node.op in (Ops.INDEX, Ops.AFTER):
        node = node.src[0]
    return node


def width(node: UOp) -> int:
    """Elements of a node's value: more than one for those of matrix instructions."""
    if node.op in (Ops.REDUCE, Ops.AFTER, Ops.CARRY):
        return width(node.src[0])
    if node.op is Ops.WMMA:
        return 8 if node.dtype.bits == 32 else 16
    return len(node.src) if node.op is Ops.VECTOR else 1


def of_wave(node: UOp) -> bool:
    """Is it the number of a wave in its workgroup, or a part of that?"""
    return node.op is Ops.IDIV and node.dtype.bits == 32 and node.src[0].op is Ops.RANGE \
        and node.src[0].arg[1] is Axis.LOCAL and node.src[1].op is Ops.CONST and node.src[1].arg % 32 == 0


def apart(index: UOp) -> tuple[UOp, int]:
    """An index as what varies, and a constant."""
    if index.op is Ops.ADD and index.src[1].op is Ops.CONST:
        return index.src[0], index.src[1].arg
    return index, 0


def alignment(index: UOp) -> int:
    """Bytes that divide the address of an INDEX, up to 16, as which all memory is aligned."""
    factor = 16
    while index.op in (Ops.INDEX, Ops.AFTER):
        if index.op is Ops.INDEX:
            factor = gcd(factor, index.dtype.itemsize * _known_factor(index.src[1]))
        index = index.src[0]
    return factor


def _known_factor(node: UOp) -> int:
    """A number that divides the value, as a power of two up to 16."""
    if node.op is Ops.CONST:
        return gcd(16, node.arg)
    if node.op is Ops.ADD:
        return gcd(*(_known_factor(s) for s in node.src))
    if node.op is Ops.MUL:
        return gcd(16, _known_factor(node.src[0]) * _known_factor(node.src[1]))
    return 1


def absorbed(nodes: Sequence[UOp]) -> set[UOp]:
    """Nodes that need no instruction of their own: parts of chains that a reduction adds one by one, and loads that
    a vector takes together."""
    users: dict[UOp, int] = {}
    for n in nodes:
        for s in n.src:
            users[s] = users.get(s, 0) + 1
    out: set[UOp] = set()
    for n in nodes:
        if n.op is Ops.VECTOR and together(n) and all(users[s] == 1 for s in n.src):
            out.update(n.src)
        if n.op is not Ops.REDUCE:
            continue
        value = n.src[0].src[0] if n.src[0].op is Ops.AFTER else n.src[0]
        if value.op is n.arg:
            parts = summands(value, n.arg)
            chain, node = [], value
            while node.op is n.arg:
                chain.append(node)
                node = node.src[0]
            if all(p.op is Ops.MUL for p in parts) and all(users[c] == 1 for c in chain):
                out.update(chain)
        node = value
        while node.op is Ops.WMMA and users[node] == 1:
            out.add(node)
            if len(node.src) < 3:
                break
            node = node.src[2]
    return out


def together(node: UOp) -> bool:
    """Are a vector's lanes loads of elements side by side?"""
    if any(s.op is not Ops.LOAD or len(s.src) > 1 or s.src[0].src[0] is not node.src[0].src[0].src[0]
           for s in node.src):
        return False
    places = [apart(s.src[0].src[1]) for s in node.src]
    return all(b is places[0][0] and c == places[0][1] + k for k, (b, c) in enumerate(places))


def walks_by_ones(reduce: UOp) -> bool:
    """Does a sum's innermost loop read memory element by element, and nothing else?"""
    r = reduce.src[-1]
    loads = [n for n in reduce.src[0].toposort() if n.op is Ops.LOAD and r in n.ranges]
    return reduce.arg is Ops.ADD and reduce.dtype.is_float and bool(loads) and length(r) >= _VECTORS \
        and all(terms(n.src[0].src[1])[0].get(r) == 1 and len(n.src) == 1 for n in loads)


def no_wrap(node: UOp) -> str:
    """LLVM's flags for integer arithmetic that the intervals show not to overflow: it may fold it into addresses."""
    if node.op not in (Ops.ADD, Ops.MUL) or node.dtype.kind != "i":
        return ""
    (a, b), (c, d) = node.src[0].bounds, node.src[1].bounds
    ends = (a + c, b + d) if node.op is Ops.ADD else (a * c, a * d, b * c, b * d)
    if min(ends) < node.dtype.min or max(ends) > node.dtype.max:
        return ""
    return "nuw nsw " if a >= 0 and c >= 0 else "nsw "
