"""Parameters by number and by name, as modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from compiler.nn.module import ModuleDict, ModuleList, Parameter
from compiler.tensor import Tensor

__all__ = ["ParameterDict", "ParameterList"]


def _wanted(value: Any) -> Any:
    """A tensor that wants no gradient yet becomes a parameter, as PyTorch does it."""
    return value if not isinstance(value, Tensor) or value.requires_grad else Parameter(value)


class ParameterList(ModuleList):
    """Parameters whose names are ``0``, ``1`` ..."""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__([_wanted(value) for value in values])

    def __getitem__(self, n: Any) -> Any:
        return ParameterList(self._list[n]) if isinstance(n, slice) else self._list[n]

    def __setitem__(self, n: int, module: Any) -> None:
        super().__setitem__(n, _wanted(module))

    def append(self, module: Any) -> ParameterList:  # type: ignore[override]
        """One more at the end. Returns self."""
        return super().append(_wanted(module))

    def extend(self, modules: Iterable[Any]) -> ParameterList:  # type: ignore[override]
        """More at the end. Returns self."""
        return super().extend([_wanted(value) for value in modules])

    def insert(self, n: int, module: Any) -> None:
        """One more before number ``n``."""
        super().insert(n, _wanted(module))


class ParameterDict(ModuleDict):
    """Parameters by name."""

    def __init__(self, parameters: Mapping[str, Any] | None = None) -> None:
        super().__init__({name: _wanted(value) for name, value in (parameters or {}).items()})

    def __setitem__(self, name: str, module: Any) -> None:
        super().__setitem__(name, _wanted(module))

    def update(self, modules: Mapping[str, Any]) -> None:
        """Take over parameters by name."""
        super().update({name: _wanted(value) for name, value in modules.items()})
