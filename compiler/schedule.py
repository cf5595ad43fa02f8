"""From a graph of tensors to a list of kernels: what gets memory, and what is only ever an expression.

The graph comes normalised (:func:`normalize`): its leaves are numbered slots, so that equal work gives the identical
graph, and the finished schedule is looked up by it.

A node is *cut* off, that is stored by a kernel of its own, if it must (roots, assignments, copies), or if leaving it
as an expression would do its work more than once: a reduction that is used at several places or under an expansion,
or costly elementwise work under an expansion. All else fuses: elementwise chains, movement, a reduction with what it
reduces, and what follows a reduction element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from compiler import graph, watch
from compiler.dtypes import DType
from compiler.folds import spread_folds
from compiler.lower import Output, lower, lower_scatter, squeezed
from compiler.places import Place, below, point
from compiler.uop import ALU, MOVEMENT, TRANSCENDENTAL, Ops, UOp
from compiler.variable import bindings, in_use, most, unbound

__all__ = ["CopyItem", "KernelItem", "Schedule", "Slot", "normalize", "schedule", "variables"]

_EXPENSIVE = 8          # cost of an expression that an expansion would repeat, above which it may be cut
_EXPENSIVE_SCALAR = 64  # the same for a single element, which every work-item may as well compute
_REPEATED = 1 << 16     # operations that are done again rather than started in a kernel of their own
_READ_AGAIN = 16        # times that a CPU reads padding before it is stored: loads under conditions make no vectors
_SUMS = frozenset({Ops.REDUCE_AXIS, Ops.FOLD})
_LONG = 64              # iterations of a reduction above which a GPU splits it
_WIDE = 8192            # work-items that a split may make
_PLACES = 8             # of the user's lines that a kernel remembers
_ROW = 16               # values, at least, that a GPU takes to their places one after the other
_TREE = 2048            # size of an expression, without sharing, above which shared parts are cut


@dataclass(frozen=True)
class Slot:
    """Memory that a schedule makes for itself."""

    device: str
    dtype: DType
    size: int


@dataclass(frozen=True)
class KernelItem:
    """Run ``sink`` on ``device`` with ``slots`` as its parameters."""

    sink: UOp
    device: str
    slots: tuple[int, ...]
    writes: tuple[int, ...]
    places: tuple[Place, ...] = field(default=(), compare=False)    # the user's lines, nearest to what is stored first


@dataclass(frozen=True)
class CopyItem:
    """Copy between devices."""

    dst: int
    src: int


Item = KernelItem | CopyItem


@dataclass
class Schedule:
    """``items`` in order; slots below ``inputs`` are the caller's, the others are ``made``; ``roots`` are slots."""

    inputs: int
    made: list[Slot]
    items: list[Item]
    roots: list[int]
    overwritten: list[int] = field(default_factory=list)    # input slots that assignments wrote


def normalize(roots: Sequence[UOp], done: dict[UOp, UOp] | None = None) -> tuple[list[UOp], list[object]]:
    """The roots with numbered leaves, and the buffers in the order of the numbers.

    :param done: is filled with what each node became.
    :raises RuntimeError: if a leaf's buffer was overwritten since.
    """
    slots: dict[object, int] = {}
    done = {} if done is None else done
    sizes = in_use()

    def leaf(buffer: object, node: UOp) -> UOp:
        number = slots.setdefault(buffer, len(slots))
        size, shape = (unbound(node.size), unbound(node.shape)) if sizes else (node.size, node.shape)
        flat = UOp(Ops.BUFFER, node.dtype, (), (number, 0, size), buffer.device)       # type: ignore[attr-defined]
        return flat if flat.shape == shape else UOp(Ops.RESHAPE, node.dtype, (flat,), shape)

    for root in roots:
        for node in root.toposort(lambda n: n.realized is None and n not in done):
            if node in done:
                continue
            held = node if node.op is Ops.BUFFER else node.realized
            if held is not None:
                buffer, version, _ = held.arg
                if buffer.version != version:
                    error = RuntimeError(f"{buffer} was overwritten in place after this value was taken from it; "
                                         "realize() the value before, or take it again")
                    point(error, below([*(n for n in root.toposort() if node in n.src), node]), "where it is used")
                    raise error
                done[node] = leaf(buffer, node)
            elif node.op in (Ops.DETACH, Ops.DERIVED):
                done[node] = done[node.src[0]]
            else:
                arg = unbound(node.arg) if sizes else node.arg
                src = tuple(done[s] for s in node.src)
                done[node] = node.replace(src) if arg is node.arg else UOp(node.op, node.dtype, src, arg)
    return [done[r] for r in roots], list(slots)


