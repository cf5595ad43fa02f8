"""Rewrite rules: patterns over UOps, and the engine that applies them.

    rules = PatternMatcher([
        (UPat(Ops.ADD, src=[UPat.var("x"), UPat.const(0)]), lambda x: x),
    ])
    graph_rewrite(root, rules)

A pattern's sources are a tuple (in this order), a list (in any order), one pattern (all of them), or None
(whatever). A name captures a node; the same name twice means the same node. ``UPat.any`` is an alternative. A
rule's function gets the captures by name, and ``ctx`` if it has such a parameter; None means: no, go on.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from compiler import watch
from compiler.dtypes import DType
from compiler.uop import Ops, UOp

__all__ = ["PatternMatcher", "Rule", "UPat", "graph_rewrite"]

Captures = dict[str, UOp]

LIMIT = 1000
"""Rewrites of one node, one after the other, before :func:`graph_rewrite` gives up; a kernel's nodes take a few."""


class UPat:
    """A pattern; see the module's text. ``arg`` and ``dtype`` are compared where given."""

    __slots__ = ("ops", "dtypes", "orders", "all_sources", "count", "arg", "name", "needs")

    def __init__(
        self,
        op: Ops | Iterable[Ops] | None = None,
        dtype: DType | Iterable[DType] | None = None,
        src: tuple[UPat, ...] | list[UPat] | UPat | None = None,
        arg: Any = None,
        name: str | None = None,
    ) -> None:
        self.ops = None if op is None else frozenset((op,)) if isinstance(op, Ops) else frozenset(op)
        self.dtypes = None if dtype is None else frozenset((dtype,)) if isinstance(dtype, DType) else frozenset(dtype)
        self.all_sources = src if isinstance(src, UPat) else None
        self.orders: Sequence[Sequence[UPat]] | None = None
        if isinstance(src, tuple):
            self.orders = [src]
        elif isinstance(src, list):
            self.orders = list(itertools.permutations(src))
        self.count = len(src) if isinstance(src, tuple | list) else None
        self.arg, self.name = arg, name
        # operations that must be among the sources: most nodes are turned away on this set alone
        self.needs = frozenset(next(iter(p.ops)) for p in (src if isinstance(src, tuple | list) else ())
                               if p.ops is not None and len(p.ops) == 1)

    @staticmethod
    def var(name: str | None = None, dtype: DType | Iterable[DType] | None = None) -> UPat:
        """Any node."""
        return UPat(None, dtype, name=name)

    @staticmethod
    def const(value: Any = None, name: str | None = None, dtype: DType | Iterable[DType] | None = None) -> UPat:
        """A constant; with ``value``, only that one."""
        return UPat(Ops.CONST, dtype, arg=value, name=name)

    @staticmethod
    def any(*patterns: UPat) -> UPat:
        """Whichever of the patterns matches."""
        return _Any(patterns)

    def match(self, node: UOp, captures: Captures) -> Iterator[Captures]:
        """Every way in which the pattern fits ``node``, as captures that extend the given ones."""
        if self.ops is not None and node.op not in self.ops:
            return
        if self.dtypes is not None and node.dtype not in self.dtypes:
            return
        if self.arg is not None and not (
            node.arg == self.arg and isinstance(node.arg, bool) == isinstance(self.arg, bool)
            and (node.arg != 0 or not isinstance(node.arg, float) or _signed(node.arg) == _signed(self.arg))
        ):
            return
        if self.name is not None:
            held = captures.get(self.name)
            if held is None:
                captures = captures | {self.name: node}
            elif held is not node:
                return
        if self.all_sources is not None:
            yield from _match_each([self.all_sources] * len(node.src), node.src, captures)
        elif self.orders is None:
            yield captures
        elif self.count == len(node.src):
            for order in self.orders:
                yield from _match_each(order, node.src, captures)


def _signed(zero: float) -> bool:
    """-0.0 is another number than 0.0: what is added to it stays, what is compared with it does not."""
    return math.copysign(1.0, zero) < 0


