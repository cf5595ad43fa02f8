"""Indexing and assignment against NumPy, on random keys; gather, scatter and their kin against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compiler import Tensor, dtypes, jit


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...], arrays: bool = True) -> tuple[Any, ...]:
    """Any index that NumPy takes for an array of this shape."""
    parts: list[Any] = []
    axis = 0
    together = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
    ellipsis = draw(st.integers(0, len(shape))) if draw(st.booleans()) else None
    while axis < len(shape):
        if ellipsis == axis:
            parts.append(...)
            skip = draw(st.integers(0, len(shape) - axis))
            ellipsis, axis = None, axis + skip
            continue
        n = shape[axis]
        kinds = ["slice", "slice", "none"] + (["int"] if n else []) + (["array", "mask"] if arrays else [])
        kind = draw(st.sampled_from(kinds))
        if kind == "none":
            parts.append(None)
            if len(parts) > 6:
                break
            continue
        if kind == "int":
            parts.append(draw(st.integers(-n, n - 1)))
        elif kind == "slice":
            ends = st.none() | st.integers(-n - 2, n + 2)
            parts.append(slice(draw(ends), draw(ends), draw(st.sampled_from([None, 1, 2, 3, -1, -2]))))
        elif kind == "array" and (n or 0 in together):
            values = draw(st.lists(st.integers(-n, max(n - 1, 0)), min_size=int(np.prod(together)),
                                   max_size=int(np.prod(together)))) if n else []
            parts.append(np.array(values, np.int64).reshape(together))
        elif kind == "mask" and not any(isinstance(p, np.ndarray) for p in parts):
            parts.append(np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool))
            arrays = False
        else:
            continue
        axis += 1
    return tuple(parts)


def taken(a: np.ndarray, key: tuple[Any, ...]) -> bool:
    """Does NumPy take this index? What is drawn may mean other axes, where an ellipsis has to stand for more."""
    try:
        a[key]
    except IndexError:
        return False
    return True


shapes = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_reading(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    a = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    key = data.draw(keys(shape))
    if not taken(a, key):
        with pytest.raises(IndexError):
            Tensor(a)[key]
        return
    got = Tensor(a)[key]
    assert got.shape == a[key].shape
    np.testing.assert_array_equal(got.numpy(), a[key])
    tensors = tuple(Tensor(p) if isinstance(p, np.ndarray) and p.dtype != bool else p for p in key)
    np.testing.assert_array_equal(Tensor(a)[tensors].numpy(), a[key])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_writing(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    a = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    key = data.draw(keys(shape))
    assume(taken(a, key))
    region = a[key].shape
    kind = data.draw(st.sampled_from(["number", "full", "row"]))
    value: Any = -5
    if kind != "number":
        value = -np.arange(1, np.prod(region) + 1, dtype=np.int32).reshape(region)
        if kind == "row" and region and region[0]:
            value = value[:1]
    tensors = tuple(Tensor(p) if isinstance(p, np.ndarray) and p.dtype != bool else p for p in key)
    for way in (key, tensors):
        want, t = a.copy(), Tensor(a)
        want[key] = value
        t[way] = value if kind == "number" else Tensor(value)
        np.testing.assert_array_equal(t.numpy(), want, err_msg=str(way))


def test_masks(device: str) -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    t, mask = Tensor(a, device=device), a % 3 == 0
    np.testing.assert_array_equal(t[mask].numpy(), a[mask])
    np.testing.assert_array_equal(t[t > 5].numpy(), a[a > 5])
    np.testing.assert_array_equal(t.masked_select(t > 5).numpy(), a[a > 5])
    t[t > 5] = 0
    t[np.array([True, False, True])] = Tensor([1.0, 2, 3, 4], device=device)
    want = np.where(a > 5, 0, a)
    want[[0, 2]] = [1, 2, 3, 4]
    np.testing.assert_array_equal(t.numpy(), want)
    t[mask] = Tensor(np.arange(mask.sum(), dtype=np.float32), device=device)
    want[mask] = np.arange(mask.sum())
    np.testing.assert_array_equal(t.numpy(), want)
    np.testing.assert_array_equal(t.nonzero().numpy(), np.argwhere(want))
    filled = Tensor(a, device=device).masked_scatter(Tensor(mask, device=device), Tensor(-a.reshape(-1), device=device))
    expected = a.copy()
    expected[mask] = -a.reshape(-1)[:mask.sum()]
    np.testing.assert_array_equal(filled.numpy(), expected)


def test_an_assignment_inside_a_capture_sees_its_indices() -> None:
    @jit
    def put(x: Tensor, where: Tensor, value: Tensor) -> Tensor:
        y = x.clone()
        y[where] = value
        return y * 1
    for n in range(4):
        got = put(Tensor([0.0, 0, 0, 0, 0]), Tensor([n, n + 1]), Tensor([1.0, 2.0])).tolist()
        want = [0.0] * 5
        want[n], want[n + 1] = 1.0, 2.0
        assert got == want


@pytest.mark.parametrize("key,message", [
    (5, r"index 5 is out of range for an axis of 3"),
    ((0, 0, 0), r"3 indices for a tensor of 2 axes"),
    ((..., ...), r"one ellipsis at most"),
    ([3], r"index 3 is out of range for an axis of 3 elements"),
    (np.array([-4]), r"index -4 is out of range for an axis of 3 elements"),
    (np.array([0.5]), r"not indexed by an array of float64"),
    ("a", r"not indexed by str"),
    (np.array([True, False]), r"a mask of shape \(2,\) for axes of sizes \(3,\)"),
])
def test_wrong_keys(key: Any, message: str) -> None:
    t = Tensor.zeros(3, 2).contiguous()
    with pytest.raises(IndexError, match=message):
        t[key]
    with pytest.raises(IndexError, match=message):
        t[key] = 1
    with pytest.raises(TypeError, match=r"holds integers, not float32"):
        t[Tensor([0.0])]
    with pytest.raises(ValueError, match=r"a value of shape \(3,\) does not fit into an index of shape \(2,\)"):
        t[0] = Tensor([1.0, 2.0, 3.0])


def test_out_of_range_in_a_tensor_reads_zero_and_writes_nothing(device: str) -> None:
    t = Tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    far = Tensor([0, 7], device=device)
    assert t[far].tolist() == [[1, 2], [0, 0]] and t[0, far].tolist() == [1, 0] and t[far, far].tolist() == [1, 0]
    t[far] = 9
    assert t.tolist() == [[9, 9], [3, 4]]


torch_cases = [
    ("gather", lambda x, i, s: x.gather(1, i)),
    ("scatter", lambda x, i, s: x.scatter(1, i, s)),
    ("scatter_add", lambda x, i, s: x.scatter_add(1, i, s)),
    *[(f"{r}{k}", lambda x, i, s, r=r, k=k: x.scatter_reduce(1, i, s, r, include_self=k))
      for r in ("sum", "prod", "mean", "amax", "amin") for k in (True, False)],
    ("index_select", lambda x, i, s: x.index_select(0, i[0, :2])),
    ("index_add", lambda x, i, s: x.index_add(0, i[0, :2] % 3, s[:2], alpha=2)),
    ("index_copy", lambda x, i, s: x.index_copy(0, i[0, :2] % 3, s[:2])),
    ("index_fill", lambda x, i, s: x.index_fill(1, i[0, :2], 7)),
    ("take", lambda x, i, s: x.take(i)),
    ("diagonal_scatter", lambda x, i, s: x.diagonal_scatter(s[0, :3])),
    ("select_scatter", lambda x, i, s: x.select_scatter(s[0], 0, 1)),
    ("slice_scatter", lambda x, i, s: x.slice_scatter(s[:, :2], 1, 0, 4, 2)),
    ("index_put", lambda x, i, s: x.index_put((i[0, :2] % 3, i[1, :2]), s[0, :2], accumulate=True)),
]


@pytest.mark.parametrize("name,function", torch_cases, ids=[n for n, _ in torch_cases])
def test_places_against_torch(name: str, function: Any, device: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.RandomState(5)
    x, s = rng.uniform(-2, 2, (2, 3, 4)).astype(np.float32)
    index = np.argsort(rng.uniform(size=(3, 4)), 1)[:, :4]       # no place twice in a row: one answer
    if name.startswith(("sum", "prod", "mean", "amax", "amin", "scatter_add")):
        index = rng.randint(0, 4, (3, 4))
    mine = [Tensor(v, requires_grad=True, device=device) for v in (x, s)]
    theirs = [torch.tensor(v, requires_grad=True) for v in (x, s)]
    got = function(mine[0], Tensor(index, dtypes.int64, device), mine[1])
    want = function(theirs[0], torch.tensor(index), theirs[1])
    np.testing.assert_allclose(got.numpy(), want.detach().numpy(), rtol=1e-6)
    (got * got).sum().backward()
    (want * want).sum().backward()
    for ours, other in zip(mine, theirs, strict=True):
        if other.grad is not None:
            assert ours.grad is not None
            np.testing.assert_allclose(ours.grad.numpy(), other.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_errors_of_scatter() -> None:
    x = Tensor.zeros(2, 2)
    with pytest.raises(ValueError, match=r"reduce is one of sum, add"):
        x.scatter_reduce(0, Tensor([[0, 1]]), x, "median")
    with pytest.raises(TypeError, match=r"scatter of int32 into float32"):
        x.scatter(0, Tensor([[0, 1]]), Tensor([[1, 2]]))
    with pytest.raises(ValueError, match=r"index \(3, 3\) is larger"):
        x.gather(0, Tensor.zeros(3, 3, dtype="int32"))


def test_a_sum_of_what_was_picked(device: str) -> None:
    """Ranges become one while an index, and the index that it loads, both stand on them."""
    rng = np.random.default_rng(5)
    x, index = rng.normal(size=(2, 3, 4, 5)).astype(np.float32), rng.integers(0, 3, (2, 1, 4, 5))
    picked = np.take_along_axis(x, index, 1)
    found = Tensor(x, device=device).gather(1, Tensor(index, device=device))
    assert np.allclose(found.sum().numpy(), picked.sum(), rtol=1e-5)
    assert np.allclose(found.sum((2, 3)).numpy(), picked.sum((2, 3)), rtol=1e-5)