def variables(roots: Sequence[UOp]) -> dict[str, int]:
    """The values of the variables in graphs that are not normalised. :raises ValueError: if one has two."""
    found: dict[str, int] = {}
    if not in_use():
        return found
    seen: set[UOp] = set()
    for root in roots:
        for node in root.toposort(lambda n: n.realized is None and n not in seen):
            if node not in seen:
                seen.add(node)
                bindings(node.shape, found)
                bindings(node.arg, found)
    return found


def _below(roots: Sequence[UOp]) -> dict[UOp, None]:
    """Every node of several graphs, sources first."""
    order: dict[UOp, None] = {}
    for root in roots:
        order.update(root.toposort(lambda n: n not in order))
    return order


def base(node: UOp) -> UOp:
    """The node whose memory ``node`` would share: without reshapes on top."""
    while node.op is Ops.RESHAPE:
        node = node.src[0]
    return node


class _Cutter:
    """Finds the nodes to cut."""

    def __init__(self, roots: Sequence[UOp], host: bool) -> None:
        self.host = host
        self.order = {node: n for n, node in enumerate(_below(roots))}
        self.users: dict[UOp, list[UOp]] = {n: [] for n in self.order}
        for node in self.order:
            for s in set(node.src):
                self.users[s].append(node)
        self.cut: dict[UOp, None] = {}
        for root in roots:
            self.mark(root)
        self.decide()

    def mark(self, node: UOp) -> None:
        node = base(node)
        if node.op is not Ops.BUFFER:
            self.cut[node] = None

    def repeats(self, node: UOp) -> bool:
        """Would ``node``, left as an expression, be computed more than once?"""
        open_: set[UOp] = {node}
        for _ in range(200):
            now = min(open_, key=self.order.__getitem__)
            open_.remove(now)
            if now in self.cut:
                return bool(open_)
            users = self.users[now]
            for user in users:
                if user.op in ALU:
                    open_.add(user)
                elif (
                    user.op in (Ops.REDUCE_AXIS, Ops.SCATTER)
                    or (user.op in (Ops.EXPAND, Ops.WINDOW) and most(user.size) > most(now.size))
                    or open_
                    or len(users) > 1
                ):
                    return True
                else:
                    open_.add(user)
            if not open_ or (len(open_) == 1 and next(iter(open_)).op in ALU):
                return False
        return True

    def decide(self) -> None:
        heavy: dict[UOp, bool] = {}     # has a reduction that is not cut off
        cost: dict[UOp, int] = {}
        tree: dict[UOp, int] = {}
        for node in self.order:
            op = node.op
            if op is Ops.COPY:
                self.mark(node.src[0])
            if self.host and op is Ops.PAD and heavy[node.src[0]] and most(node.size) >= 2 * most(node.src[0].size):
                self.mark(node.src[0])      # not summed up again under a condition, for zeros as well
            if op in (Ops.ASSIGN, Ops.COPY, Ops.CONTIGUOUS, Ops.SCATTER):
                self.cut[node] = None
            inner = [s for s in node.src if s not in self.cut and s.op is not Ops.BUFFER]
            heavy[node] = (op in _SUMS and not (op is Ops.REDUCE_AXIS and _picks(node))) or any(heavy[s] for s in inner)
            own = 0 if op in MOVEMENT or op in (Ops.CONST, Ops.IOTA, Ops.SIZE) else 8 if op in TRANSCENDENTAL else 1
            cost[node] = min(1 << 20, own + sum(cost[s] if s in inner else 1 for s in node.src))
            tree[node] = min(1 << 20, 1 + sum(tree[s] for s in inner))
            if node in self.cut or op is Ops.BUFFER:
                continue
            if (
                (heavy[node] and self.repeats(node))
                or (self.host and op is Ops.PAD and self.expanded(node, Ops.PAD) > _READ_AGAIN * most(node.size))
                or (tree[node] > _TREE and len(self.users[node]) > 1)
                or (
                    op not in MOVEMENT
                    and not heavy[node]
                    and cost[node] > (_EXPENSIVE if most(node.size) > 1 else _EXPENSIVE_SCALAR)
                    and cost[node] * (self.expanded(node) - most(node.size)) > _REPEATED
                )
            ):
                self.mark(node)

    def expanded(self, node: UOp, last: Ops | None = None) -> int:
        """The greatest size that expansions above make of the node, with nothing but movement between.

        :param last: an operation beyond which nobody looks.
        """
        seen, size = [node], most(node.size)
        while seen:
            now = seen.pop()
            for user in self.users[now]:
                if user.op in MOVEMENT:
                    if user.op is not last:
                        seen.append(user)
                    size = max(size, most(user.size))
        return size