class _Any(UPat):
    __slots__ = ("patterns",)

    def __init__(self, patterns: Sequence[UPat]) -> None:
        super().__init__()
        self.patterns = patterns
        if all(p.ops is not None for p in patterns):
            self.ops = frozenset().union(*(p.ops for p in patterns if p.ops is not None))

    def match(self, node: UOp, captures: Captures) -> Iterator[Captures]:
        for pattern in self.patterns:
            yield from pattern.match(node, captures)


def _match_each(patterns: Sequence[UPat], nodes: Sequence[UOp], captures: Captures) -> Iterator[Captures]:
    if not patterns:
        yield captures
        return
    for first in patterns[0].match(nodes[0], captures):
        yield from _match_each(patterns[1:], nodes[1:], first)


Rule = tuple[UPat, Callable[..., Any]]
"""A pattern and what to make of a node that it fits: a node (or, for tables of facts, anything), or None."""


class PatternMatcher:
    """An ordered set of rules. ``a + b`` is both, ``a`` first."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = list(rules)
        self._table: dict[Ops, list[tuple[UPat, Callable[..., Any], frozenset[Ops], bool]]] = {op: [] for op in Ops}
        for pattern, function in self.rules:
            wants_ctx = "ctx" in inspect.signature(function).parameters
            for op in pattern.ops if pattern.ops is not None else Ops:
                self._table[op].append((pattern, function, pattern.needs, wants_ctx))

    def __add__(self, other: PatternMatcher) -> PatternMatcher:
        return PatternMatcher(self.rules + other.rules)

    def rewrite(self, node: UOp, ctx: Any = None) -> Any:
        """What the first rule that fits makes of ``node``; None when none does."""
        found = self.fired(node, ctx)
        return None if found is None else found[0]

    def fired(self, node: UOp, ctx: Any = None) -> tuple[Any, Callable[..., Any]] | None:
        """:meth:`rewrite`, and whose doing it was: the rule's function."""
        rules = self._table[node.op]
        if not rules:
            return None
        have = {s.op for s in node.src}
        for pattern, function, needs, wants_ctx in rules:
            if needs and not needs <= have:
                continue
            for captures in pattern.match(node, {}):
                result = function(ctx=ctx, **captures) if wants_ctx else function(**captures)
                if result is not None and result is not node:
                    return result, function
        return None


def known_already(x: UOp) -> None:
    """Stands for a rule where those who watch are told of what an earlier call with the same results has found."""


def graph_rewrite(root: UOp, matcher: PatternMatcher, ctx: Any = None, done: dict[UOp, UOp] | None = None) -> UOp:
    """Apply ``matcher`` to every node, sources first, and to what comes out, until no rule fits.

    :param done: results to share between calls with the same matcher and context.
    :raises RuntimeError: when rules undo each other.
    """
    done = {} if done is None else done
    turns: dict[UOp, int] = {}      # how often what stands for a node was rewritten
    seen: list[watch.Firing] | None = [] if watch.watchers else None
    before = dict(done) if seen is not None else {}
    stack: list[tuple[UOp, UOp, bool]] = [(root, root, False)]      # (asked for, stands for it now, sources are done)
    while stack:
        asked, now, ready = stack.pop()
        if asked in done:
            continue
        if now is not asked and now in done:
            if before.get(now, now) is not now and seen is not None:
                seen.append((now, done[now], known_already))
            done[asked] = done[now]
            continue
        if not ready:
            stack.append((asked, now, True))
            stack.extend((s, s, False) for s in reversed(now.src) if s not in done)
            continue
        rebuilt = now.replace(tuple(done[s] for s in now.src)) if now.src else now
        if before and seen is not None:
            seen += [(s, before[s], known_already) for s in now.src if before.get(s, s) is not s]
        found = matcher.fired(rebuilt, ctx)
        if found is None:
            done[asked] = done[now] = done[rebuilt] = rebuilt
        else:
            result = found[0]
            if seen is not None:
                seen.append((rebuilt, *found))
            if result.place is None and result.src:
                result.place = rebuilt.place
            turns[asked] = turns.get(asked, 0) + 1
            if turns[asked] > LIMIT:
                raise RuntimeError(f"rewriting {asked} does not end: after {LIMIT} rules, {rebuilt} became {result}; "
                                   "two rules undo each other")
            stack.append((asked, result, False))
    if seen:
        watch.rewrote(root, done[root], seen)
    return done[root]
