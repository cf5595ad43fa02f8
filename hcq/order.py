"""The inputs of a replay, many at once: what has to be known of their names is worked out once for a list of names.

A replay is mostly called with the same names, so that their numbers, the devices they belong to and which of them are
written are arrays and lists already, and a buffer costs its address and three comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hcq.memory import Buffer, Storage

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["Order", "Pointer", "Role"]

Role = tuple[int, Callable[[Any], int]]
"""A symbol's number, and the check of what it takes."""


class Pointer(NamedTuple):
    """An input that is one device's kernels' pointer and nothing else."""

    symbol: int
    device: Device
    written: bool


class Order:
    """What replays with these names, in this order, change.

    :param roles: of each input. :param pointers: those that are pointers of kernels only.
    :param pinned: all memory that the graph was recorded with.
    """

    def __init__(self, names: list[str], roles: Mapping[str, Sequence[Role]], pointers: Mapping[str, Pointer],
                 pinned: frozenset[Storage]) -> None:
        self.names, self._pinned = names, pinned
        self._others = [(place, roles.get(name, ())) for place, name in enumerate(names) if name not in pointers]
        places = [place for place, name in enumerate(names) if name in pointers]
        found = [pointers[names[place]] for place in places]
        self._pick = _picker(places, len(names))
        self._roles = [roles[names[place]][0] for place in places]
        self._devices = [pointer.device for pointer in found]
        self._symbols = np.array([pointer.symbol for pointer in found], np.int64)
        self._written = _picker([at for at, pointer in enumerate(found) if pointer.written], len(found))
        self._read = _picker([at for at, pointer in enumerate(found) if not pointer.written], len(found))
        self._at: list[object] = []             # the devices' epochs now, and by pointer
        self._epochs: list[object] = []

    def store(self, values: np.ndarray, given: list[Any], epochs: list[object]) -> bool:
        """Put what is given for the names into the symbols; whether their memory has to be looked at more closely.

        :param epochs: of the graph's devices: others, where memory was given back since the last time.
        :raises HcqError: what a command cannot take, or memory that was freed.
        """
        near = False
        for place, roles in self._others:
            value = given[place]
            near |= type(value) is Buffer
            for number, convert in roles:
                values[number] = convert(value)
        if not self._roles:
            return near
        buffers = self._pick(given)
        if epochs != self._at:
            self._at, self._epochs = epochs, [device._pool.epoch for device in self._devices]
        try:                        # all seen to be this device's, and alive, since memory was last given back
            known = [buffer._epoch for buffer in buffers] == self._epochs
        except AttributeError:
            known = False
        if not known and not self._look(buffers):
            for value, (number, convert) in zip(buffers, self._roles, strict=True):
                values[number] = convert(value)
            return True
        values[self._symbols] = np.array([buffer._where for buffer in buffers], np.uint64)
        return near or self._close([buffer._storage for buffer in buffers])

    def _look(self, buffers: Sequence[Any]) -> bool:
        """The checks of the kernels' own converters, noted in the buffers. False: not all of them are buffers.

        :raises HcqError: one was freed, or is another device's.
        """
        if set(map(type, buffers)) != {Buffer}:
            return False
        try:
            places = [buffer._storage.memory.address + buffer._offset for buffer in buffers]
        except AttributeError:
            places = []                                 # no memory
        if not places or [buffer.device for buffer in buffers] != self._devices:
            places = [convert(buffer) for buffer, (_, convert) in zip(buffers, self._roles, strict=True)]
        for buffer, place, epoch in zip(buffers, places, self._epochs, strict=True):
            buffer._where, buffer._epoch = place, epoch
        return True

    def _close(self, storages: list[Storage]) -> bool:
        """Whether any memory comes twice, or is the recording's, and is not only read both times."""
        if len(different := set(storages)) == len(storages) and self._pinned.isdisjoint(different):
            return False
        written, read = self._written(storages), self._read(storages)
        alone = set(written)
        return len(alone) != len(written) or not alone.isdisjoint(read) or not self._pinned.isdisjoint(different)


def _picker(places: list[int], count: int) -> Callable[[Any], Sequence[Any]]:
    """A function that takes these elements of a sequence."""
    if len(places) == count:
        return lambda sequence: sequence
    if len(places) < 2:
        return lambda sequence: [sequence[place] for place in places]
    return itemgetter(*places)
