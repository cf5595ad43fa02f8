"""Linear algebra on (batches of) small matrices: everything is a few kernels an elimination step or rotation.

Gradients pass through all of it: through the steps of elimination and reflection themselves; for the iterations
(:meth:`svd`, :meth:`eigh`) by one step of perturbation theory from the result, which is exact to first order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.methods.base import Methods
from compiler.methods.functions import precisely
from compiler.methods.names import numpy_names

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Linalg"]

_SWEEPS = {32: 12, 64: 16}
"""Sweeps of Jacobi's rotations; convergence is quadratic after the first few (Golub and Van Loan, 8.5)."""


def _square(x: Any, what: str) -> int:
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"{what} is of square matrices, not of shape {x.shape}")
    return int(x.shape[-1])


def _eye(x: Any, n: int) -> Any:
    return x._new(graph.iota(n)).one_hot(n).cast(x.dtype)


class Linalg(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`. Half types are computed in float32."""

    __slots__ = ()

    # reflections

    def qr(self, mode: str = "reduced") -> tuple[Tensor, Tensor]:
        """q @ r by Householder's reflections. ``mode``: "reduced", "complete", or "r" (q is empty)."""
        if mode not in ("reduced", "complete", "r"):
            raise ValueError(f"qr: mode is 'reduced', 'complete' or 'r', not {mode!r}")
        if self.ndim < 2:
            raise ValueError(f"qr is of matrices, not of shape {self.shape}")
        kind = self.dtype if self.dtype.is_float else dtypes.default_float
        r: Any = self.cast(kind if kind.bits >= 32 else dtypes.float32)
        m, n = self.shape[-2:]
        k = min(m, n)
        q = _eye(r, m).expand(*r.shape[:-2], m, m)
        rows = r._new(graph.iota(m)).unsqueeze(-1)
        for j in range(min(k, m - 1)):
            column = (rows >= j).where(r.narrow(-1, j, 1), 0)
            size = (column * column).sum((-2, -1), True)
            zero = size.eq(0)
            length = zero.where(1, size).sqrt()
            first = column.narrow(-2, j, 1)
            sign = (first < 0).where(-1.0, length.ones_like())
            v = column + rows.eq(j).where(sign * length, 0)
            scale = zero.where(0, 2 / zero.where(1, (v * v).sum((-2, -1), True)))
            v = v.contiguous()
            r = (r - v * scale * (v.transpose(-1, -2) @ r)).contiguous()
            q = (q - (q @ v) * scale * v.transpose(-1, -2)).contiguous()
        r = r.triu()
        if mode != "complete":
            q, r = q.narrow(-1, 0, k), r.narrow(-2, 0, k)
        if mode == "r":
            q = q.reshape(-1)[:0]
        return q.cast(kind), r.cast(kind)

    # elimination

    def _eliminated(self, right: Any) -> tuple[Any, Any]:
        """Gauss and Jordan with the largest pivot of each column: the solution for ``right``, and the determinant."""
        n = _square(self, "elimination")
        if n == 0 or self.numel() == 0 or right.numel() == 0:
            return right * 1, self.sum((-2, -1)) + 1
        x: Any = self.cat(right, dim=-1)
        rows = x._new(graph.iota(n)).unsqueeze(-1)
        determinant: Any = None
        for j in range(n):
            column = x.narrow(-1, j, 1)
            pivot = (rows >= j).where(column.detach().abs(), -1).argmax(-2, True)
            source = rows.eq(j).where(pivot, rows.eq(pivot).where(j, rows))      # rows j and pivot swapped
            x = x.gather(-2, source.expand(x.shape)).contiguous()
            value = x.narrow(-2, j, 1).narrow(-1, j, 1)
            swapped = pivot.ne(j).where(-value, value)
            determinant = swapped if determinant is None else determinant * swapped
            row = x.narrow(-2, j, 1) / value
            x = rows.eq(j).where(row, x - x.narrow(-1, j, 1) * row).contiguous()
        return x.narrow(-1, n, right.shape[-1]), determinant.reshape(x.shape[:-2])

    @precisely
    def det(self) -> Tensor:
        """Determinants of [..., n, n]. :raises ValueError: not square."""
        n = _square(self, "the determinant")
        if n == 0:
            return self.sum((-2, -1)) + 1  # type: ignore[no-any-return]
        x: Any = self
        rows = x._new(graph.iota(n)).unsqueeze(-1)
        out: Any = None
        for j in range(n):
            pivot = (rows >= j).where(x.narrow(-1, j, 1).detach().abs(), -1).argmax(-2, True)
            source = rows.eq(j).where(pivot, rows.eq(pivot).where(j, rows))
            x = x.gather(-2, source.expand(x.shape)).contiguous()
            value = x.narrow(-2, j, 1).narrow(-1, j, 1)
            swapped = pivot.ne(j).where(-value, value)
            out = swapped if out is None else out * swapped
            safe = value.eq(0).where(1, value)
            x = (rows > j).where(x - x.narrow(-1, j, 1) / safe * x.narrow(-2, j, 1), x).contiguous()
        return out.reshape(self.shape[:-2])  # type: ignore[no-any-return]

    def slogdet(self) -> tuple[Tensor, Tensor]:
        """The determinant's sign, and the logarithm of its size."""
        d: Any = self.det()
        return d.sign(), d.abs().log()

    def solve(self, other: Any) -> Tensor:
        """x with ``self @ x = other``. A vector is one right side; a batch of vectors, one for each matrix, is taken
        for such if it has the matrices' shape but for the last axis."""
        n = _square(self, "solve")
        b = self._operand(other, self.dtype)
        vector = b.ndim == 1 or b.shape == self.shape[:-1]
        b = b.unsqueeze(-1) if vector else b
        if b.shape[-2] != n:
            raise ValueError(f"solve: {b.shape[-2]} rows on the right side of {n} equations")
        batch = tuple(np.broadcast_shapes(self.shape[:-2], b.shape[:-2]))
        kind = dtypes.promote(self.dtype, b.dtype)
        kind = kind if kind.is_float else dtypes.default_float
        wide = kind if kind.bits >= 32 else dtypes.float32
        a: Any = self.cast(wide).expand(*batch, n, n)
        out = a._eliminated(b.cast(wide).expand(*batch, n, b.shape[-1]))[0].cast(kind)
        return out.squeeze(-1) if vector else out  # type: ignore[no-any-return]

    @precisely
    def inv(self) -> Tensor:
        """Inverses of [..., n, n]; a singular one gives infinities or NaN. :raises ValueError: not square."""
        n = _square(self, "the inverse")
        return self._eliminated(_eye(self, n).expand(self.shape))[0]  # type: ignore[no-any-return]

    inverse = inv

    @precisely
    def cholesky(self, upper: bool = False) -> Tensor:
        """The lower triangle l with ``l @ l.T`` = this; NaN where the matrix is not positive definite."""
        n = _square(self, "cholesky")
        x: Any = _mirrored(self.mT if upper else self)
        rows = x._new(graph.iota(n)).unsqueeze(-1)
        columns = []
        for j in range(n):
            column = (rows >= j).where(x.narrow(-1, j, 1) / x.narrow(-1, j, 1).narrow(-2, j, 1).sqrt(), 0).contiguous()
            columns.append(column)
            x = (x - column * column.transpose(-1, -2)).contiguous()
        out = columns[0].cat(*columns[1:], dim=-1) if columns else x
        return out.transpose(-1, -2) if upper else out  # type: ignore[no-any-return]

    def matrix_power(self, n: int) -> Tensor:
        """[..., n, n] to a whole power; a negative one inverts first. :raises ValueError: not square."""
        size = _square(self, "a power")
        x: Any = self.inv() if n < 0 else self
        n, out = abs(n), None
        while n:
            if n & 1:
                out = x if out is None else out @ x
            n >>= 1
            x = x @ x if n else x
        return _eye(self, size).expand(self.shape) if out is None else out  # type: ignore[no-any-return]

    # rotations

    def svd(self, full_matrices: bool = True, *, some: bool | None = None, compute_uv: bool = True) -> tuple[
            Tensor, Tensor, Tensor]:
        """u, s, vh with ``(u * s) @ vh`` = this and s falling, by one-sided Jacobi rotations (Hestenes); at once.

        ``full_matrices``: u and vh are square, as in NumPy and ``torch.linalg.svd``. With ``some`` or ``compute_uv``
        this is ``torch.svd``, whose third result is v, not vh.
        """
        if some is not None or not compute_uv:
            u, s, vh = self.svd(not (some is None or some))
            if not compute_uv:
                u, vh = u.zeros_like(), vh.zeros_like()
            return u, s, vh.mT
        if self.ndim < 2:
            raise ValueError(f"svd is of matrices, not of shape {self.shape}")
        kind = self.dtype if self.dtype.is_float else dtypes.default_float
        wide = kind if kind.bits >= 32 else dtypes.float32
        x: Any = self.cast(wide)
        m, n = x.shape[-2:]
        if x.numel() == 0:
            k, eye = min(m, n), lambda size: _eye(x, size).expand(*x.shape[:-2], size, size)
            rows, columns = (m, n) if full_matrices else (k, k)
            return (eye(m).narrow(-1, 0, rows).cast(kind), x.flatten(-2).narrow(-1, 0, 0).cast(kind) if not k else
                    x.sum(-1).narrow(-1, 0, k).cast(kind), eye(n).narrow(-2, 0, columns).cast(kind))
        if m < n:
            v, s, uh = x.transpose(-1, -2).svd(full_matrices)
            return uh.transpose(-1, -2).cast(kind), s.cast(kind), v.transpose(-1, -2).cast(kind)
        u, s, v = _jacobi(x.detach())
        if x.requires_grad:
            u, s, v = _perturbed(x, u, s, v)
        if full_matrices and m > n:
            # the rest of the basis: what a QR of these columns adds
            u = u.cat(u.detach().qr("complete")[0].narrow(-1, n, m - n), dim=-1)
        return u.cast(kind), s.cast(kind), v.transpose(-1, -2).cast(kind)

    def svdvals(self) -> Tensor:
        """Singular values of [..., n, m], descending."""
        return self.svd(False)[1]

    def eigh(self, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        """Eigenvalues, rising, and eigenvectors (columns) of symmetric matrices, by the singular vectors of the matrix
        shifted until it is positive definite; at once. ``UPLO``: which triangle is read, "L" or "U"."""
        n = _square(self, "eigh")
        if UPLO not in ("L", "U"):
            raise ValueError(f"eigh: UPLO is 'L' or 'U', not {UPLO!r}")
        if UPLO == "U":
            return self.mT.eigh()  # type: ignore[no-any-return, attr-defined]
        kind = self.dtype if self.dtype.is_float else dtypes.default_float
        x: Any = self.cast(kind if kind.bits >= 32 else dtypes.float32)
        if x.numel() == 0:
            return x.sum(-1).cast(kind), x.cast(kind)
        x = _mirrored(x)
        plain = x.detach()
        shift = plain.abs().sum(-1, keepdim=True).amax(-2, True) + 1        # Gershgorin's bound
        u, s, _ = _jacobi(plain + shift * _eye(plain, n))
        u, values = u.flip(-1).contiguous(), (s.flip(-1) - shift.reshape(*s.shape[:-1], 1)).contiguous()
        if x.requires_grad:
            m = u.transpose(-1, -2) @ x @ u
            gap = values.unsqueeze(-2) - values.unsqueeze(-1)
            f = gap.eq(0).where(0, 1 / gap.eq(0).where(1, gap))
            off = (_eye(plain, n).bool()).where(0, m - m.detach())
            values = m.diagonal(0, -2, -1) - m.diagonal(0, -2, -1).detach() + values
            u = u + u @ (f * off)
        else:
            values = (u.transpose(-1, -2) @ plain @ u).diagonal(0, -2, -1)
        return values.cast(kind), u.cast(kind)

    def eigvalsh(self, UPLO: str = "L") -> Tensor:
        """Eigenvalues of symmetric [..., n, n], ascending; see :meth:`eigh`."""
        return self.eigh(UPLO)[0]

    def pinv(self, rcond: Any = None, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Tensor:
        """The inverse on what the matrix reaches: singular values below ``rcond`` (``rtol``) times the greatest, or
        below ``atol``, count as 0. Tolerances may be tensors, for each matrix. ``hermitian``: the lower triangle alone
        is read.
        """
        u, s, vh = (_mirrored(self) if hermitian else self).svd(False)
        if not s.numel():
            return self.mT * 1  # type: ignore[no-any-return]
        small = s <= _limit(s, self.shape, rcond if rtol is None else rtol, atol)
        inverse: Any = small.where(0, 1 / small.where(1, s))
        return (vh.transpose(-1, -2) * inverse.unsqueeze(-2)) @ u.transpose(-1, -2)  # type: ignore[no-any-return]

    def matrix_rank(self, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Tensor:
        """How many singular values are above ``tol``; or above ``atol`` and ``rtol`` times the greatest, by default
        the size times the type's epsilon. ``hermitian``: the lower triangle alone is read."""
        s: Any = (_mirrored(self) if hermitian else self).svdvals()
        if not s.numel():
            return s.ne(0).sum(-1)  # type: ignore[no-any-return]
        return (s > _limit(s, self.shape, rtol, atol if tol is None else tol)).sum(-1)  # type: ignore[no-any-return]

    @numpy_names
    def vector_norm(self, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
        """:meth:`norm` of all elements, or along axes."""
        if not isinstance(ord, int | float):
            raise TypeError(f"vector_norm: ord is a number, not {ord!r}")
        return self.norm(ord, dim, keepdim, dtype)  # type: ignore[no-any-return]

    @numpy_names
    def matrix_norm(self, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *,
                    dtype: Any = None) -> Tensor:
        """Over two axes: "fro", "nuc", 1, -1, 2, -2, inf or -inf."""
        if dtype is not None:
            return self.cast(dtype).matrix_norm(ord, dim, keepdim)  # type: ignore[no-any-return, attr-defined]
        axes = self._axes(dim)
        if len(set(axes)) != 2:
            raise ValueError(f"matrix_norm is over two axes, not {dim}")
        x: Any = self
        if axes != (x.ndim - 2, x.ndim - 1):
            out = x.movedim(axes, (-2, -1)).matrix_norm(ord)
            return out.reshape([1 if a in axes else n for a, n in enumerate(x.shape)]) if keepdim else out  # type: ignore[no-any-return]
        if ord == "fro":
            return x.norm(2, (-2, -1), keepdim)  # type: ignore[no-any-return]
        if ord in ("nuc", 2, -2):
            s = x.svdvals()
            out = s.sum(-1) if ord == "nuc" else s.amax(-1) if ord == 2 else s.amin(-1)
        elif ord in (1, -1, math.inf, -math.inf):
            sums = x.abs().sum(-2 if abs(ord) == 1 else -1)
            out = sums.amax(-1) if ord > 0 else sums.amin(-1)
        else:
            raise ValueError(f"matrix_norm: ord is 'fro', 'nuc', 1, -1, 2, -2, inf or -inf, not {ord!r}")
        return out.unsqueeze(-1).unsqueeze(-1) if keepdim else out  # type: ignore[no-any-return]


def _limit(s: Any, shape: tuple[int, ...], rtol: Any, atol: Any) -> Any:
    """What singular values must be above; tolerances may be tensors, one number for each matrix."""
    def each(value: Any) -> Any:
        return value.unsqueeze(-1) if hasattr(value, "unsqueeze") and value.ndim else value
    own: Any = s.dtype.eps * max(shape[-2:])        # unless another is given, or an absolute one counts
    if rtol is not None:
        own = each(rtol)
    elif hasattr(atol, "ndim"):
        own = (each(atol) > 0).where(0.0, own)
    elif atol is not None and atol > 0:
        own = 0.0
    limit = s.amax(-1, True) * own
    return limit if atol is None else (limit * 0 + each(atol)).maximum(limit)


def _mirrored(x: Any) -> Any:
    """The symmetric matrices of a lower triangle; the gradient is symmetric, too."""
    plain = x.detach()
    plain = plain.tril() + plain.tril(-1).mT
    if not x.requires_grad:
        return plain
    half = (x + x.mT) * 0.5
    return half - half.detach() + plain


def _jacobi(x: Any) -> tuple[Any, Any, Any]:
    """One-sided rotations of pairs of columns until all are orthogonal. All pairs of a round are turned together; the
    columns move on between rounds as players of a tournament do, so every round is the same kernels."""
    from compiler.tensor import Tensor
    m, n = x.shape[-2:]
    even = n + n % 2
    a = x.pad([0, even - n])
    v = _eye(x, even).expand(*x.shape[:-2], even, even)
    players = np.arange(even).reshape(-1, 2)        # next round's columns, in this round's places
    order = np.concatenate([players[:, 0], players[::-1, 1]])
    turned = np.concatenate([order[:1], order[-1:], order[1:-1]])
    pairs = np.stack([turned[:even // 2], turned[::-1][:even // 2]], 1).reshape(-1)
    move = Tensor(pairs.astype(np.int32), device=x.device)
    for _ in range(_SWEEPS[x.dtype.bits]):
        for _ in range(max(even - 1, 1)):
            a, v = _round(a, v, move)
            a.realize(v)
        if float(_crossing(a).item()) < 4 * x.dtype.eps:
            break
    s = (a * a).sum(-2).sqrt()
    order_ = s.argsort(-1, True)
    s = s.gather(-1, order_).narrow(-1, 0, n)
    a, v = (t.gather(-1, order_.unsqueeze(-2).expand(t.shape)).narrow(-1, 0, n) for t in (a, v))
    # the column that made the number even is zero, and stays so: it comes last, or among the other zeros
    v = v.narrow(-2, 0, n)
    tiny = s.unsqueeze(-2) <= s.amax(-1, True).unsqueeze(-2) * (x.dtype.eps * m)
    u = tiny.where(0, a / tiny.where(1, s.unsqueeze(-2)))
    a.realize(u, s, v)
    if bool(tiny.any().item()):
        u, v = _completed(u, tiny), _completed(v, (v * v).sum(-2, True) < 0.5)
    return u, s, v


def _round(a: Any, v: Any, move: Any) -> tuple[Any, Any]:
    pairs = a.reshape(*a.shape[:-1], a.shape[-1] // 2, 2)
    p, q = pairs[..., 0], pairs[..., 1]
    alpha, beta, gamma = (p * p).sum(-2, True), (q * q).sum(-2, True), (p * q).sum(-2, True)
    flat = gamma.abs() <= (alpha * beta).sqrt() * (a.dtype.eps * 0.25)
    zeta = (beta - alpha) / (flat.where(1, gamma) * 2)
    t = (zeta < 0).where(-1.0, zeta.ones_like()) / (zeta.abs() + (zeta * zeta + 1).sqrt())
    t = flat.where(0, t)
    c = (t * t + 1).rsqrt().contiguous()
    s = (c * t).contiguous()

    def turned(x: Any) -> Any:
        y = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
        p, q = y[..., 0], y[..., 1]
        return (c * p - s * q).stack(s * p + c * q, dim=-1).reshape(x.shape)[..., move].contiguous()
    return turned(a), turned(v)


def _crossing(a: Any) -> Any:
    """The greatest cosine between two columns."""
    size = (a * a).sum(-2).sqrt()
    big = size.amax(-1, True)
    there = size > big * (a.dtype.eps * 4)
    unit = there.unsqueeze(-2).where(a / there.where(size, 1).unsqueeze(-2), 0)
    cosines = (unit.transpose(-1, -2) @ unit).abs()
    return _eye(a, a.shape[-1]).bool().where(0, cosines).amax()


def _completed(u: Any, missing: Any) -> Any:
    """Columns of zeros become unit vectors at right angles to the others."""
    data, lack = u.numpy().copy(), np.broadcast_to(missing.numpy(), u.shape)[..., 0, :]
    flat, holes = data.reshape(-1, *data.shape[-2:]), lack.reshape(-1, lack.shape[-1])
    for matrix, hole in zip(flat, holes, strict=True):
        for j in np.flatnonzero(hole):
            matrix[:, j] = 0
            rest = np.eye(len(matrix)) - matrix @ matrix.T
            column = rest[:, np.argmax(np.diag(rest))]
            column = column - matrix @ (matrix.T @ column)
            matrix[:, j] = column / np.linalg.norm(column)
    return type(u)(data, u.dtype, u.device)


def _perturbed(x: Any, u: Any, s: Any, v: Any) -> tuple[Any, Any, Any]:
    """u, s, v with the gradients of the decomposition: what a small change of x does to them, added as a difference
    whose value is 0."""
    change = x - x.detach()
    m = u.transpose(-1, -2) @ change @ v
    row, column = s.unsqueeze(-1), s.unsqueeze(-2)
    gap = column * column - row * row
    eye = _eye(s, s.shape[-1]).bool()
    f = (eye | gap.eq(0)).where(0, 1 / gap.eq(0).where(1, gap))
    mt = m.transpose(-1, -2)
    du = u @ (f * (m * column + row * mt))
    dv = v @ (f * (row * m + mt * column))
    inverse = 1 / column
    left = change @ v * inverse
    du = du + left - u @ (u.transpose(-1, -2) @ left)
    right = change.transpose(-1, -2) @ u * inverse
    dv = dv + right - v @ (v.transpose(-1, -2) @ right)
    return u + du, s + m.diagonal(0, -2, -1), v + dv
