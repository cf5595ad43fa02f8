"""What every instruction does, written once.

An entry is a signature and a small function over the vocabulary; executors bind the vocabulary to arrays (or to
anything else that offers the same words) and fetch and store operands by the signature. To add an instruction, add
one line to the file of its kind.
"""

from __future__ import annotations

from functools import cache

from mock.isa.semantics.table import Atomic, Entry, Load, Store, Table

__all__ = ["Atomic", "Entry", "Load", "Store", "Table", "table"]


@cache
def table() -> Table:
    """All entries by mnemonic."""
    from mock.isa.semantics import compares, floats, integers, matrices, memory, packed, scalar
    result = Table()
    for module in (scalar, integers, floats, compares, packed, matrices, memory):
        module.define(result)
    return result
