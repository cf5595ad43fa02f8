"""Views: tensors that are a part of another one's elements, or all of them in another order.

What a tensor is a view of is its *store*: the tensor that owns the value, and all its views, each with the steps that
lead to it. Nothing shares memory. An assignment to a view is one to the store (its elements put back by the steps'
inverses, the others kept), and an assignment to the store gives every view its new value. So everything stays an
expression, and derivatives go through assignments as through anything else.
"""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

from compiler import dtypes, graph
from compiler.graph import alu, full
from compiler.uop import Ops, UOp

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Step", "Store", "settled", "through", "written"]

Step = tuple[Any, ...]
"""A kind, and what it takes: ("reshape", shape), ("permute", order), ("shrink", bounds), ("expand", shape),
("flip", axes), ("every", axis, count, step), ("detach",)."""

_MANY = 16      # views, above which those that are gone are looked for


class Store:
    """The owner of a value and its views. ``uop`` is the value while the owner is gone."""

    __slots__ = ("owner", "uop", "shape", "views", "limit")

    def __init__(self, owner: Tensor) -> None:
        self.owner = weakref.ref(owner)
        self.uop = owner.uop
        self.shape = owner.shape
        self.views: list[weakref.ref[Tensor]] = []
        self.limit = _MANY

    def add(self, view: Tensor) -> None:
        self.views.append(weakref.ref(view))
        if len(self.views) > self.limit:
            self.views = [v for v in self.views if v() is not None]
            self.limit = max(_MANY, 2 * len(self.views))

    def refresh(self, uop: UOp, requires_grad: bool) -> None:
        """Every view of the new value."""
        self.uop = uop
        for ref in self.views:
            if (view := ref()) is not None and self.shows(view):
                view.uop = through(uop, view._steps)
                view.requires_grad = requires_grad and ("detach",) not in view._steps


    def shows(self, view: Tensor) -> bool:
        """Is it a view of this still? One that a reshape copied, as PyTorch's would, is a value of its own."""
        if view._store is self and not _is_view(self.shape, view._steps):
            view._store, view._steps = None, ()
        return view._store is self


def settled(tensor: Tensor) -> None:
    """Its value is in memory now: nothing holds any more what that was made from."""
    store = tensor._store
    if store is None:
        return
    if not tensor._steps:
        store.uop = tensor.uop
    elif store.owner() is None and all((v := ref()) is None or v is tensor for ref in store.views):
        tensor._store, tensor._steps = None, ()


def _is_view(shape: tuple[int, ...], steps: tuple[Step, ...]) -> bool:
    """Would strides do for all the steps, from memory row by row?"""
    if len(steps) == 1:
        return True
    strides = _rows(shape)
    for step in steps:
        kind = step[0]
        if kind == "reshape":
            found = _restrided(shape, strides, step[1])
            if found is None:
                return False
            shape, strides = step[1], found
        elif kind == "permute":
            shape, strides = tuple(shape[a] for a in step[1]), tuple(strides[a] for a in step[1])
        elif kind == "shrink":
            shape = tuple(high - low for low, high in step[1])
        elif kind == "flip":
            strides = tuple(-s if a in step[1] else s for a, s in enumerate(strides))
        elif kind == "every":
            _, axis, count, by = step
            shape = (*shape[:axis], count, *shape[axis + 1:])
            strides = (*strides[:axis], strides[axis] * by, *strides[axis + 1:])
        elif kind == "expand":
            new = len(step[1]) - len(shape)
            same = [n == m for n, m in zip(shape, step[1][new:], strict=True)]
            strides = (0,) * new + tuple(s if kept else 0 for s, kept in zip(strides, same, strict=True))
            shape = step[1]
    return True


def _rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[a + 1:]) for a in range(len(shape)))


