"""From a kernel's graph to a list of instructions in loops, by blocks.

Every open range is a block: the code that is run once an iteration. A node belongs to the block of the innermost
range that it depends on, and to no deeper one, so what a loop does not change is outside of it by construction.
A block sits in another one as a single item: it needs what its nodes need from outside, and gives the values of
the reductions that it closes. All dependencies are data, so within a block EVERY topological order of the items is
right; ``choose`` may be anything (the tests draw it at random).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from compiler.lower import Axis
from compiler.uop import Ops, UOp

__all__ = ["Begin", "Block", "End", "Instruction", "linearize"]


@dataclass(frozen=True)
class Begin:
    """Open the loop of ``range``; ``reduces`` start from their identities."""

    range: UOp
    reduces: tuple[UOp, ...]


@dataclass(frozen=True)
class End:
    """Close the loop of ``range``: each of ``reduces`` takes in its value, in the innermost of its ranges."""

    range: UOp
    reduces: tuple[UOp, ...]


Instruction = UOp | Begin | End

_NO_ITEMS = frozenset({Ops.RANGE, Ops.SINK, Ops.PARAM, Ops.VARIABLE, Ops.CONST, Ops.SHARED})


@dataclass
class Block:
    """One range's body, or the whole kernel (``range`` None)."""

    range: UOp | None
    parent: Block | None
    depth: int
    items: list[UOp | Block] = field(default_factory=list)
    reduces: list[UOp] = field(default_factory=list)


def _within(block: Block, other: Block) -> bool:
    while block.depth > other.depth:
        assert block.parent is not None
        block = block.parent
    return block is other


def build_blocks(sink: UOp) -> tuple[Block, dict[UOp, Block]]:
    """The tree of blocks, and each node's block. RANGE and REDUCE nodes are not items: they are the loops."""
    root = Block(None, None, 0)
    blocks: dict[UOp, Block] = {}
    order = list(sink.toposort())
    parent = root
    for r in sorted((n for n in order if n.op is Ops.RANGE and n.arg[1] is not Axis.REDUCE), key=lambda n: n.arg):
        blocks[r] = parent = Block(r, parent, parent.depth + 1)

    def place(ranges: frozenset[UOp]) -> Block:
        deepest = max((blocks[r] for r in ranges), key=lambda b: b.depth, default=root)
        assert all(_within(deepest, blocks[r]) for r in ranges), "ranges that are not nested"
        return deepest

    for node in reversed(order):
        if node.op is Ops.REDUCE:
            parent = place(node.ranges)
            for r in node.src[1:]:
                block = blocks.get(r)
                if block is None:
                    block = blocks[r] = Block(r, parent, parent.depth + 1)
                assert block.parent is parent, f"{node}: its range is open elsewhere already"
                block.reduces.append(node)
                parent = block
    home = {}
    for node in order:
        home[node] = place(node.ranges)
        if node.op not in _NO_ITEMS and node.op is not Ops.REDUCE:
            home[node].items.append(node)
    for block in sorted(blocks.values(), key=lambda b: b.depth):
        assert block.parent is not None
        block.parent.items.append(block)
    return root, home


def _first(ready: list[UOp | Block]) -> int:
    return 0


def linearize(sink: UOp, choose: Callable[[list[UOp | Block]], int] = _first) -> list[Instruction]:
    """The kernel's instructions. ``choose`` picks one of the items that are ready by its position."""
    root, home = build_blocks(sink)
    # which item of its block's parents a node is inside of, and which item makes a reduce's value
    maker: dict[UOp, Block] = {}
    for block in {id(b): b for b in home.values()}.values():
        for item in block.items:
            if isinstance(item, Block):
                maker.update((r, item) for r in item.reduces if home[r] is block)

    def item_of(node: UOp, block: Block) -> UOp | Block | None:
        """The item of ``block`` that ``node``'s value comes from; None if it comes from outside or needs nothing."""
        if node.op in _NO_ITEMS:
            return None
        where = home[node]
        return maker.get(node, node) if where is block else None

    def needs(block: Block) -> set[UOp]:
        """What the nodes of a block and of those inside it read."""
        out: set[UOp] = set(s for r in block.reduces for s in r.src[:1])
        for item in block.items:
            out |= needs(item) if isinstance(item, Block) else set(item.src)
        if block.range is not None:
            out |= set(block.range.src)
        return out

    out: list[Instruction] = []

    def emit(block: Block) -> None:
        waiting: dict[int, int] = {}
        users: dict[int, list[UOp | Block]] = {}
        for item in block.items:
            sources = needs(item) if isinstance(item, Block) else item.src
            makers = {id(m) for s in sources if (m := item_of(s, block)) is not None and m is not item}
            waiting[id(item)] = len(makers)
            for maker_id in makers:
                users.setdefault(maker_id, []).append(item)
        ready = [item for item in block.items if waiting[id(item)] == 0]
        done = 0
        while ready:
            item = ready.pop(choose(ready))
            done += 1
            if isinstance(item, Block):
                assert item.range is not None
                out.append(Begin(item.range, tuple(item.reduces)))
                emit(item)
                out.append(End(item.range, tuple(item.reduces)))
            else:
                out.append(item)
            for user in users.get(id(item), ()):
                waiting[id(user)] -= 1
                if waiting[id(user)] == 0:
                    ready.append(user)
        assert done == len(block.items), "a loop that needs its own result"

    emit(root)
    return out
