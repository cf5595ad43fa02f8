"""The order of instructions in a block of LLVM IR: each just before it is wanted.

A wave's registers are many more than the host's. In the kernel's own order the host would load and store a sum for
every product that goes into it; asked for by who uses them, the products of one sum come one after the other, and it
stays in a register.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

__all__ = ["on_demand"]

_LEAST = 200        # instructions of a block that is worth it


def _pure(instruction: Any) -> bool:
    if isinstance(instruction, ir.CallInstr):
        return instruction.callee.name.startswith(("llvm.fma", "llvm.f", "llvm.ct"))
    return isinstance(instruction, (ir.LoadInstr, ir.GEPInstr, ir.CastInstr, ir.SelectInstr, ir.CompareInstr,
                                    ir.ShuffleVector, ir.InsertElement, ir.ExtractElement)) or \
        type(instruction) is ir.Instruction     # arithmetic


def on_demand(function: ir.Function) -> None:
    """Loads do not move over what may store."""
    for block in function.blocks:
        if len(block.instructions) >= _LEAST:
            block.instructions[:] = _ordered(block.instructions)


def _ordered(instructions: list[Any]) -> list[Any]:
    here, done, found = {id(i): i for i in instructions}, set[int](), list[Any]()

    def emit(root: Any) -> None:
        open_ = [(root, iter(root.operands))]
        while open_:
            instruction, operands = open_[-1]
            for operand in operands:
                wanted = here.get(id(operand))
                if wanted is not None and id(wanted) not in done and _pure(wanted):
                    open_.append((wanted, iter(wanted.operands)))
                    break
            else:
                open_.pop()
                if id(instruction) not in done:
                    done.add(id(instruction))
                    found.append(instruction)
    loads: list[Any] = []
    for instruction in instructions:
        if isinstance(instruction, ir.LoadInstr):
            loads.append(instruction)
        if _pure(instruction):
            continue
        if isinstance(instruction, ir.PhiInstr):
            done.add(id(instruction))
            found.append(instruction)
            continue
        if not isinstance(instruction, ir.Terminator):      # it may store
            for load in loads:
                if id(load) not in done:
                    emit(load)
            loads = []
        if isinstance(instruction, ir.Terminator):
            emit(instruction)
            found.pop()
            for rest in instructions:       # wanted in other blocks
                if id(rest) not in done:
                    emit(rest)
            found.append(instruction)
        else:
            emit(instruction)
    return found
