"""What PyTorch gives for values that have places: (values, indices)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Pair"]


class Pair(NamedTuple):
    """``values`` and ``indices``. Where a tensor is wanted, it is its values: ``x - x.max(1, keepdim=True)``."""

    values: Tensor
    indices: Tensor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__array__":
            raise AttributeError(name)
        return getattr(self.values, name)

    def __float__(self) -> float:
        return float(self.values)

    def __neg__(self) -> Tensor:
        return -self.values

    def __sub__(self, other: Any) -> Tensor:
        return self.values - other

    def __truediv__(self, other: Any) -> Tensor:
        return self.values / other

    def __rsub__(self, other: Any) -> Any:
        return other - self.values

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.values

    def __add__(self, other: Any) -> Any:
        return self.values + other

    def __radd__(self, other: Any) -> Any:
        return other + self.values

    def __mul__(self, other: Any) -> Any:
        return self.values * other

    def __rmul__(self, other: Any) -> Any:
        return other * self.values
