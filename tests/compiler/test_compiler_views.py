"""Views and assignments in place, as PyTorch has them: random programs, and what is a view of what."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_compiler_torch_layers as layers
import test_compiler_torch_shapes as shapes
from against_torch import ARRAYS, F
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import Tensor, jit, no_grad, optim
from compiler.buffer import pool

torch = pytest.importorskip("torch")
Pair = tuple[Any, Any]


def taken(draw: st.DrawFn, x: Pair) -> Pair | None:
    """A view of both, or a copy where PyTorch copies."""
    shape = tuple(x[1].shape)
    axis = draw(st.integers(0, len(shape) - 1)) if shape else 0
    kind = draw(st.sampled_from(["T", "permute", "row", "rows", "every", "narrow", "flat", "split", "new", "detach",
                                 "clone", "unbind", "chunk"]))
    if not shape and kind not in ("flat", "new", "detach", "clone"):
        return None
    key = (slice(None),) * axis
    n = shape[axis] if shape else 1
    start = draw(st.integers(0, n))
    step = draw(st.integers(1, 3))
    order = draw(st.permutations(range(len(shape))))
    make: dict[str, Callable[[Any], Any]] = {
        "T": lambda t: t.mT if t.ndim > 1 else t.unsqueeze(-1), "permute": lambda t: t.permute(*order),
        "row": lambda t: t.select(axis, start), "rows": lambda t: t[(*key, slice(start, n))],
        "every": lambda t: t[(*key, slice(start, None, step))],
        "narrow": lambda t: t.narrow(axis, start // 2, n - start),
        "flat": lambda t: t.reshape(-1), "split": lambda t: t.reshape(*shape[:axis], 2, -1, *shape[axis + 1:]),
        "new": lambda t: t[..., None], "detach": lambda t: t.detach(), "clone": lambda t: t.clone(),
        "unbind": lambda t: t.unbind(axis)[start], "chunk": lambda t: t.chunk(2, axis)[-1]}
    if (kind in ("row", "unbind") and start == n) or (kind == "split" and (n % 2 or not n)) or 0 in shape:
        return None
    return make[kind](x[0]), make[kind](x[1])


def changed(draw: st.DrawFn, x: Pair, other: Pair) -> None:
    kind = draw(st.sampled_from(["add", "mul", "fill", "item", "slice", "mask", "copy", "from", "iadd"]))
    for t, o in zip(x, other, strict=True):
        make: Any = Tensor if isinstance(t, Tensor) else torch.tensor
        if kind == "add":
            t.add_(1)
        elif kind == "mul":
            t.mul_(t)
        elif kind == "fill":
            t.fill_(3)
        elif kind == "item" and t.ndim and t.shape[0]:
            t[-1] = 5
        elif kind == "slice" and t.ndim:
            t[1:] += 2
        elif kind == "mask":
            t[t > 4] = -1
        elif kind == "copy":
            t.copy_(make(np.array(7.0, np.float32)))
        elif kind == "from" and tuple(o.shape) == tuple(t.shape):
            t.copy_(o * 2)
        elif kind == "iadd":
            t -= 1


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_random_programs(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    a = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    live: list[Pair] = [(Tensor(a), torch.tensor(a))]
    for _ in range(data.draw(st.integers(3, 9))):
        x = data.draw(st.sampled_from(live))
        if data.draw(st.booleans()):
            made = taken(data.draw, x)
            if made is not None:
                live.append(made)
        elif x[1].numel():
            with np.errstate(all="ignore"):
                changed(data.draw, x, data.draw(st.sampled_from(live)))
        if data.draw(st.integers(0, 5)) == 0:
            data.draw(st.sampled_from(live))[0].realize()
        if len(live) > 2 and data.draw(st.integers(0, 5)) == 0:
            live.pop(0)             # a view outlives what it is a view of
    for mine, theirs in live:
        assert mine.shape == tuple(theirs.shape)
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-6)


def test_negative_steps_are_views_as_in_numpy() -> None:
    a = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    x = Tensor(a)
    y, b = x[::-1, ::-2], a[::-1, ::-2]
    y += 5
    b += 5
    np.testing.assert_array_equal(x.numpy(), a)
    x[1] = 0
    a[1] = 0
    np.testing.assert_array_equal(y.numpy(), b)


def test_what_is_expanded_is_not_assigned_to() -> None:
    x = Tensor([1.0, 2.0])
    with pytest.raises(RuntimeError, match="several of its elements are one in memory; clone"):
        x.expand(3, 2).add_(1)
    assert x.expand(1, 2).add_(1).tolist() == [[2, 3]] and x.tolist() == [2, 3]


def test_derivatives_go_through() -> None:
    for make in (Tensor, torch.tensor):
        x = make([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        y: Any = x * 2
        y[0].mul_(x[1])
        y.T[1] += 1
        (y * y).sum().backward()
        if make is Tensor:
            mine = x.grad
    assert mine is not None
    np.testing.assert_allclose(mine.numpy(), x.grad.numpy(), rtol=1e-6)


def test_views_of_parameters() -> None:
    w = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    turned, kept = w.T, w.detach()
    with pytest.raises(RuntimeError, match="outside of no_grad"):
        turned.add_(1)
    with no_grad():
        w[0].add_(1)
    assert kept.tolist() == [[2, 2, 2], [1, 1, 1]] == turned.T.tolist()
    kept.mul_(2)
    w.data += 1
    assert w.tolist() == [[5, 5, 5], [3, 3, 3]]
    (w * 2).sum().backward()
    optim.SGD([w], 1.0).step()
    assert turned.tolist() == [[3, 1]] * 3 and w.requires_grad and w.is_leaf


def test_a_replayed_step_is_seen() -> None:
    total = Tensor(np.zeros((2, 2), np.float32))
    view = total.T

    @jit
    def step(x: Tensor) -> Tensor:
        total[0] += x
        return total.sum()
    for n in range(1, 5):
        assert step(Tensor([1.0, 2.0])).item() == 3 * n
        assert view.tolist() == [[n, 0], [2 * n, 0]]


def test_views_that_are_gone_are_forgotten() -> None:
    x = Tensor(np.zeros(4, np.float32))
    for _ in range(200):
        assert x.reshape(2, 2).T.shape == (2, 2)
    assert x._store is not None and len(x._store.views) < 40


def test_a_view_holds_nothing_of_what_made_it() -> None:
    gc.collect()
    before, kept = pool("CPU").used, []
    for _ in range(5):
        x = Tensor(np.ones(10_000, np.float32))
        whole = x * 2
        kept += [(x + 1).reshape(100, 100)[0].realize(), whole.realize()[:10].T]
        del x, whole
    gc.collect()
    assert pool("CPU").used - before < 5 * (40_000 + 1000)      # whole, of which a view is kept, but no x
    assert kept[0].tolist() == [2] * 100 and kept[1].tolist() == [2] * 10


def _entries() -> list[Any]:
    out = []
    for table, default in ((shapes.TABLE, "t"), (shapes.WHOLE, "t"), (layers.TABLE, "m")):
        for entry in table:
            letter = (entry[2] if len(entry) > 2 else default)[0]
            if letter in ARRAYS:
                out.append((entry[0], entry[1], letter))
    return out


def _storage(t: Any) -> int:
    return int(t.untyped_storage().data_ptr())


_NOTHING: list[tuple[str, Callable[[Any], Any], str]] = [     # calls that may find nothing to do
    ("repeat 1", lambda x: x.repeat(1, 1), "m"), ("tile 1", lambda x: x.tile((1,)), "m"),
    ("roll 0", lambda x: x.roll(0, 0), "m"), ("roll all", lambda x: x.roll(0), "m"),
    ("rot90 0", lambda x: x.rot90(0), "m"), ("interleave 1", lambda x: x.repeat_interleave(1, dim=0), "m"),
    ("cat 1", lambda x: type(x).cat(x) if isinstance(x, Tensor) else torch.cat([x]), "m"),
    ("stack 1", lambda x: type(x).stack([x]) if isinstance(x, Tensor) else torch.stack([x]), "m"),
    ("flip 0", lambda x: x.flip(()), "m"), ("clone", lambda x: x.clone(), "m"), ("plus", lambda x: +x * 1, "m"),
    ("sum", lambda x: x.unsqueeze(0).sum(0), "m"), ("amax", lambda x: x.unsqueeze(0).amax(0), "m"),
    ("prod", lambda x: x[:, :1].prod(1), "m"), ("mean", lambda x: x[:1].mean(0), "m"),
    ("index", lambda x: x[[0, 1, 2, 3]], "m"), ("pad", lambda x: F.pad(x, (0, 0)), "q"),
    ("cumsum", lambda x: x[:1].cumsum(0), "m"), ("sort", lambda x: x[:1].sort(0)[0], "m"),
    ("resize", lambda x: F.interpolate(x, size=(6, 6)), "q"), ("pool", lambda x: F.adaptive_avg_pool2d(x, 6), "q"),
    ("max pool", lambda x: F.max_pool2d(x, 1), "q"), ("window", lambda x: F.avg_pool2d(x, 1), "q"),
    ("max", lambda x: x[:1].max(0)[0], "m"), ("round", lambda x: x.clamp(-9, 9).trunc(), "m"),
    ("tril", lambda x: x.tril(9), "m"), ("triu", lambda x: x.triu(-9), "m"),
    ("dropout", lambda x: F.dropout(x, 0.0), "m"),
    ("gather", lambda x: x.gather(0, 0 * x.long()), "m"), ("logsumexp", lambda x: x[:1].logsumexp(0), "m"),
]


def test_nothing_else_is_a_view() -> None:
    """A method that gives new values in PyTorch must not give away a part of its argument here."""
    wrong = []
    for name, function, letter in [*_entries(), *_NOTHING]:
        a = ARRAYS[letter].astype(np.float32)
        mine, theirs = Tensor(a), torch.tensor(a)
        try:
            want, got = function(theirs), function(mine)
        except Exception:       # the table's own test is about that
            continue
        for x, y in zip(got if isinstance(got, tuple | list) else [got],
                        want if isinstance(want, tuple | list) else [want], strict=False):
            if isinstance(x, Tensor) and isinstance(y, torch.Tensor) and _storage(y) != _storage(theirs) \
                    and (x is mine or (x._store is not None and x._store is mine._store and x._store.shows(x))):
                wrong.append(name)
    assert not wrong
