"""Triangles and diagonals of matrices, and one-hot vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.dtypes import DTypeLike
from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Diagonals"]


def _triangle(x: Any, diagonal: int) -> Any:
    if x.ndim < 2:
        raise ValueError(f"a triangle is of a matrix; the shape is {x.shape}")
    rows, columns = x._new(graph.iota(x.shape[-2])), x._new(graph.iota(x.shape[-1]))
    return columns.unsqueeze(0) <= rows.unsqueeze(1) + diagonal


class Diagonals(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def one_hot(self, num_classes: int = -1) -> Tensor:
        """int32 ones where the last new axis's position is the value; -1: as many classes as occur."""
        if self.dtype.is_float:
            raise TypeError(f"one_hot takes class numbers, not {self.dtype.name}")
        if num_classes == -1:
            num_classes = int(self.max().item()) + 1 if self.numel() else 0
        positions = self._new(graph.iota(num_classes))
        return self.unsqueeze(-1).eq(positions).int()

    def tril(self, diagonal: int = 0) -> Tensor:
        """The lower triangle, up to and with this diagonal; zeros elsewhere."""
        return _triangle(self, diagonal).where(self, self.dtype.cast(0))  # type: ignore[no-any-return]

    def triu(self, diagonal: int = 0) -> Tensor:
        """What is on and above a diagonal; zeros elsewhere."""
        return _triangle(self, diagonal - 1).where(self.dtype.cast(0), self)  # type: ignore[no-any-return]

    def diagonal(self, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
        """The diagonal of two axes, as a new last axis."""
        a, b = self._axis(dim1), self._axis(dim2)
        if a == b:
            raise ValueError(f"diagonal is of two axes, not {dim1} and {dim2}")
        x: Any = self.movedim((a, b), (-2, -1))
        rows, columns = x.shape[-2:]
        row, column = max(0, -offset), max(0, offset)
        n = max(0, min(rows - row, columns - column))
        if n == 0:
            return x.reshape(*x.shape[:-2], rows * columns)[..., :0]  # type: ignore[no-any-return]
        x = x.narrow(-2, row, n).narrow(-1, column, n)
        flat = x.reshape(*x.shape[:-2], n * n).pad([0, n])
        return flat.reshape(*x.shape[:-2], n, n + 1)[..., 0]  # type: ignore[no-any-return]

    def diag_embed(self, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
        """The last axis as the diagonal of two new axes."""
        n = self.shape[-1] + abs(offset)
        row, column = max(0, -offset), max(0, offset)
        rows, columns = self._new(graph.iota(n)).unsqueeze(1), self._new(graph.iota(n)).unsqueeze(0)
        wide = self.pad([row, column]).unsqueeze(-1)
        out = (columns - rows).eq(offset).where(wide, self.dtype.cast(0))
        return out.movedim((-2, -1), (dim1, dim2))  # type: ignore[no-any-return]

    def diag(self, diagonal: int = 0) -> Tensor:
        """A matrix with this diagonal, or a matrix's diagonal."""
        if self.ndim == 1:
            return self.diag_embed(diagonal)
        if self.ndim != 2:
            raise ValueError(f"diag is of a vector or a matrix; the shape is {self.shape}")
        return self.diagonal(diagonal)

    def diagflat(self, offset: int = 0) -> Tensor:
        """A matrix with all elements, in a row, along a diagonal."""
        return self.flatten().diag_embed(offset)

    @staticmethod
    def block_diag(*tensors: Any) -> Tensor:
        """These matrices along the diagonal, zeros elsewhere."""
        parts = [t.reshape(1, -1) if t.ndim < 2 else t for t in tensors]
        columns, at, out = sum(p.shape[1] for p in parts), 0, []
        for p in parts:
            out.append(p.pad([at, columns - at - p.shape[1]]))
            at += p.shape[1]
        return out[0].cat(*out[1:], dim=0)  # type: ignore[no-any-return]

    @classmethod
    def tril_indices(cls, row: int, col: int, offset: int = 0, *, dtype: DTypeLike = dtypes.default_int,
                     device: str | None = None) -> Tensor:
        """Row and column numbers of the triangle on and below the diagonal ``offset``: [2, n]."""
        make: Any = cls
        return make(np.stack(np.tril_indices(row, offset, col)), dtype, device)  # type: ignore[no-any-return]

    @classmethod
    def triu_indices(cls, row: int, col: int, offset: int = 0, *, dtype: DTypeLike = dtypes.default_int,
                     device: str | None = None) -> Tensor:
        """Row and column numbers of the triangle on and above the diagonal ``offset``: [2, n]."""
        make: Any = cls
        return make(np.stack(np.triu_indices(row, offset, col)), dtype, device)  # type: ignore[no-any-return]

    def vander(self, N: int | None = None, increasing: bool = False) -> Tensor:
        """Rows of powers of each element."""
        n = self.shape[0] if N is None else N
        powers = [self.ones_like()]
        for _ in range(n - 1):
            powers.append(powers[-1] * self)
        powers = powers[:n] if increasing else powers[:n][::-1]
        return powers[0].stack(*powers[1:], dim=1) if n else self.reshape(-1, 1)[:, :0]  # type: ignore[no-any-return]
