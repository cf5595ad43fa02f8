"""Products of matrices and tensors, and distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler import dtypes
from compiler.dtypes import DTypeLike
from compiler.methods.base import Methods
from compiler.methods.elementwise import broadcast_shapes
from compiler.methods.names import numpy_names

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Products", "weighted"]


class Products(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def matmul(self, other: Tensor, dtype: DTypeLike | None = None) -> Tensor:
        """As ``@``: vectors, matrices, and batches of matrices that broadcast. Half types accumulate in float32."""
        x: Any = self
        other = self._operand(other, self.dtype)
        if not x.ndim or not other.ndim:
            raise ValueError(f"matmul of {x.shape} and {other.shape}: both need an axis; multiply with *")
        if x.shape[-1] != other.shape[-2 if other.ndim > 1 else 0]:
            raise ValueError(f"matmul of {x.shape} and {other.shape}: {x.shape[-1]} columns do not meet "
                             f"{other.shape[-2 if other.ndim > 1 else 0]} rows")
        kind = dtypes.promote(x.dtype, other.dtype)
        a = x if x.ndim > 1 else x.unsqueeze(0)
        b = other if other.ndim > 1 else other.unsqueeze(1)
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        wide = dtypes.float32 if kind.is_float and kind.bits < 32 else kind
        left = a.cast(wide).expand(*batch, m, k).unsqueeze(-2)
        right = b.cast(wide).expand(*batch, k, n).transpose(-1, -2).unsqueeze(-3)
        out = (left * right).sum(-1, dtype=wide if dtype is None else dtype)
        out = out.cast(kind) if dtype is None else out
        if x.ndim == 1:
            out = out.squeeze(-2)
        return out.squeeze(-1) if other.ndim == 1 else out

    mm = bmm = mv = matmul

    def dot(self, other: Tensor) -> Tensor:
        """:meth:`matmul`; of two vectors the sum of products."""
        return self.matmul(other)

    def vdot(self, other: Tensor) -> Tensor:
        """The sum of products of all elements."""
        return self.flatten().matmul(other.flatten())  # type: ignore[no-any-return]

    def inner(self, other: Tensor) -> Tensor:
        """Sums of products over the last axes of both."""
        if not self.ndim or not other.ndim:
            return self * other  # type: ignore[no-any-return]
        return self.tensordot(other, ([-1], [-1]))

    def outer(self, other: Tensor) -> Tensor:
        """Outer product of two vectors: [n, m]. ``ger`` is another name of it."""
        return self.reshape(-1, 1) * other.reshape(1, -1)  # type: ignore[no-any-return]

    ger = outer

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.matmul(other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return self._operand(other, self.dtype).matmul(self)

    def addmm(self, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        """beta * self + alpha * (mat1 @ mat2); the factors of integers are truncated, as PyTorch has it."""
        return weighted(self, mat1.matmul(mat2), beta, alpha)

    baddbmm = addmv = addmm

    def addr(self, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        """beta * self + alpha * (vec1 outer vec2); the factors of integers are truncated, of bools their truth."""
        return weighted(self, vec1.outer(vec2), beta, alpha)

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``self @ weight.T + bias``: weight is (out, in), or (in)."""
        out = self.matmul(weight.transpose(0, 1) if weight.ndim > 1 else weight)
        return out if bias is None else out + bias

    def bilinear(self, other: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x1 . W_o . x2 for each output o; weight is (out, in1, in2)."""
        from compiler.tensor import Tensor
        out = Tensor.einsum("...i,oij,...j->...o", self, weight, other)
        return out if bias is None else out + bias

    def tensordot(self, other: Tensor, dims: Any = 2) -> Tensor:
        """Sums of products over so many axes (the last of this, the first of the other), or over these axes."""
        if isinstance(dims, int):
            mine, theirs = list(range(self.ndim - dims, self.ndim)), list(range(dims))
        else:
            mine, theirs = ([d] if isinstance(d, int) else list(d) for d in dims)
        mine, theirs = [self._axis(a) for a in mine], [other._axis(a) for a in theirs]
        for i, k in zip(mine, theirs, strict=True):     # an axis of one is repeated, as PyTorch has it
            if self.shape[i] == 1 != other.shape[k]:
                other = other.sum(k, True, dtype=other.dtype)
            elif other.shape[k] == 1 != self.shape[i]:
                return self.sum(i, True, dtype=self.dtype).tensordot(other, (mine, theirs))  # type: ignore[no-any-return]
        if [self.shape[a] for a in mine] != [other.shape[a] for a in theirs]:
            raise ValueError(f"tensordot of {self.shape} and {other.shape} over axes {mine} and {theirs}: the sizes "
                             "differ")
        left = [a for a in range(self.ndim) if a not in mine]
        right = [a for a in range(other.ndim) if a not in theirs]
        count = math.prod(self.shape[a] for a in mine)
        shape = [self.shape[a] for a in left] + [other.shape[a] for a in right]
        a: Any = self.permute(*left, *mine).reshape(math.prod(self.shape[i] for i in left), count)
        b = other.permute(*theirs, *right).reshape(count, math.prod(other.shape[i] for i in right))
        return a.matmul(b).reshape(shape)  # type: ignore[no-any-return]

    def kron(self, other: Tensor) -> Tensor:
        """Kronecker product: each element times the whole other."""
        n = max(self.ndim, other.ndim)
        a: Any = self.reshape((1,) * (n - self.ndim) + self.shape)
        b = other.reshape((1,) * (n - other.ndim) + other.shape)
        wide = a.reshape([s for k in a.shape for s in (k, 1)]) * b.reshape([s for k in b.shape for s in (1, k)])
        return wide.reshape([x * y for x, y in zip(a.shape, b.shape, strict=True)])  # type: ignore[no-any-return]

    @numpy_names
    def cross(self, other: Tensor, dim: int | None = None) -> Tensor:
        """The vector product, of axes of 3 elements; without ``dim`` the first such axis, as PyTorch has it."""
        x, y = self.broadcast_tensors(self, other)
        a = x._axis(dim if dim is not None else x.shape.index(3) if 3 in x.shape else -1)
        if x.shape[a] != 3:
            raise ValueError(f"cross is of vectors of 3 elements, not {x.shape[a]}")
        return x.roll(-1, a) * y.roll(1, a) - x.roll(1, a) * y.roll(-1, a)  # type: ignore[no-any-return]

    @staticmethod
    def einsum(equation: str, *operands: Any) -> Tensor:
        """Einstein's sum: over letters that are not in the output. ``...`` stands for axes that broadcast."""
        tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else list(operands)
        inputs, output = _letters(equation, tensors)
        terms = [_diagonals(t, names) for t, names in zip(tensors, inputs, strict=True)]
        while len(terms) > 1:
            (a, x), (b, y), *rest = terms
            wanted = set(output).union(*(names for names, _ in rest))
            terms = [_contract(a, x, b, y, wanted), *rest]
        names, out = terms[0]
        gone = [i for i, c in enumerate(names) if c not in output]
        out = out.sum(gone, dtype=out.dtype) if gone else out
        names = [c for c in names if c in output]
        return out.permute([names.index(c) for c in output]) if names else out  # type: ignore[no-any-return]

    @numpy_names
    def cosine_similarity(self, other: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
        """Cosine of the angle between vectors along ``dim``, whose lengths count as ``eps`` at least."""
        x, y = self.broadcast_tensors(self, other)
        return (x * y).sum(dim) / (x.norm(2, dim).clamp(min=eps) * y.norm(2, dim).clamp(min=eps))  # type: ignore[no-any-return]

    def pairwise_distance(self, other: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
        """The ``p`` norm of self - other + eps over the last axis."""
        return (self - other + eps).norm(p, -1, keepdim)  # type: ignore[no-any-return]

    def cdist(self, other: Tensor, p: float = 2.0,
              compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Tensor:
        """Distances of each row of one from each row of the other; always by differences, as ``compute_mode``
        "donot_use_mm_for_euclid_dist" asks for: products of matrices would lose small distances."""
        return (self.unsqueeze(-2) - other.unsqueeze(-3)).norm(p, -1)  # type: ignore[no-any-return]

    def cov(self, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None) -> Tensor:
        """Covariances of rows. ``fweights`` are how often each column is counted, ``aweights`` how much it weighs."""
        if self.ndim > 2:
            raise ValueError(f"cov is of a matrix, or of one row; the shape is {self.shape}")
        x: Any = self.reshape(1, -1) if self.ndim < 2 else self
        x = x if x.dtype.is_float else x.cast(dtypes.default_float)
        for name, given, kinds in (("fweights", fweights, "iu"), ("aweights", aweights, "f")):
            if given is not None and (given.shape != (x.shape[1],) or given.dtype.kind not in kinds):
                raise ValueError(f"cov: {name} are {'integers' if 'i' in kinds else 'floats'}, one for each of "
                                 f"{x.shape[1]} columns, not {given.dtype.name} {given.shape}")
        weights: Any = fweights if aweights is None else aweights if fweights is None else fweights * aweights
        if weights is None:
            away = x - x.mean(1, True)
            out = (away @ away.T) / max(x.shape[1] - correction, 0)
        else:
            weights = weights.cast(x.dtype)
            total = weights.sum()
            away = x - (x * weights).sum(1, True) / total
            lost = correction if aweights is None else correction * (weights * aweights).sum() / total
            out = (away * weights) @ away.T / (total - lost).clamp(min=0)
        return out.squeeze()  # type: ignore[no-any-return]

    def corrcoef(self) -> Tensor:
        """Correlation coefficients of the rows: [n, n] for [n, samples]."""
        c: Any = self.cov()
        if not c.ndim:
            return c / c  # type: ignore[no-any-return]
        size = c.diagonal().sqrt()
        return (c / size.unsqueeze(0) / size.unsqueeze(1)).clamp(-1, 1)  # type: ignore[no-any-return]


def weighted(x: Any, product: Any, beta: Any, alpha: Any) -> Any:
    """beta * x + alpha * product in the type of both."""
    kind = dtypes.promote(x.dtype, product.dtype)
    if not kind.is_float:
        beta, alpha = (bool(v) if kind is dtypes.bool_ else int(v) for v in (beta, alpha))
    product = product if alpha == 1 else product * alpha
    # of beta 0 not even a NaN counts
    return product.cast(kind) if beta == 0 else (x if beta == 1 else x * beta) + product


def _letters(equation: str, tensors: Sequence[Any]) -> tuple[list[list[str]], list[str]]:
    """Names of the axes of each operand and of the output; those of an ellipsis are numbers."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    specs = left.split(",")
    if len(specs) != len(tensors):
        raise ValueError(f"einsum {equation!r}: {len(specs)} operands are named, {len(tensors)} given")
    inputs, most = [], 0
    for spec, t in zip(specs, tensors, strict=True):
        named = spec.replace("...", "")
        extra = t.ndim - len(named)
        if not all(c.isalpha() for c in named) or extra < 0 or (extra and "..." not in spec):
            raise ValueError(f"einsum {equation!r}: {spec!r} does not name the axes of a tensor of shape {t.shape}")
        most = max(most, extra if "..." in spec else 0)
        dots = [str(i) for i in range(extra - 1, -1, -1)]
        head, _, tail = spec.partition("...")
        inputs.append([*head, *dots, *tail])
    dots = [str(i) for i in range(most - 1, -1, -1)]
    if arrow:
        head, found, tail = right.partition("...")
        output = [*head, *(dots if found else ()), *tail]
    else:
        every = [c for names in inputs for c in names]
        output = dots + sorted(c for c in set(every) if every.count(c) == 1 and c.isalpha())
    if len(set(output)) != len(output) or not set(output) <= {c for names in inputs for c in names}:
        raise ValueError(f"einsum {equation!r}: the output names an axis twice, or one that no operand has")
    return inputs, output


def _diagonals(t: Any, names: list[str]) -> tuple[list[str], Any]:
    """A name that an operand has twice means its diagonal."""
    names = list(names)
    while len(set(names)) != len(names):
        c = next(c for c in names if names.count(c) > 1)
        a = names.index(c)
        b = names.index(c, a + 1)
        t = t.diagonal(0, a, b)
        names = [n for i, n in enumerate(names) if i not in (a, b)] + [c]
    return names, t


def _contract(a: list[str], x: Any, b: list[str], y: Any, wanted: set[str]) -> tuple[list[str], Any]:
    names = [c for c in dict.fromkeys([*a, *b])]
    # those that are summed come last, where matrix products have them
    gone = [c for c in names if c not in wanted]
    names = [c for c in names if c in wanted] + gone
    kind = dtypes.promote(x.dtype, y.dtype)
    wide = dtypes.float32 if kind.is_float and kind.bits < 32 else kind

    def aligned(own: list[str], t: Any) -> Any:
        order = sorted(range(len(own)), key=lambda i: names.index(own[i]))
        sizes = {c: t.shape[i] for i, c in enumerate(own)}
        return t.cast(wide).permute(order).reshape([sizes.get(c, 1) for c in names])
    out = aligned(a, x) * aligned(b, y)
    if gone:
        out = out.sum(list(range(len(names) - len(gone), len(names))), dtype=wide)
    return names[:len(names) - len(gone)], out.cast(kind)