def _picks(node: UOp) -> bool:
    """Is a sum one over a one-hot vector, of which lowering makes a load?"""
    value = node.src[0]
    if node.arg[0] is not Ops.ADD or value.op is not Ops.WHERE or value.src[0].op is not Ops.CMPEQ:
        return False
    for side in value.src[0].src:
        while side.op in (Ops.RESHAPE, Ops.EXPAND, Ops.PERMUTE, Ops.CAST):
            side = side.src[0]
        if side.op is Ops.IOTA:
            return base(value.src[2]).op in (Ops.CONST, Ops.EXPAND)
    return False


def _leaves(node: UOp, cut: dict[UOp, None]) -> list[UOp]:
    """The stored nodes that ``node``'s kernel reads, in a fixed order."""
    inner = node.src[1] if node.op is Ops.ASSIGN else node
    gate = lambda n: (n is inner and n not in cut) or n is node or (n not in cut and n.op is not Ops.BUFFER)
    return [n for n in inner.toposort(gate) if n is not node and (n in cut or n.op is Ops.BUFFER)]


def _reads_elsewhere(sink: UOp, params: set[int]) -> bool:
    """Does the kernel load from a parameter that it stores to, at another place than it stores to?"""
    stored = {s.src[0].src[0].arg: s.src[0] for s in sink.src}
    return any(n.op is Ops.LOAD and n.src[0].src[0].arg in params and n.src[0] is not stored[n.src[0].src[0].arg]
               for n in sink.toposort())


def schedule(roots: Sequence[UOp], device: str) -> Schedule:
    """Kernels for ``roots`` (normalised). ``device`` is for values that come from no buffer."""
    targets = {base(n.src[0]) for n in _below(roots) if n.op is Ops.ASSIGN}
    # a root whose memory is overwritten in this same schedule gets memory of its own
    roots = [UOp(Ops.CONTIGUOUS, r.dtype, (r,)) if base(r) in targets else r for r in roots]
    if not device.startswith("CPU"):
        given, roots = roots, _split_reductions(roots)
        watch.step("split long reductions", given, roots)
    else:
        given, roots = roots, spread_folds(roots)
        watch.step("spread what is folded", given, roots)
    forced: list[UOp] = []
    while True:
        cutter = _Cutter([*roots, *forced], device.startswith("CPU"))
        cut = cutter.cut
        order = _ordered(cut)
        if order is None:       # something must be read before and after it is overwritten: copy it first
            given, roots = roots, _snapshot(roots)
            watch.step("copy what is overwritten", given, roots)
            continue
        result, again = _kernels(roots, cut, order, device)
        if again is None:
            return result
        assert again not in forced, "an assignment reads its target elsewhere, and its value is cut off already"
        forced.append(again)


def _split_reductions(roots: Sequence[UOp]) -> list[UOp]:
    """Long reductions to few elements leave a GPU idle: reduce them to partial results first, then those."""
    def change(node: UOp, new: UOp) -> UOp:
        if node.op is Ops.REDUCE_AXIS and not _picks(node):
            return _split(new)
        return _tables(new) if node.op is Ops.SCATTER and not _any_order(node) else new
    return UOp.rebuilt(roots, change)


