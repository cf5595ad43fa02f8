"""Functions that kernels share: an entry of the semantics table over whole vectors, compiled once for all kernels.

Most of what a floating-point instruction takes is about NaNs, denormals and rounding. Written out at every instruction
it would be most of a kernel's code and of the time to compile it; so entries that are long become functions of their
own, named by everything they depend on. They live in this process's symbol table and as object files on disk, like
kernels.
"""

from __future__ import annotations

import hashlib
import threading
from functools import cache
from typing import Any

from llvmlite import ir

from mock.isa.jit.values import Value, Words
from mock.isa.semantics import Entry, table
from mock.isa.vocabulary import Mode

__all__ = ["Shared", "find", "keep", "light", "named"]

Shape = tuple[tuple[str, bool], ...]
_made: dict[str, str] = {}
_lock = threading.RLock()


class _Crossing(Exception):
    """The entry looks at other lanes or at EXEC: it is no function of its operands alone."""


class _Pure(Words):
    """Words that are functions of their operands alone, lane by lane."""

    def _crossing(self, *_: Any, **__: Any) -> Any:
        raise _Crossing

    active = lane = take_active = ballot = first_active = read_lane = gather_lanes = permute = unballot = _crossing
    pack = unpack = _crossing


class Shared:
    """One function: ``text`` is its module, ``weight`` how many LLVM instructions a chunk it has."""

    def __init__(self, name: str, function: ir.Function, weight: int, results: list[tuple[str, bool, int]],
                 single: bool) -> None:
        self.name, self.type, self.weight, self.results, self.single = name, function.ftype, weight, results, single
        self.text = str(function.module)

    def call(self, b: ir.IRBuilder, values: list[Value]) -> Any:
        """A call; the results as the entry's function would give them."""
        callee = b.module.globals.get(self.name) or ir.Function(b.module, self.type, self.name)
        packed = b.call(callee, [part for v in values for part in v.parts])
        found, at = [], 0
        for kind, scalar, parts in self.results:
            if isinstance(self.type.return_type, ir.LiteralStructType):
                taken = [b.extract_value(packed, at + i) for i in range(parts)]
            else:
                taken = [packed]
            found.append(Value(kind, taken, scalar))
            at += parts
        return found[0] if self.single else tuple(found)


def named(name: str) -> str | None:
    """The module of the function of this name, if this process has met it."""
    return _made.get(name)


def keep(name: str, text: str) -> None:
    """Another function, written elsewhere: ``text`` is a module that defines ``name``."""
    with _lock:
        _made[name] = text


def _words(b: ir.IRBuilder, lanes: int, chunk: int, mode: int,
           shapes: tuple[Shape, ...]) -> tuple[Words, list[tuple[str, bool]], list[ir.Type]]:
    """(words, operands, types of the function's arguments)."""
    words = _Pure(b, lanes, chunk, Mode(mode), lambda: words._crossing())
    kinds = [shape for source in shapes for shape in source]
    return words, kinds, [t for kind, scalar in kinds
                          for t in [words.type(kind, scalar)] * (1 if scalar else words.chunks)]


def _weight(function: ir.Function, words: Words) -> int:
    return sum(len(block.instructions) for block in function.blocks) // words.chunks


@cache
def light(mnemonic: str, saturating: bool, lanes: int, chunk: int, mode: int, pairs: tuple[bool, ...],
          shapes: tuple[Shape, ...], extra: tuple[tuple[str, int], ...], limit: int) -> bool:
    """Is it at most ``limit`` LLVM instructions a chunk when what is rare is put off?"""
    entry, b = table()[mnemonic], ir.IRBuilder()
    assert isinstance(entry, Entry)
    words, kinds, types = _words(b, lanes, chunk, mode, shapes)
    words.pending = {}
    draft = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), types), "draft")
    try:
        _body(entry, saturating, b, words, draft, kinds, pairs, shapes, extra)
    except _Crossing:
        return False
    return _weight(draft, words) <= limit


@cache
def _find(mnemonic: str, saturating: bool, lanes: int, chunk: int, mode: int, pairs: tuple[bool, ...],
          shapes: tuple[Shape, ...], extra: tuple[tuple[str, int], ...]) -> Shared | None:
    entry = table()[mnemonic]
    assert isinstance(entry, Entry)
    key = repr((mnemonic, saturating, lanes, chunk, mode, pairs, shapes, extra))
    name = f"{mnemonic}_{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    b = ir.IRBuilder()
    words, kinds, types = _words(b, lanes, chunk, mode, shapes)
    # The result's type is known when the body is: first into a function of no result.
    draft = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), types), "draft")
    try:
        results, single = _body(entry, saturating, b, words, draft, kinds, pairs, shapes, extra)
    except _Crossing:
        return None
    parts = [part.type for r in results for part in r.parts]
    result = parts[0] if len(parts) == 1 else ir.LiteralStructType(parts)
    function = ir.Function(ir.Module(name), ir.FunctionType(result, types), name)
    results, single = _body(entry, saturating, b, words, function, kinds, pairs, shapes, extra)
    flat = [part for r in results for part in r.parts]
    if len(flat) == 1:
        b.ret(flat[0])
    else:
        whole: ir.Value = ir.Constant(result, ir.Undefined)
        for i, part in enumerate(flat):
            whole = b.insert_value(whole, part, i)
        b.ret(whole)
    weight = _weight(function, words)
    shared = Shared(name, function, weight, [(r.kind, r.scalar, len(r.parts)) for r in results], single)
    with _lock:
        _made[name] = shared.text
    return shared


def _body(entry: Entry, saturating: bool, b: ir.IRBuilder, words: Words, function: ir.Function,
          kinds: list[tuple[str, bool]], pairs: tuple[bool, ...], shapes: tuple[Shape, ...],
          extra: tuple[tuple[str, int], ...]) -> tuple[list[Value], bool]:
    b.position_at_end(function.append_basic_block("entry"))
    arguments = iter(function.args)
    values = iter([Value(kind, [next(arguments) for _ in range(1 if scalar else words.chunks)], scalar)
                   for kind, scalar in kinds])
    sources = [tuple(next(values) for _ in shape) if pair else next(values)
               for pair, shape in zip(pairs, shapes, strict=True)]
    made = (entry.saturating if saturating and entry.saturating else entry.function)(words, *sources, **dict(extra))
    if isinstance(made, Value):
        return [made], True
    if not all(isinstance(v, Value) for v in made):
        raise _Crossing
    return list(made), False


def find(mnemonic: str, saturating: bool, lanes: int, chunk: int, mode: int, pairs: tuple[bool, ...],
         shapes: tuple[Shape, ...], extra: tuple[tuple[str, int], ...] = ()) -> Shared | None:
    """The entry's function over operands of these shapes ((kind, scalar), a tuple for pairs of halves); None where it
    is no function of its operands alone. ``extra``: modifiers that the entry's function takes by name.

    :raises Unsupported: as the entry's function does.
    """
    return _find(mnemonic, saturating, lanes, chunk, mode, pairs, shapes, extra)