def _restrided(shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides of another shape over the same memory; None if there are none."""
    if math.prod(shape) == 0:
        return _rows(new)
    runs: list[list[int]] = []      # axes that memory has as one: elements, and the stride of the last
    for n, stride in reversed([(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]):
        if runs and stride == runs[-1][0] * runs[-1][1]:
            runs[-1][0] *= n
        else:
            runs.append([n, stride])
    out: list[int] = []
    run, taken = 0, 1
    for n in reversed(new):
        if n == 1:
            out.append(1)
            continue
        if run < len(runs) and taken == runs[run][0]:
            run, taken = run + 1, 1
        if run == len(runs) or runs[run][0] % (taken * n):
            return None
        out.append(runs[run][1] * taken)
        taken *= n
    return tuple(reversed(out))


def _every(x: UOp, axis: int, count: int, step: int) -> UOp:
    """Every ``step``-th element of an axis, from the first."""
    shape = x.shape
    x = graph.pad(x, [(0, count * step - n if a == axis else 0) for a, n in enumerate(shape)])
    x = graph.reshape(x, (*shape[:axis], count, step, *shape[axis + 1:]))
    x = graph.shrink(x, [(0, 1 if a == axis + 1 else n) for a, n in enumerate(x.shape)])
    return graph.reshape(x, (*shape[:axis], count, *shape[axis + 1:]))


def _apart(x: UOp, axis: int, n: int, step: int) -> UOp:
    """The inverse: elements ``step`` apart on an axis of ``n``, zeros between."""
    shape = x.shape
    x = graph.reshape(x, (*shape[:axis + 1], 1, *shape[axis + 1:]))
    x = graph.pad(x, [(0, step - 1 if a == axis + 1 else 0) for a in range(len(x.shape))])
    x = graph.reshape(x, (*shape[:axis], shape[axis] * step, *shape[axis + 1:]))
    return graph.shrink(x, [(0, n if a == axis else m) for a, m in enumerate(x.shape)])


def _step(x: UOp, step: Step) -> UOp:
    kind = step[0]
    if kind == "reshape":
        return graph.reshape(x, step[1])
    if kind == "permute":
        return graph.permute(x, step[1])
    if kind == "shrink":
        return graph.shrink(x, step[1])
    if kind == "expand":
        return graph.expand(x, step[1])
    if kind == "flip":
        return graph.flip(x, step[1])
    if kind == "every":
        return _every(x, *step[1:])
    assert kind == "detach", kind
    return UOp(Ops.DETACH, x.dtype, (x,))


def through(x: UOp, steps: tuple[Step, ...]) -> UOp:
    """The view of a value."""
    for step in steps:
        x = _step(x, step)
    return x


def written(x: UOp, steps: tuple[Step, ...], value: UOp) -> UOp:
    """``x`` with ``value`` for its view.

    :raises RuntimeError: if an element of the view is several times in it.
    """
    if not steps:
        return value
    first, *rest = steps
    kind = first[0]
    value = written(_step(x, first), tuple(rest), value)
    if kind == "reshape":
        return graph.reshape(value, x.shape)
    if kind == "permute":
        return graph.permute(value, [first[1].index(a) for a in range(len(first[1]))])
    if kind == "flip":
        return graph.flip(value, first[1])
    if kind == "detach":
        return value
    if kind == "expand":
        if value.size != x.size:
            raise RuntimeError(f"in-place assignment to a tensor expanded from {x.shape} to {value.shape}: several of "
                               "its elements are one in memory; clone() it first")
        return graph.reshape(value, x.shape)
    if kind == "shrink":
        around = [(low, n - high) for (low, high), n in zip(first[1], x.shape, strict=True)]
        inside, placed = (graph.pad(t, around) for t in (full(value.shape, dtypes.bool_, True), value))
    else:
        _, axis, _, step = first
        inside, placed = (_apart(t, axis, x.shape[axis], step) for t in (full(value.shape, dtypes.bool_, True), value))
    return alu(Ops.WHERE, inside, placed, x)
