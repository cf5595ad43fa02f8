"""Linear algebra against NumPy, and its derivatives against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler import Tensor

RNG = np.random.RandomState(0)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 4), (1, 1)])
@pytest.mark.parametrize("dtype,atol", [(np.float32, 2e-5), (np.float64, 1e-12)])
def test_decompositions(shape: tuple[int, ...], dtype: type, atol: float) -> None:
    x: np.ndarray = RNG.uniform(-1, 1, shape).astype(dtype)
    t = Tensor(x)
    q, r = (z.numpy() for z in t.qr())
    np.testing.assert_allclose(q @ r, x, atol=atol)
    own = np.swapaxes(q, -1, -2) @ q
    np.testing.assert_allclose(own, np.broadcast_to(np.eye(q.shape[-1]), own.shape), atol=atol)
    assert np.all(np.tril(r, -1) == 0)
    u, s, vh = (z.numpy() for z in t.svd())
    k = s.shape[-1]
    np.testing.assert_allclose((u[..., :k] * s[..., None, :]) @ vh[..., :k, :], x, atol=atol)
    np.testing.assert_allclose(s, np.linalg.svd(x, compute_uv=False), atol=atol)
    for side in (u, vh):
        square = side @ np.swapaxes(side, -1, -2)
        np.testing.assert_allclose(square, np.broadcast_to(np.eye(side.shape[-1]), square.shape), atol=atol)


def test_singular_matrices() -> None:
    x = np.array([[1.0, 2], [2, 4], [0, 0]])
    u, s, vh = (z.numpy() for z in Tensor(x).svd(False))
    np.testing.assert_allclose(u.T @ u, np.eye(2), atol=1e-12)
    np.testing.assert_allclose((u * s) @ vh, x, atol=1e-12)
    assert Tensor(x).matrix_rank().item() == 1
    np.testing.assert_allclose(Tensor(x).pinv().numpy(), np.linalg.pinv(x), atol=1e-12)
    assert Tensor([[1.0, 2], [2, 4]]).det().item() == 0
    zero = Tensor.zeros(3, 3, dtype="float64").svd()
    np.testing.assert_allclose(zero[0].numpy() @ zero[0].numpy().T, np.eye(3), atol=1e-12)


def test_square_matrices() -> None:
    x = RNG.uniform(-1, 1, (3, 4, 4))
    t, right = Tensor(x), RNG.uniform(-1, 1, (3, 4, 2))
    np.testing.assert_allclose(t.det().numpy(), np.linalg.det(x))
    np.testing.assert_allclose(t.inv().numpy(), np.linalg.inv(x))
    np.testing.assert_allclose(t.solve(Tensor(right)).numpy(), np.linalg.solve(x, right))
    positive = x @ np.swapaxes(x, -1, -2) + np.eye(4)
    np.testing.assert_allclose(Tensor(positive).cholesky().numpy(), np.linalg.cholesky(positive))
    values, vectors = (z.numpy() for z in Tensor(x + np.swapaxes(x, -1, -2)).eigh())
    np.testing.assert_allclose(values, np.linalg.eigvalsh(x + np.swapaxes(x, -1, -2)), atol=1e-12)
    np.testing.assert_allclose((x + np.swapaxes(x, -1, -2)) @ vectors, vectors * values[:, None], atol=1e-12)
    pivots = Tensor([[0.0, 1.0], [2.0, 0.0]])        # elimination without exchange would divide by 0
    assert pivots.det().item() == -2 and pivots.inv().tolist() == [[0, 0.5], [1, 0]]


GRADIENTS: dict[str, Any] = {
    "det": lambda t, xp: t.det(),
    "inverse": lambda t, xp: (t.inverse() ** 2).sum(),
    "qr": lambda t, xp: sum((z ** 3).sum() for z in (t.qr() if xp is None else xp.linalg.qr(t))),
    "svd": lambda t, xp: sum((z ** 4).sum() for z in (t.svd(False) if xp is None else xp.linalg.svd(t, False))),
    "cholesky": lambda t, xp: ((t @ t.T + 3 * _eye(xp)).cholesky() ** 3).sum(),
    "solve": lambda t, xp: ((t.solve(t.T * 2) if xp is None else xp.linalg.solve(t, t.T * 2)) ** 2).sum(),
}


def _eye(xp: Any) -> Any:
    return Tensor.eye(4, dtype="float64", device="CPU") if xp is None else xp.eye(4, dtype=xp.float64)


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    torch = pytest.importorskip("torch")
    a = np.random.RandomState(7).uniform(-1, 1, (4, 4)) + 2 * np.eye(4)
    x, y = Tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    got, want = GRADIENTS[name](x, None), GRADIENTS[name](y, torch)
    np.testing.assert_allclose(got.item(), want.item(), rtol=1e-9)
    got.backward()
    want.backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("call,message", [
    (lambda t: t.det(), r"of square matrices, not of shape \(2, 3\)"),
    (lambda t: t.qr("full"), r"mode is 'reduced', 'complete' or 'r'"),
    (lambda t: t[0].svd(), r"svd is of matrices, not of shape \(3,\)"),
    (lambda t: t.matrix_norm(3), r"ord is 'fro', 'nuc'"),
    (lambda t: t[:, :2].solve(t.T), r"3 rows on the right side of 2 equations"),
])
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Tensor.ones(2, 3))
