"""Tensors put together and taken apart along axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from compiler import dtypes, graph
from compiler.methods.base import Methods
from compiler.methods.elementwise import broadcast_shapes
from compiler.methods.names import numpy_names

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Joining"]


def _list(tensors: tuple[Any, ...]) -> list[Any]:
    return list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else list(tensors)


def _each(function: Callable[[Any], Any], first: Any, others: tuple[Any, ...]) -> Any:
    if not others and not isinstance(first, list | tuple):
        return function(first)
    return tuple(function(t) for t in (_list((first,)) if not others else (first, *others)))


class Joining(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    @numpy_names
    def cat(self: Any, *others: Any, dim: int = 0) -> Tensor:
        """This and ``others`` one after the other along ``dim``. Also ``Tensor.cat([a, b], dim)``."""
        if isinstance(self, list | tuple):
            first, *rest = self
            return first.cat(*rest, dim=others[0] if others else dim)  # type: ignore[no-any-return]
        if others and isinstance(others[-1], int):
            *others, dim = others  # type: ignore[assignment]
        every = [self, *_list(tuple(others))]
        if not all(hasattr(p, "uop") or hasattr(p, "values") for p in every):
            raise TypeError(f"cat joins tensors, not {', '.join(sorted({type(p).__name__ for p in every}))}")
        # PyTorch lets a vector of no elements join anything
        parts = [p for p in every if p.shape != (0,)]
        a = (parts or every)[0]._axis(dim)
        if any(not p.ndim for p in every):
            raise ValueError("cat joins tensors along an axis; one without axes has none: use stack")
        like = parts[0].shape if parts else self.shape
        if any(p.ndim != len(like) or p.shape[:a] != like[:a] or p.shape[a + 1:] != like[a + 1:] for p in parts):
            raise ValueError(f"cat along axis {a}: shapes {[p.shape for p in parts]} differ elsewhere")
        dtype = dtypes.promote(*(p.dtype for p in every))
        total, at, out = sum(p.shape[a] for p in parts), 0, None
        for p in parts:
            n = p.shape[a]
            if n == 0:
                continue
            amounts = [(0, 0)] * len(like)
            amounts[a] = (at, total - at - n)
            piece = p.cast(dtype)
            piece = piece._new(graph.pad(piece._node, amounts))
            if out is None:
                out = piece
            else:  # exact for every value, -0.0 and NaN included: choose, do not add
                places = tuple(total if i == a else 1 for i in range(len(like)))
                index = graph.expand(graph.reshape(graph.iota(total), places), piece.shape)
                out = piece._new(index).lt(at).where(out, piece)
            at += n
        return out if out is not None else self.cast(dtype)  # type: ignore[no-any-return]

    concat = concatenate = cat

    @numpy_names
    def stack(self: Any, *others: Any, dim: int = 0) -> Tensor:
        """Along a new axis. Also ``Tensor.stack([a, b], dim)``."""
        if isinstance(self, list | tuple):
            first, *rest = self
            return first.stack(*rest, dim=others[0] if others else dim)  # type: ignore[no-any-return]
        others = tuple(_list(others)) if others else others
        if any(o.shape != self.shape for o in others):
            raise ValueError(f"stack needs equal shapes, not {[self.shape, *(o.shape for o in others)]}")
        a = self._axis(dim, 1)
        return self.unsqueeze(a).cat(*(o.unsqueeze(a) for o in others), dim=a)  # type: ignore[no-any-return]

    @staticmethod
    def hstack(tensors: Sequence[Any]) -> Tensor:
        """Joined along axis 1; vectors along axis 0."""
        parts = [t.atleast_1d() for t in tensors]
        return parts[0].cat(*parts[1:], dim=0 if parts[0].ndim == 1 else 1)  # type: ignore[no-any-return]

    @staticmethod
    def vstack(tensors: Sequence[Any]) -> Tensor:
        """Joined along axis 0; vectors are rows."""
        first, *rest = (t.atleast_2d() for t in tensors)
        return first.cat(*rest, dim=0)  # type: ignore[no-any-return]

    @staticmethod
    def dstack(tensors: Sequence[Any]) -> Tensor:
        """Joined along the third axis."""
        first, *rest = (t.atleast_3d() for t in tensors)
        return first.cat(*rest, dim=2)  # type: ignore[no-any-return]

    @staticmethod
    def column_stack(tensors: Sequence[Any]) -> Tensor:
        """Vectors as columns, matrices side by side."""
        first, *rest = (t.reshape(-1, 1) if t.ndim < 2 else t for t in tensors)
        return first.cat(*rest, dim=1)  # type: ignore[no-any-return]

    def atleast_1d(self: Any, *others: Any) -> Any:
        """One axis at least. Of several tensors, or a list of them, a tuple."""
        return _each(lambda t: t.reshape(1) if t.ndim == 0 else t._copied(), self, others)

    def atleast_2d(self: Any, *others: Any) -> Any:
        """Two axes at least; new ones stand in front. Of several tensors, or a list of them, a tuple."""
        return _each(lambda t: t.reshape((1,) * (2 - t.ndim) + t.shape), self, others)

    def atleast_3d(self: Any, *others: Any) -> Any:
        """Three axes at least; a vector lies along the middle one. Of several tensors, or a list of them, a tuple."""
        return _each(lambda t: t.reshape(1, -1, 1) if t.ndim < 2 else t.unsqueeze(-1) if t.ndim == 2
                     else t.reshape(t.shape), self, others)

    @staticmethod
    def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
        """All of them in the one shape that they broadcast to."""
        shape = broadcast_shapes(*(t.shape for t in tensors))
        return tuple(t.expand(shape) for t in tensors)

    @staticmethod
    def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
        """Coordinates of a grid; ``indexing="xy"`` swaps the first two axes."""
        if indexing not in ("ij", "xy"):
            raise ValueError(f"meshgrid: indexing is 'ij' or 'xy', not {indexing!r}")
        parts = [t.reshape(-1) for t in _list(tensors)]
        swap = indexing == "xy" and len(parts) > 1
        if swap:
            parts[0], parts[1] = parts[1], parts[0]
        shape = [p.shape[0] for p in parts]
        out = [p.reshape([-1 if i == k else 1 for i in range(len(parts))]).expand(shape) for k, p in enumerate(parts)]
        if swap:
            out[0], out[1] = out[1], out[0]
        return tuple(out)

    @staticmethod
    def cartesian_prod(*tensors: Any) -> Tensor:
        """Every combination of elements of these vectors, one a row."""
        if len(tensors) == 1:
            return tensors[0]  # type: ignore[no-any-return]
        first, *rest = (g.flatten() for g in Joining.meshgrid(*tensors))
        return first.stack(*rest, dim=1)  # type: ignore[no-any-return]

    @numpy_names
    def split(self, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        """Into parts of a size (the last may be smaller), or of these sizes."""
        a = self._axis(dim)
        n = self.shape[a]
        if isinstance(split_size, int):
            if split_size < 1:
                raise ValueError(f"split: parts have at least one element, not {split_size}")
            split_size = [min(split_size, n - at) for at in range(0, max(n, 1), split_size)]
        if sum(split_size) != n:
            raise ValueError(f"split: {list(split_size)} do not add up to the {n} elements of axis {a}")
        out, at = [], 0
        for size in split_size:
            out.append(self.narrow(a, at, size))
            at += size
        return tuple(out)

    @numpy_names
    def chunk(self, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
        """At most so many parts of equal size, but for the last."""
        if chunks < 1:
            raise ValueError(f"chunk: at least one part, not {chunks}")
        return self.split(max(1, -(-self.shape[self._axis(dim)] // chunks)), dim)

    @numpy_names
    def tensor_split(self, indices_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        """Into so many parts, the first ones one longer; or at these places."""
        a = self._axis(dim)
        n = self.shape[a]
        if hasattr(indices_or_sections, "tolist"):
            indices_or_sections = indices_or_sections.tolist()
        if isinstance(indices_or_sections, int):
            k = indices_or_sections
            if k < 1:
                raise ValueError(f"tensor_split: at least one part, not {k}")
            sizes = [n // k + (i < n % k) for i in range(k)]
            return self.split(sizes, a)
        cuts = [0, *(min(max(i + n if i < 0 else i, 0), n) for i in indices_or_sections), n]
        return tuple(self.narrow(a, b, max(0, e - b)) for b, e in pairwise(cuts))

    def hsplit(self, indices_or_sections: Any) -> tuple[Tensor, ...]:
        """:meth:`tensor_split` along axis 1; of a vector, along axis 0."""
        return self.tensor_split(indices_or_sections, 0 if self.ndim == 1 else 1)

    def vsplit(self, indices_or_sections: Any) -> tuple[Tensor, ...]:
        """:meth:`tensor_split` along axis 0."""
        return self.tensor_split(indices_or_sections, 0)
