"""What a family of methods may use of the tensor it is mixed into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler.dtypes import DType
from compiler.uop import UOp

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Methods"]


class Methods:
    """Declarations only; ``compiler.tensor.Tensor`` has them all."""

    __slots__ = ()

    if TYPE_CHECKING:
        uop: UOp
        _device: str
        requires_grad: bool
        _node: UOp
        shape: tuple[int, ...]
        dtype: DType
        ndim: int
        device: str

        def numel(self) -> int: ...
        def item(self) -> Any: ...
        def _new(self, uop: UOp, *others: Any) -> Tensor: ...
        def _axis(self, dim: int, extra: int = 0) -> int: ...
        def _axes(self, dim: int | Sequence[int] | None) -> tuple[int, ...]: ...
        def __getattr__(self, name: str) -> Any: ...
