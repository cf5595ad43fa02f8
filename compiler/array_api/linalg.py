"""The linear algebra extension, without ``eig`` and ``eigvals``, whose results are complex."""

from __future__ import annotations

from typing import Any, NamedTuple

from compiler.tensor import Tensor

__all__ = ["cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "matmul", "matrix_norm", "matrix_power",
           "matrix_rank", "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot",
           "trace", "vecdot", "vector_norm"]


class EighResult(NamedTuple):
    eigenvalues: Tensor
    eigenvectors: Tensor


class QRResult(NamedTuple):
    Q: Tensor
    R: Tensor


class SlogdetResult(NamedTuple):
    sign: Tensor
    logabsdet: Tensor


class SVDResult(NamedTuple):
    U: Tensor
    S: Tensor
    Vh: Tensor


def matmul(x1: Tensor, x2: Tensor, /) -> Tensor:
    return x1.matmul(x2)


def matrix_transpose(x: Tensor, /) -> Tensor:
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose is of matrices, not of shape {x.shape}")
    return x.mT


def tensordot(x1: Tensor, x2: Tensor, /, *, axes: Any = 2) -> Tensor:
    return x1.tensordot(x2, axes)


def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    if x1.shape[axis] != x2.shape[axis]:
        raise ValueError(f"vecdot of {x1.shape} and {x2.shape}: axis {axis} differs")
    product: Tensor = x1 * x2
    return product.sum(axis, dtype=product.dtype)


def outer(x1: Tensor, x2: Tensor, /) -> Tensor:
    return x1.outer(x2)


def cross(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    return x1.cross(x2, axis)


def diagonal(x: Tensor, /, *, offset: int = 0) -> Tensor:
    return x.diagonal(offset, -2, -1)


def trace(x: Tensor, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    return x.diagonal(offset, -2, -1).sum(-1, dtype=dtype)


def cholesky(x: Tensor, /, *, upper: bool = False) -> Tensor:
    return x.cholesky(upper)


def det(x: Tensor, /) -> Tensor:
    return x.det()


def eigh(x: Tensor, /) -> EighResult:
    return EighResult(*x.eigh())


def eigvalsh(x: Tensor, /) -> Tensor:
    return x.eigvalsh()


def inv(x: Tensor, /) -> Tensor:
    return x.inv()


def matrix_norm(x: Tensor, /, *, keepdims: bool = False, ord: Any = "fro") -> Tensor:
    return x.matrix_norm(ord, keepdim=keepdims)


def matrix_power(x: Tensor, n: int, /) -> Tensor:
    return x.matrix_power(n)


def matrix_rank(x: Tensor, /, *, rtol: float | None = None) -> Tensor:
    s = x.svdvals()
    limit: Any = (s.dtype.eps * max(x.shape[-2:])) if rtol is None else rtol
    return (s > s.amax(-1, True) * limit).sum(-1)


def pinv(x: Tensor, /, *, rtol: float | None = None) -> Tensor:
    return x.pinv(rtol)


def qr(x: Tensor, /, *, mode: str = "reduced") -> QRResult:
    return QRResult(*x.qr(mode))


def slogdet(x: Tensor, /) -> SlogdetResult:
    return SlogdetResult(*x.slogdet())


def solve(x1: Tensor, x2: Tensor, /) -> Tensor:
    if x2.ndim > 1 and x2.shape == x1.shape[:-1]:       # matrices here; PyTorch's method would see vectors
        x2 = x2.unsqueeze(0)
        return x1.solve(x2) if x1.ndim > 2 else x1.solve(x2).squeeze(0)
    return x1.solve(x2)


def svd(x: Tensor, /, *, full_matrices: bool = True) -> SVDResult:
    return SVDResult(*x.svd(full_matrices))


def svdvals(x: Tensor, /) -> Tensor:
    return x.svdvals()


def vector_norm(x: Tensor, /, *, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    return x.norm(ord, axis, keepdims)
