"""Which graph each thread records now. Apart from ``hcq.graph``, since every launch looks here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hcq.graph import Graph

__all__ = ["RECORDING"]

RECORDING: dict[int, Graph] = {}
"""By the thread's number."""
