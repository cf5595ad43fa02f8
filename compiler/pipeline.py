"""A loop over tiles turned by half: matrix instructions run while the next operands are on their way from LDS.

As :func:`compiler.shared.stage` leaves it, a turn is: all meet, operands are loaded, products, the next tile is stored.
Waves that started together then wait for LDS together. Turned, the operands of the first half of the products are
carried over from the turn before:

    load the second half's operands; first half's products; store the next tile; load the one after it from memory;
    all meet; load the next turn's first operands; second half's products
"""

from __future__ import annotations

from compiler.symbolic import simplify
from compiler.uop import Ops, UOp

__all__ = ["rotate"]


def _chain(value: UOp) -> list[UOp]:
    """The products that one result adds up in a turn, the first one first."""
    found = [value]
    while len(found[-1].src) > 2:
        found.append(found[-1].src[2])
    return found[::-1]


def _loaded(value: UOp) -> list[UOp]:
    """What a stored value is made of: vectors, and single elements, as they come from memory."""
    if value.op is Ops.LOAD or (value.op is Ops.VECTOR and value.src[0].op is Ops.LOAD):
        return [value]
    return list(dict.fromkeys(v for s in value.src for v in _loaded(s)))


def _from_tiles(value: UOp) -> bool:
    """Is all of it loaded from LDS? Only that is there a turn after the last one, too."""
    loads = [n for n in value.toposort(lambda n: n.op is not Ops.INDEX) if n.op is Ops.LOAD]
    return all(n.src[0].src[0].op is Ops.AFTER for n in loads)


def rotate(sink: UOp) -> UOp:
    """The kernel with its loop turned; as it is if it has no such loop, or one product in a turn."""
    reduces = [n for n in sink.toposort() if n.op is Ops.REDUCE]
    if not all(r.src[0].op is Ops.AFTER and r.src[0].src[0].op is Ops.WMMA and len(r.src[0].src[0].src) > 2
               and r.src[1:] == reduces[0].src[1:] for r in reduces) or not reduces:
        return sink
    (turn,) = reduces[0].src[1:]
    stores = reduces[0].src[0].src[1:]
    meet = stores[0].src[0].src[0].src[1]
    ready = UOp(Ops.BARRIER, meet.dtype, tuple(s for s in meet.src if s.op is Ops.STORE), 0)
    stores = tuple(s.substitute({meet: ready}) for s in stores)
    # what is stored was loaded a whole turn before
    loads = {v: v.substitute({turn: turn + 1}) for s in stores for v in _loaded(s.src[1])}
    held = {v: UOp(Ops.CARRY, v.dtype, (v.substitute({turn: turn.like(0)}), later, turn)) for v, later in loads.items()}
    stores = tuple(s.replace((s.src[0], s.src[1].substitute(held))) for s in stores)
    again = UOp(Ops.BARRIER, meet.dtype, stores, 0)
    firsts = dict.fromkeys(f for r in reduces for f in _chain(r.src[0].src[0])[0].src[:2] if _from_tiles(f))
    nexts = {f: f.substitute({meet: again, turn: turn + 1}) for f in firsts}
    table = {f: UOp(Ops.CARRY, f.dtype, (f.substitute({meet: ready, turn: turn.like(0)}), nexts[f], turn))
             for f in firsts}
    table[meet] = ready
    done = {r: r.replace((UOp(Ops.AFTER, r.dtype, (r.src[0].src[0].substitute(table), *stores, *loads.values(),
                                                   again, *nexts.values()), 0), turn)) for r in reduces}
    return simplify(sink.substitute(done))
