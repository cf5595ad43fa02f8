"""The array API namespace against ``array_api_strict``, which others wrote: every name, and what it does."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.array_api import make_strategies_namespace

from compiler import Tensor, array_api, dtypes

strict = pytest.importorskip("array_api_strict")

# names that are left out, by what the namespace's text says; and the strict package's own
COMPLEX = {"complex64", "complex128", "conj", "real", "imag", "eig", "eigvals", "fft"}
FOREIGN = {"ArrayAPIStrictFlags", "Device", "ModuleType", "get_array_api_strict_flags", "set_array_api_strict_flags",
           "reset_array_api_strict_flags", "Array", "DType", "Literal", "NamedTuple", "Sequence", "np", "numpy",
           "partial", "normalize_axis_tuple", "requires_api_version", "requires_extension", "EigResult", "EighResult",
           "QRResult", "SVDResult", "SlogdetResult", "finfo", "reshape"}
NUMBERS = {k: v for k, v in vars(strict).items() if k in ("float32", "float64", "int8", "int16", "int32", "int64",
                                                         "uint8", "uint16", "uint32", "uint64", "bool")}


def test_every_name_of_the_standard_is_there() -> None:
    here = set(array_api.__all__) | {"__array_namespace_info__"}
    assert {n for n in dir(strict) if not n.startswith("_")} - here - (FOREIGN - {"finfo", "reshape"}) <= COMPLEX
    assert {n for n in dir(strict.linalg) if not n.startswith("_")} - set(array_api.linalg.__all__) - FOREIGN <= COMPLEX
    assert all(hasattr(array_api, n) for n in array_api.__all__)
    assert set(NUMBERS) == set(array_api.__array_namespace_info__().dtypes())


def ours(value: Any) -> Tensor:
    return Tensor(np.asarray(value))


def same(got: Any, want: Any, exact_type: bool = True) -> None:
    if isinstance(want, tuple | list):
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            same(g, w, exact_type)
        return
    if not hasattr(want, "shape"):
        assert got == want
        return
    want = np.asarray(want)
    assert tuple(got.shape) == want.shape
    narrow = {"int64": "int32", "float64": "float32", "uint64": "uint32"}     # the default types
    if exact_type:
        assert got.dtype.name in (want.dtype.name, narrow.get(want.dtype.name))
    double = got.dtype is dtypes.float64
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-13 if double else 3e-6, atol=1e-13 if double else 1e-6)


EDGES = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, 1e-3, 20.0, -7.0, np.inf, -np.inf, np.nan, 0.999])
INTS = np.array([0, 1, 2, 3, 7, 100, 127])
UNARY = sorted(array_api.elementwise._UNARY.keys() | {"sign"})
BINARY = sorted(array_api.elementwise._BINARY)
ONLY_FLOAT = {"nextafter"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one(name: str) -> None:
    for array in (EDGES.astype(np.float32), EDGES, INTS.astype(np.int8), INTS.astype(np.uint16), INTS > 2):
        try:
            want = getattr(strict, name)(strict.asarray(array))
        except TypeError:
            continue        # not of this kind
        same(getattr(array_api, name)(ours(array)), want)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two(name: str) -> None:
    pairs = np.array(list(itertools.product(EDGES, EDGES))).T
    whole = np.array(list(itertools.product(INTS, INTS[1:4]))).T        # shifts of less than the width
    for a, b in (pairs.astype(np.float32), pairs, whole.astype(np.int16), whole.astype(np.uint8), whole > 1):
        if "shift" in name and a.dtype.kind == "f":
            continue
        try:
            want = getattr(strict, name)(strict.asarray(a), strict.asarray(b))
        except TypeError:
            continue
        got = getattr(array_api, name)(ours(a), ours(b))
        if name == "floor_divide" and a.dtype.kind == "f":      # of infinities by numbers the standard wants NaN or inf
            keep = np.isfinite(a) & np.isfinite(b) & (b != 0)
            np.testing.assert_allclose(got.numpy()[keep], np.asarray(want)[keep], rtol=1e-6)
        else:
            same(got, want)


def test_promotion() -> None:
    for (n, a), (m, b) in itertools.product(NUMBERS.items(), NUMBERS.items()):
        try:
            want = strict.result_type(a, b)
        except TypeError:
            continue        # the standard says nothing
        got = array_api.result_type(getattr(array_api, n), getattr(array_api, m))
        assert got is getattr(array_api, next(k for k, t in NUMBERS.items() if t == want)), (n, m)
        assert array_api.can_cast(getattr(array_api, n), got) and (
            array_api.add(Tensor([1], n), Tensor([1], m)).dtype is got)
    assert array_api.result_type(array_api.int8, 3) is dtypes.int8 and \
        array_api.result_type(array_api.int8, 3.0) is dtypes.float32


M = np.random.RandomState(3).uniform(-1, 1, (3, 4)).astype(np.float32)
C = np.random.RandomState(4).uniform(-1, 1, (2, 3, 3)).astype(np.float32)
V = np.array([3, 1, 2, 3, 1, 0], np.int32)
P = C @ np.swapaxes(C, -1, -2) + np.eye(3, dtype=np.float32)
CASES: dict[str, Any] = {
    "arange": lambda xp, a: [xp.arange(5), xp.arange(1, 9, 3), xp.arange(5.0, 1.0, -1.5), xp.arange(3, dtype=xp.int8)],
    "full": lambda xp, a: [xp.full((2, 3), 7), xp.full((), 1.5), xp.zeros(3), xp.ones((2, 0)), xp.full(2, True)],
    "like": lambda xp, a: [xp.zeros_like(a(M)), xp.ones_like(a(V)), xp.full_like(a(M), 3), xp.empty((2,)).shape],
    "eye": lambda xp, a: [xp.eye(3), xp.eye(2, 4, k=1), xp.eye(3, k=-1, dtype=xp.int16)],
    "linspace": lambda xp, a: [xp.linspace(0, 1, 5), xp.linspace(2, -1, 4, endpoint=False), xp.linspace(0, 1, 0)],
    "meshgrid": lambda xp, a: [*xp.meshgrid(a(M[1]), a(M[0])), *xp.meshgrid(a(V), a(V), indexing="ij")],
    "tri": lambda xp, a: [xp.tril(a(M), k=1), xp.triu(a(C))],
    "asarray": lambda xp, a: [xp.asarray([1, 2]), xp.asarray([[1.0], [2.0]]), xp.asarray(True), xp.asarray(3)],
    "astype": lambda xp, a: [xp.astype(a(M), xp.int32), xp.astype(a(V), xp.bool), xp.astype(a(V), xp.float64)],
    "shape": lambda xp, a: [xp.reshape(a(M), (2, 6)), xp.reshape(a(M), (-1,)), xp.permute_dims(a(C), (2, 0, 1)),
                            xp.moveaxis(a(C), 0, -1), xp.expand_dims(a(M), axis=1),
                            xp.squeeze(xp.expand_dims(a(M), axis=0), 0), xp.matrix_transpose(a(C)), a(M).T, a(C).mT],
    "flip": lambda xp, a: [xp.flip(a(M)), xp.flip(a(M), axis=1), xp.roll(a(M), 2), xp.roll(a(M), (1, -1), axis=(0, 1))],
    "join": lambda xp, a: [xp.concat([a(M), a(M)], axis=1), xp.concat([a(M), a(M)], axis=None), xp.stack([a(V), a(V)]),
                           xp.tile(a(M), (2, 1, 2)), xp.repeat(a(M), 2), xp.repeat(a(M), 2, axis=0),
                           *xp.unstack(a(M), axis=1)],
    "broadcast": lambda xp, a: [xp.broadcast_to(a(V), (2, 6)), *xp.broadcast_arrays(a(M), a(M[:, :1]))],
    "sums": lambda xp, a: [xp.sum(a(M)), xp.sum(a(M), axis=0, keepdims=True), xp.sum(a(V)), xp.prod(a(V), axis=0),
                           xp.sum(a(V.astype(np.uint8))), xp.mean(a(C), axis=(0, 2)), xp.sum(a(M), axis=()),
                           xp.sum(a(V), dtype=xp.float64)],
    "extremes": lambda xp, a: [xp.max(a(C), axis=(1, 2)), xp.min(a(V)), xp.argmax(a(M), axis=1, keepdims=True),
                               xp.argmin(a(V)), xp.any(a(V)), xp.all(a(V), axis=0), xp.count_nonzero(a(V))],
    "spread": lambda xp, a: [xp.var(a(M), axis=1), xp.std(a(M), correction=1.0), xp.var(a(C), keepdims=True)],
    "scans": lambda xp, a: [xp.cumulative_sum(a(V)), xp.cumulative_sum(a(M), axis=1, include_initial=True),
                            xp.cumulative_prod(a(M), axis=0), xp.diff(a(M)), xp.diff(a(V), n=2)],
    "sort": lambda xp, a: [xp.sort(a(M)), xp.sort(a(V), descending=True), xp.argsort(a(V)), xp.argsort(a(M), axis=0),
                           xp.argsort(a(V), descending=True)],
    "search": lambda xp, a: [*xp.nonzero(a(V)), xp.searchsorted(a(np.sort(V)), a(V)), xp.isin(a(V), a(V[:2])),
                             xp.searchsorted(a(np.sort(V)), a(V), side="right"), xp.where(a(V) > 1, a(V), a(V) * -1)],
    "unique": lambda xp, a: [xp.unique_values(a(V)), *xp.unique_counts(a(V)), *xp.unique_inverse(a(V)),
                             *xp.unique_all(a(V))],
    "take": lambda xp, a: [xp.take(a(M), a(V[:2] % 3), axis=0), xp.take(a(V), a(V)),
                           xp.take_along_axis(a(M), a(np.array([[1], [0], [2]])), axis=1)],
    "clip": lambda xp, a: [xp.clip(a(M), -0.5, 0.5), xp.clip(a(V), 1), xp.clip(a(M), max=0.0)],
    "products": lambda xp, a: [a(M) @ a(M).T, xp.matmul(a(C), a(C)), xp.tensordot(a(C), a(C), axes=([1], [2])),
                               xp.vecdot(a(C), a(C), axis=-1), xp.linalg.outer(a(V), a(V)),
                               xp.linalg.cross(a(C), a(C[::-1].copy()))],
    "linalg": lambda xp, a: [xp.linalg.det(a(C)), xp.linalg.inv(a(C)), xp.linalg.solve(a(C), a(C[0])),
                             xp.linalg.cholesky(a(P)), xp.linalg.eigvalsh(a(P)), xp.linalg.svdvals(a(C)),
                             *xp.linalg.slogdet(a(C)), xp.linalg.matrix_rank(a(C)), xp.linalg.pinv(a(M)),
                             xp.linalg.matrix_power(a(C), 3), xp.linalg.matrix_power(a(C), 0),
                             xp.linalg.matrix_norm(a(C)), xp.linalg.matrix_norm(a(C), ord="nuc", keepdims=True),
                             xp.linalg.trace(a(C)), xp.linalg.diagonal(a(M), offset=1),
                             xp.linalg.vector_norm(a(M), axis=1, ord=1), xp.linalg.vector_norm(a(C))],
    "operators": lambda xp, a: [a(V) // 2, 7 % (a(V) + 1), 2 ** a(V), -a(V), +a(V), abs(a(M)), a(V) & 1, ~a(V),
                                a(V) << 1, a(V) >= 2, 1 - a(M), a(M) / 2, a(V) == a(V), a(V) ^ 3],
    "indexing": lambda xp, a: [a(M)[0, ...], a(M)[..., -1], a(M)[1:, ::-2], a(M)[a(M) > 0], a(C)[:, None, 0, ...],
                               a(V)[1]],
    "size": lambda xp, a: [a(M).size, a(M).ndim, a(C).shape, xp.isdtype(a(M).dtype, "real floating"),
                           xp.iinfo(xp.int16).max, xp.finfo(xp.float32).eps, xp.finfo(xp.float64).smallest_normal,
                           xp.broadcast_shapes((2, 1), (3,))],
}


@pytest.mark.parametrize("name", CASES)
def test_as_the_strict_namespace(name: str) -> None:
    function = CASES[name]
    got, want = function(array_api, ours), function(strict, lambda v: strict.asarray(v))
    for g, w in zip(got, want, strict=True):
        same(g, w)


def test_decompositions() -> None:
    q, r = array_api.linalg.qr(ours(M.T))
    np.testing.assert_allclose((q @ r).numpy(), M.T, atol=1e-6)
    result = array_api.linalg.svd(ours(M), full_matrices=False)
    np.testing.assert_allclose(((result.U * result.S) @ result.Vh).numpy(), M, atol=1e-6)
    values, vectors = array_api.linalg.eigh(ours(P))
    np.testing.assert_allclose((ours(P) @ vectors).numpy(), (vectors * values.unsqueeze(-2)).numpy(), atol=1e-5)


def test_the_array_knows_its_namespace_and_is_exchanged() -> None:
    x = Tensor([[1.0, 2.0]])
    xp = x.__array_namespace__(api_version="2023.12")
    assert xp is array_api and x.to_device("CPU") is x and x.size() == (1, 2) and x.size(0) == 1 and x.size == 2
    assert xp.from_dlpack(np.arange(3)).tolist() == [0, 1, 2] and np.from_dlpack(x).tolist() == [[1, 2]]
    assert np.asarray(x).dtype == np.float32 and xp.asarray(x, copy=True) is not x and xp.asarray(x) is x
    info = xp.__array_namespace_info__()
    assert info.default_dtypes()["integral"] is dtypes.int32 and "CPU" in info.devices() and info.default_device()
    with pytest.raises(ValueError, match=r"array API 2099.01 is asked for"):
        x.__array_namespace__(api_version="2099.01")


def test_copies_of_a_tensor() -> None:
    for dtype in ("float32", "bfloat16", "float8_e4m3", "int8", "bool"):
        x = Tensor([1.5, 0.0], dtype=dtype, requires_grad=dtype == "float32")
        for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
            assert y is not x and y.dtype is x.dtype and y.tolist() == x.tolist() and y.requires_grad == x.requires_grad


@pytest.mark.parametrize("call,error,message", [
    (lambda: array_api.asarray([1], copy=False), ValueError, "are copied, always"),
    (lambda: array_api.squeeze(Tensor([1, 2]), 0), ValueError, "not of size 1"),
    (lambda: array_api.isdtype(dtypes.int8, "number"), ValueError, "'number' is no kind"),
    (lambda: array_api.finfo(dtypes.int8), TypeError, "finfo is of float types, not int8"),
    (lambda: array_api.iinfo(dtypes.float32), TypeError, "iinfo is of integer types"),
    (lambda: array_api.add(1, 2), TypeError, "add needs an array"),
    (lambda: array_api.cumulative_sum(Tensor([[1]])), ValueError, "needs an axis"),
    (lambda: array_api.take(Tensor([[1]]), Tensor([0])), ValueError, "needs an axis"),
    (lambda: array_api.nonzero(Tensor(1)), ValueError, "nonzero is of arrays with axes"),
    (lambda: array_api.vecdot(Tensor([1]), Tensor([1, 2])), ValueError, "axis -1 differs"),
    (lambda: array_api.result_type(1, 2), ValueError, "needs an array or a type"),
    (lambda: np.asarray(Tensor([1]), copy=False), ValueError, "an array of it is a copy"),
    (lambda: Tensor([1.0], dtype="bfloat16").__dlpack__(), BufferError, "bfloat16 has no NumPy type"),
    (lambda: Tensor([1.0]).__dlpack__(copy=False), BufferError, "exported as a copy only"),
    (lambda: Tensor([1.0]).__dlpack__(dl_device=(2, 0)), BufferError, "not to device"),
])
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


ZEROS = np.array([0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf])
SIGNED = ["abs", "asin", "asinh", "atan", "atanh", "ceil", "expm1", "floor", "log1p", "negative", "reciprocal", "round",
          "sin", "sinh", "sqrt", "tan", "tanh", "trunc"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_zero_has_its_sign(name: str, dtype: Any) -> None:
    want = np.asarray(getattr(strict, name)(strict.asarray(ZEROS.astype(dtype))))
    got = getattr(array_api, name)(ours(ZEROS.astype(dtype))).numpy()
    assert [np.signbit(g) for g, w in zip(got, want, strict=True) if w == 0] == list(np.signbit(want[want == 0]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["add", "atan2", "copysign", "divide", "floor_divide", "multiply", "nextafter",
                                  "remainder", "subtract"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_zero_of_two_has_its_sign(name: str, dtype: Any) -> None:
    a, b = np.array(list(itertools.product(ZEROS, ZEROS)), dtype).T
    want = np.asarray(getattr(strict, name)(strict.asarray(a), strict.asarray(b)))
    got = getattr(array_api, name)(ours(a), ours(b)).numpy()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    there = ~np.isnan(want)
    np.testing.assert_allclose(got[there], want[there], rtol=1e-6)
    np.testing.assert_array_equal(np.signbit(got[there]), np.signbit(want[there]))


def test_arange_has_as_many_as_its_floats_say() -> None:
    for numbers in ((2.1, -2.9, -1.0), (0.5, 3.0, 0.5), (1.0, 5.000001, 2.0)):
        got = array_api.arange(*numbers, dtype=array_api.int64)
        assert got.dtype is dtypes.int64 and got.shape == np.arange(*numbers).shape


def test_operators_that_assign() -> None:
    x = ours(np.eye(2))
    x @= ours(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert x.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(TypeError):
        x.__iadd__(1, alpha=2)      # other is its one argument


# hypothesis's own arrays of a namespace, which the standard's test suite is built on; 2021.12 had no complex types
xps = make_strategies_namespace(array_api, api_version="2021.12")
SHAPES = xps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = xps.arrays(xps.scalar_dtypes(), SHAPES)


@given(ARRAYS, st.data())
@settings(max_examples=40, deadline=None)
def test_any_index(x: Tensor, data: st.DataObject) -> None:
    key = data.draw(xps.indices(x.shape, allow_newaxis=True))
    np.testing.assert_array_equal(x[key].numpy(), x.numpy()[key])


@given(ARRAYS, st.data())
@settings(max_examples=40, deadline=None)
def test_any_assignment(x: Tensor, data: st.DataObject) -> None:
    key, value = data.draw(xps.indices(x.shape, max_dims=0)), data.draw(xps.from_dtype(x.dtype))
    want, got = x.numpy().copy(), array_api.asarray(x, copy=True)
    want[key] = value
    got[key] = value
    np.testing.assert_array_equal(got.numpy(), want)


@given(ARRAYS, st.data())
@settings(max_examples=40, deadline=None)
def test_any_mask(x: Tensor, data: st.DataObject) -> None:
    mask = data.draw(xps.arrays(array_api.bool, st.one_of(st.just(x.shape), st.just(()), SHAPES)))
    try:
        want = x.numpy()[mask.numpy()]
    except IndexError:
        with pytest.raises(IndexError):
            x[mask]
        return
    np.testing.assert_array_equal(x[mask].numpy(), want)


def test_the_greatest_whole_numbers_from_lists() -> None:
    numbers = [(1 << 63) + 1, 1, (1 << 64) - 1]
    assert array_api.asarray(numbers, dtype=array_api.uint64).tolist() == numbers
    assert array_api.asarray([[numbers[0]], [0]], dtype=array_api.int64).tolist() == [[1 - (1 << 63)], [0]]
