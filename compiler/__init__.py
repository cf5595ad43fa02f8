"""A tensor compiler: lazy tensors, rewrite rules, LLVM code for CPUs and AMD GPUs.

    from compiler import Tensor, dtypes, jit, nn
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler import array_api, dtypes, nn, optim
    from compiler.capture import jit
    from compiler.tensor import Tensor, no_grad
    from compiler.variable import Variable

__all__ = ["Tensor", "Variable", "array_api", "dtypes", "jit", "nn", "no_grad", "optim"]

_WHERE = {"Tensor": "compiler.tensor", "no_grad": "compiler.tensor", "jit": "compiler.capture",
          "Variable": "compiler.variable"}


def __getattr__(name: str) -> Any:
    import importlib
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in ("array_api", "dtypes", "nn", "optim"):
        return importlib.import_module(f"compiler.{name}")
    raise AttributeError(f"module 'compiler' has no attribute {name!r}")