def _split(node: UOp) -> UOp:
    (op, axes), source = node.arg, node.src[0]
    axis = max(axes, key=lambda a: most(source.shape[a]))
    n = source.shape[axis]
    if not isinstance(n, int):      # a variable: nobody knows what divides it
        return node
    room = _WIDE // max(most(node.size), 1)
    parts = max((f for f in range(2, int(n ** 0.5) * 2 + 1) if n % f == 0 and f <= room and f * f <= 2 * n), default=1)
    if n < _LONG or parts < 4:
        return node
    shape = source.shape
    split = UOp(Ops.RESHAPE, node.dtype, (source,), (*shape[:axis], n // parts, parts, *shape[axis + 1:]))
    inner = tuple(a + (a > axis) for a in axes)
    partial = UOp(Ops.REDUCE_AXIS, node.dtype, (split,), (op, inner))
    whole = UOp(Ops.REDUCE_AXIS, node.dtype, (partial,), (op, (axis + 1,)))
    made = UOp(Ops.RESHAPE, node.dtype, (whole,), node.shape)
    for new in (split, partial, whole, made):
        new.place = new.place or node.place
    return made


def _tables(node: UOp) -> UOp:
    """A SCATTER whose values come one after the other, as several at once: each part of the values, in order, goes to a
    table of its own, and the tables are reduced. Few, where tables would be larger than what goes into them."""
    (op, axis), (x, places, values) = node.arg, node.src
    n, count, dtype = x.shape[axis], values.shape[axis], node.dtype
    if not isinstance(n, int) or not isinstance(count, int) or not isinstance(values.size, int) or not count:
        return node
    parts = min(_WIDE * count // values.size, 2 * count // n, count // _ROW)
    if parts < 2:
        return node
    each = -(-count // parts)
    parts = -(-count // each)

    def in_parts(t: UOp) -> UOp:
        t = graph.pad(t, [(0, parts * each - count if a == axis else 0) for a in range(len(t.shape))])
        return graph.reshape(t, (*t.shape[:axis], parts, each, *t.shape[axis + 1:]))
    places, values = in_parts(places), in_parts(values)
    if parts * each > count:        # what was padded goes nowhere
        at = graph.reshape(graph.iota(parts * each), (*(1,) * axis, parts, each, *(1,) * (len(x.shape) - axis - 1)))
        inside = graph.alu(Ops.CMPLT, graph.expand(at, places.shape), graph.full(places.shape, at.dtype, count))
        places = graph.alu(Ops.WHERE, inside, places, graph.full(places.shape, places.dtype, places.dtype.max))
    identity = {Ops.ADD: 0, Ops.MUL: 1, Ops.MAX: dtype.min}[op]
    tables = graph.full((*x.shape[:axis], parts, *x.shape[axis:]), dtype, identity)
    filled = graph.scatter(tables, op, axis + 1, places, values)
    return graph.alu(op, x, graph.reshape(graph.reduce(filled, op, [axis]), x.shape))


def _ordered(cut: dict[UOp, None]) -> list[UOp] | None:
    """The cut nodes in an order that respects reads and overwrites; None if there is none."""
    after: dict[UOp, set[UOp]] = {}
    readers: dict[UOp, list[UOp]] = {}
    for node in cut:
        after[node] = set()
        for leaf in _leaves(node, cut):
            readers.setdefault(leaf, []).append(node)
            if leaf.op is not Ops.BUFFER:
                after[node].add(leaf)
    for node in cut:
        if node.op is Ops.ASSIGN:
            old = base(node.src[0])
            after[node] |= {r for r in readers.get(old, ()) if r is not node}
            if old.op is not Ops.BUFFER:
                after[node].add(old)
    out: list[UOp] = []
    users: dict[UOp, list[UOp]] = {n: [] for n in cut}
    left = {n: len(a) for n, a in after.items()}
    for n, a in after.items():
        for m in a:
            users[m].append(n)
    ready = [n for n in cut if left[n] == 0]
    ready.reverse()
    while ready:
        node = ready.pop()
        out.append(node)
        for user in users[node]:
            left[user] -= 1
            if left[user] == 0:
                ready.append(user)
    return out if len(out) == len(cut) else None


def _snapshot(roots: Sequence[UOp]) -> list[UOp]:
    """Every read of a buffer that an assignment overwrites goes to a copy, made first."""
    order = _below(roots)
    targets = {base(n.src[0]) for n in order if n.op is Ops.ASSIGN}
    done: dict[UOp, UOp] = {}       # for reading
    for node in order:
        if node.op is Ops.ASSIGN:
            old = node.src[0]
            kept = old if base(old).op is Ops.BUFFER else done[base(old)] if old is base(old) else old.substitute(
                {base(old): done[base(old)]})
            while kept.op is Ops.RESHAPE and base(kept).op is Ops.CONTIGUOUS:
                kept = kept.substitute({base(kept): base(kept).src[0]})
            if kept.op is Ops.CONTIGUOUS:
                kept = kept.src[0]
            new = node.replace((kept, done[node.src[1]]))
            done[node] = UOp(Ops.CONTIGUOUS, new.dtype, (new,)) if node in targets else new
        else:
            new = node.replace(tuple(done[s] for s in node.src))
            done[node] = UOp(Ops.CONTIGUOUS, new.dtype, (new,)) if node in targets else new
    result = [done[r] for r in roots]
    assert result != list(roots), "a schedule that cannot be ordered"
    return result


def _kernels(roots: Sequence[UOp], cut: dict[UOp, None], order: list[UOp], device: str) -> tuple[Schedule, UOp | None]:
    inputs = 1 + max((n.arg[0] for n in _below(roots) if n.op is Ops.BUFFER), default=-1)
    slots: dict[UOp, int] = {}
    made: list[Slot] = []
    items: list[Item] = []
    overwritten: list[int] = []
    known: _Known = {}

    def slot_of(node: UOp) -> int:
        return node.arg[0] if node.op is Ops.BUFFER else slots[node]

    for group in _grouped(order, cut):
        first = group[0]
        for node in group:
            if node.op is Ops.ASSIGN:
                slots[node] = slot_of(base(node.src[0]))
                overwritten.append(slots[node])
            else:
                slots[node] = inputs + len(made)
                made.append(Slot(node.device or device, node.dtype, most(node.size)))
        if most(first.size) == 0:
            continue
        if first.op is Ops.COPY:
            items.append(CopyItem(slots[first], slot_of(base(first.src[0]))))
            continue
        if first.op is Ops.SCATTER:
            items += _scatter_items(first, first.device or device, slots[first], cut, slot_of)
            continue
        params: dict[int, int] = {}
        for node in group:
            params.setdefault(slots[node], len(params))
        leaves: dict[UOp, int] = {}
        for node in group:
            for leaf in _leaves(node, cut):
                if leaf not in group:
                    leaves[leaf] = params.setdefault(slot_of(leaf), len(params))
        outputs = [Output(n, params[slots[n]]) for n in group]
        sink = lower(outputs, leaves) if watch.watchers else _lower_once(outputs, leaves, known)
        if watch.watchers:
            watch.step("lower", [_alone(n, leaves) for n in group], sink)
        if _reads_elsewhere(sink, {params[slots[n]] for n in group}):
            return Schedule(0, [], [], []), next(
                b for n in group if n.op is Ops.ASSIGN and (b := base(n.src[1])) not in cut
            )
        sink, used = _drop_unused(sink, list(params))
        places = [p for p, _ in zip(below(group, lambda n: n in cut), range(_PLACES), strict=False)]
        items.append(KernelItem(sink, first.device or device, tuple(used), tuple(slots[n] for n in group),
                                tuple(places)))
    result = [slot_of(base(r)) for r in roots]
    return Schedule(inputs, made, items, result, overwritten), None


_Known = dict[tuple[Output, ...], UOp]


def _lower_once(outputs: Sequence[Output], leaves: dict[UOp, int], known: _Known) -> UOp:
    """:func:`lower`, once for all kernels that differ in nothing but what their parameters hold: a model's layers."""
    held: dict[UOp, int] = {}
    done: dict[UOp, UOp] = {}
    for leaf, param in leaves.items():
        flat = UOp(Ops.BUFFER, leaf.dtype, (), (param, 0, leaf.size), leaf.device)
        done[leaf] = flat if flat.shape == leaf.shape else UOp(Ops.RESHAPE, leaf.dtype, (flat,), leaf.shape)
        held[done[leaf]] = param
    alike = []
    for output in outputs:
        node = output.node
        value = node.src[1] if node.op is Ops.ASSIGN else node
        for n in value.toposort(lambda n: n not in done):
            if n not in done:
                done[n] = n.replace(tuple(done[s] for s in n.src))
        same = UOp(Ops.CONTIGUOUS, node.dtype, (done[value],)) if node.op is Ops.ASSIGN else done[value]
        alike.append(Output(same, output.param))
    key = tuple(alike)
    if key not in known:
        known[key] = lower(alike, held)
    return known[key]


def _scatter_items(node: UOp, device: str, slot: int, cut: dict[UOp, None],
                   slot_of: Callable[[UOp], int]) -> list[KernelItem]:
    """Two kernels: the memory takes on what the values go to; then each of these goes to its place."""
    items = []
    for first in (True, False) if most(node.src[2].size) else (True,):
        inputs = UOp(Ops.SINK, node.dtype, node.src[:1] if first else node.src[1:])
        params = {slot: 0}
        leaves = {leaf: params.setdefault(slot_of(leaf), len(params)) for leaf in _leaves(inputs, cut)}
        sink = lower([Output(UOp(Ops.CONTIGUOUS, node.dtype, node.src[:1]), 0)], leaves) if first else \
            lower_scatter(node, 0, leaves, not device.startswith("CPU") and _any_order(node))
        sink, used = _drop_unused(sink, list(params))
        lines = [p for p, _ in zip(below([node], lambda n: n in cut), range(_PLACES), strict=False)]
        items.append(KernelItem(sink, device, tuple(used), (slot,), tuple(lines)))
    return items


def _any_order(node: UOp) -> bool:
    """Is the result of a SCATTER the same in every order, bit for bit, and has memory an operation for it?"""
    return node.dtype.is_int and node.dtype.bits >= 32 and node.arg[0] in (Ops.ADD, Ops.MAX)


def _alone(node: UOp, leaves: dict[UOp, int]) -> UOp:
    """What a kernel computes, on its parameters instead of what they hold: for those who watch."""
    held = {leaf: UOp(Ops.RESHAPE, leaf.dtype, (UOp(Ops.BUFFER, leaf.dtype, (), (param, 0, leaf.size), leaf.device),),
                      leaf.shape) for leaf, param in leaves.items() if leaf is not node}
    return node.replace(tuple(s.substitute(held) for s in node.src))


def _drop_unused(sink: UOp, slots: list[int]) -> tuple[UOp, list[int]]:
    """Without the parameters of which simplification left nothing."""
    params = sorted({n for n in sink.toposort() if n.op is Ops.PARAM}, key=lambda n: n.arg)
    if len(params) == len(slots):
        return sink, slots
    table = {p: UOp(Ops.PARAM, p.dtype, (), k) for k, p in enumerate(params)}
    return sink.substitute(table), [slots[p.arg] for p in params]


def _same_index_only(user: UOp, node: UOp, cut: dict[UOp, None]) -> bool:
    """Is ``node`` read by ``user``'s kernel only at the element that is being computed?"""
    start = user.src[1] if user.op is Ops.ASSIGN else user
    stack, seen = [(start, True)], set()
    while stack:
        now, aligned = stack.pop()
        if (now, aligned) in seen:
            continue
        seen.add((now, aligned))
        if now is node:
            if not aligned:
                return False
            continue
        if now is not user and (now in cut or now.op is Ops.BUFFER):
            continue
        same = now.op in ALU or now.op in (Ops.CONTIGUOUS, Ops.ASSIGN) or (
            now.op is Ops.RESHAPE and squeezed(now.shape) == squeezed(now.src[0].shape))
        stack.extend((s, aligned and same) for s in now.src)
    return True


def _grouped(order: list[UOp], cut: dict[UOp, None]) -> list[list[UOp]]:
    """Neighbours in the order that one kernel can store together: equal shapes, aligned reads, and of reductions only
    those that the first one needs anyway."""
    groups: list[list[UOp]] = []
    for node in order:
        if groups and _joins(groups[-1], node, cut):
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def _joins(group: list[UOp], node: UOp, cut: dict[UOp, None]) -> bool:
    first = group[0]
    if {Ops.COPY, Ops.SCATTER} & {first.op, node.op} or squeezed(first.shape) != squeezed(node.shape) \
            or first.device != node.device or first.device is None:
        return False
    if len(group) >= 4 or _reduces(node, cut):
        return False
    mine = _leaves(node, cut)
    members = set(group)
    if _reduces(first, cut) and not members & set(mine):
        return False
    overwrites = {base(n.src[0]) for n in group if n.op is Ops.ASSIGN}
    for leaf in mine:
        if (leaf in members or leaf in overwrites) and not _same_index_only(node, leaf, cut):
            return False
    if node.op is Ops.ASSIGN:
        old = base(node.src[0])
        if old in members or any(old is base(n.src[0]) for n in group if n.op is Ops.ASSIGN):
            return False
        if any(not _same_index_only(n, old, cut) for n in group):
            return False
    # worth it only if something is shared
    read = {leaf for n in group for leaf in _leaves(n, cut)} | members
    return bool(read & set(mine))


def _reduces(node: UOp, cut: dict[UOp, None]) -> bool:
    inner = node.src[1] if node.op is Ops.ASSIGN else node
    return any(n.op in _SUMS and (n is node or n not in cut)
               for n in inner.toposort(lambda n: n is node or n not in cut))


