"""A kernel's instructions as text.

Of a GPU's code object, by a disassembler that is found by the target's architecture: the built-in table first, then
the entry-point group ``compiler.disassemblers`` (``amdgcn = module:function``, of the object's bytes and the kernel's
name). For the host's processor, and where there is none, as LLVM prints its own code.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from compiler.render.objects import assembly

if TYPE_CHECKING:
    from compiler.engine import Program
    from compiler.render.llvm import Target

__all__ = ["disassembly"]

_BUILT_IN = {"amdgcn": "mock.isa.listing:text"}


def disassembly(program: Program, target: Target) -> str:
    """:returns: lines; comments begin with a semicolon or a number sign."""
    if target.gpu:
        kind = target.triple.partition("-")[0]
        known = {e.name: e.value for e in entry_points(group="compiler.disassemblers")} | _BUILT_IN
        module, _, function = known.get(kind, "").partition(":")
        try:
            return str(getattr(importlib.import_module(module or "?"), function)(program.code, program.source.name))
        except (ImportError, AttributeError) as error:
            why = f"; as LLVM prints it, for no disassembler is here ({error})"
            return f"{why}\n{assembly(program.source.text, target)}"
    return assembly(program.source.text, target, program.fast)
