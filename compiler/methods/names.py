"""NumPy's keywords for PyTorch's arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["numpy_names"]

F = TypeVar("F", bound=Callable[..., Any])
_NAMES = {"axis": "dim", "axes": "dim", "keepdims": "keepdim"}


def numpy_names(function: F) -> F:
    """Let a method take ``axis`` for ``dim`` and ``keepdims`` for ``keepdim``."""
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if kwargs and not _NAMES.keys().isdisjoint(kwargs):
            kwargs = {_NAMES.get(k, k): v for k, v in kwargs.items()}
        return function(*args, **kwargs)
    return wrapped  # type: ignore[return-value]
