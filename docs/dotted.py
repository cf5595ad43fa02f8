"""Names as the docs write them: ``hcq.Device.alloc``."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["exists"]


def exists(dotted: str) -> bool:
    """Whether a dotted name can be imported: a module, or something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False
