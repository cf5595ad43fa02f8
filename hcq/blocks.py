"""The memory of a graph's packets, and the tables that say what changes in it; see ``hcq.plan``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.backend import IndirectBuffer
from hcq.memory import Buffer
from hcq.patch import Hole
from hcq.signal import Point, Signal

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.program import Shape
    from hcq.schedule import Lane

__all__ = ["Block", "BlockCopy", "Leads", "Symbol", "Table"]

_UNSIGNED: dict[int, Any] = {8: np.uint64, 4: np.uint32, 2: np.uint16, 1: np.uint8}


class Table:
    """Places of one width in a block, and what goes there."""

    def __init__(self) -> None:
        self.index: list[int] = []
        self.symbol: list[int] = []
        self.addend: list[int] = []
        self.shift: list[int] = []

    def add(self, index: int, symbol: int, addend: int = 0, shift: int = 0) -> None:
        self.index.append(index)
        self.symbol.append(symbol)
        self.addend.append(addend)
        self.shift.append(shift)

    def paired(self) -> tuple[Table, Table]:
        """Of a table of words: the values of 64 bits that lie at a multiple of 8, in two entries one behind the other,
        as a table of that width; and the rest."""
        wide, rest = Table(), Table()
        entries = list(zip(self.index, self.symbol, self.addend, self.shift, strict=True))
        at = 0
        while at < len(entries):
            index, symbol, addend, shift = entries[at]
            if not index % 2 and not shift and entries[at + 1:at + 2] == [(index + 1, symbol, addend, 32)]:
                wide.add(index // 2, symbol, addend)
                at += 2
            else:
                rest.add(*entries[at])
                at += 1
        return wide, rest

    def freeze(self, size: int) -> None:
        """The table is complete. :param size: bytes of each place."""
        self.dtype = _UNSIGNED[size]
        self.indices = np.array(self.index, np.int64)
        self.symbols = np.array(self.symbol, np.int64)
        self.addends = np.array(self.addend, np.uint64) if any(self.addend) else None
        self.shifts = np.array(self.shift, np.uint64) if any(self.shift) else None

    def __len__(self) -> int:
        return len(self.index)

    def scatter(self, memory: np.ndarray, symbols: np.ndarray) -> None:
        """Store; ``memory`` has this table's width."""
        values = symbols[self.symbols]
        if self.addends is not None:
            values += self.addends
        if self.shifts is not None:
            values >>= self.shifts
        memory[self.indices] = values if self.dtype is np.uint64 else values.astype(self.dtype)


class Block:
    """One device's part: lanes' words, then kernarg segments."""

    def __init__(self, device: Device, symbol: int) -> None:
        self.device, self.symbol = device, symbol
        self.kernargs: list[tuple[int, bytes]] = []     # (offset in the segments' part, contents)
        self.kernarg_bytes = 0
        self.words_bytes = 0
        self.lanes: dict[Lane, tuple[int, int]] = {}    # first word in the block, number of words
        self.cuts: dict[Lane, list[int]] = {}           # where steps end, in the lane's words
        self.once, self.always = Table(), {size: Table() for size in _UNSIGNED}
        # inputs in the segments: (offset there, symbol, shift), by width; and pointers to the segments themselves
        self.segment_words: list[tuple[int, int, int]] = []
        self.segment_halves: list[tuple[int, int, int]] = []
        self.segment_bytes: list[tuple[int, int, int]] = []
        self.segment_once: list[tuple[int, int, int, int]] = []
        self.template = np.empty(0, np.uint8)

    def take(self, nbytes: int, align: int) -> int:
        """Offset of a kernarg segment in the segments' part."""
        offset = self.kernarg_bytes + align - 1 & -align
        self.kernarg_bytes = offset + nbytes
        return offset


@dataclass(eq=False)
class Leads:
    """How the words of a lane reach its engine: themselves, or by packets that lead to them."""

    words: np.ndarray
    room: np.ndarray                        # the words, and as many more as there is memory behind them
    address: int
    packets: list[int] = field(default_factory=list)
    aligned: bool = False                   # the packets depend on where in the ring they stand
    indirect: tuple[IndirectBuffer, ...] = ()
    # with the signal at the end: all words, where those of the end begin, where in them its value stands, and what has
    # to be added to that
    signal: Signal | None = None
    ready: np.ndarray | None = None
    begin: int = 0
    value_at: int = 0
    addend: int = 0

    def end(self, signal: Signal, words: list[int], holes: Sequence[Hole]) -> None:
        """These words end the submission, with a value in one place, by ``hcq.patch``."""
        self.signal, (hole,) = signal, holes
        count = len(self.words)
        if self.indirect:
            self.begin = 0 if self.aligned else len(self.packets)
            self.ready = np.array([*self.packets[:self.begin], *words], np.uint32)
        elif count + len(words) <= len(self.room):
            self.begin, self.ready = count, self.room[:count + len(words)]
            self.ready[count:] = words
        else:
            raise ValueError(f"{len(words)} words end a submission; there is room for {len(self.room) - count}")
        self.value_at, self.addend = self.begin + hole.word, hole.addend


class BlockCopy:
    """One set of the blocks' memory, and when it is free again."""

    def __init__(self, buffers: list[Buffer]) -> None:
        self.buffers = buffers
        self.views: list[dict[int, np.ndarray]] = [
            {size: buffer.view.view(dtype) for size, dtype in _UNSIGNED.items()} for buffer in buffers]
        self.points: tuple[Point, ...] = ()
        self.leads: dict[Lane, Leads] = {}
        self.shapes: dict[int, tuple[bytes, Shape]] = {}        # node -> what its segment and packets are for


class Symbol:
    """An input in one role: converted once a replay, wherever it stands in that role.

    :param convert: the check of what the role takes; gives an integer, or the bytes of one.
    :param device: of a kernel's pointer.
    """

    def __init__(self, name: str, default: Any, convert: Callable[[Any], Any], device: Device | None) -> None:
        self.name, self.default, self.device = name, default, device
        found = convert(default)
        self.convert: Callable[[Any], int] = convert
        if isinstance(found, bytes):
            self.convert = lambda value: int.from_bytes(convert(value), "little")
        self.value = self.convert(default)
