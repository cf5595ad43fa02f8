"""The JSON Schema of what ``--json`` prints, as a file of this package: ``schema/amdrv-info-1.json``.

A program that reads such documents checks ``schema`` ("amdrv-info/1"). Within a version fields are only added.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["load"]


@cache
def load() -> dict[str, Any]:
    """The schema of one document of any command, or of an error."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "schema/amdrv-info-1.json").read_text(encoding="utf-8"))
    return found
