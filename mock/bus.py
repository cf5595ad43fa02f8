"""The host's bus: what stands behind every address that a card puts on it.

System memory is where the process has it; :meth:`HostBus.attach` gives a stretch of it a bus address (never equal to
the pointer, so that a driver that confuses the two meets a bus error). Each card's BARs answer at the addresses that
its PCI configuration space says, so that one card reaches another's memory.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["BusError", "HostBus"]

PAGE = 4096
RAM_BASE = 0x1_0000_0000
"""First address given out: above the 32-bit hole that platforms keep for devices."""
RAM_END = 0x400_0000_0000
"""Below the BARs, and everything below 2**44, gfx11's reach (Linux 6.1, gmc_v11_0.c, gmc_v11_0_sw_init: 44 bits)."""
BAR_BASE, BAR_END = 0x400_0000_0000, 0x1000_0000_0000
BAR_BASE_32, BAR_END_32 = 0x8000_0000, 0xFE00_0000
"""Where the platform firmware puts 64-bit and 32-bit BARs."""


class BusError(Exception):
    """Nothing answers at a bus address, or not with memory."""

    def __init__(self, address: int, size: int, why: str) -> None:
        self.address, self.size = address, size
        super().__init__(f"bus address {address:#x} ({size} bytes): {why}")


class HostBus:
    """System memory and the boards' BARs by bus address: what the cards' own accesses go through."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._ram: dict[int, tuple[int, int]] = {}      # bus address -> (host address, size)
        self._next = RAM_BASE
        self._boards: list[Board] = []
        self._others: dict[int, list[Board]] = {}
        self._count = 0
        self._ram_base, self._own_bars = RAM_BASE, True
        self._table: tuple[list[int], np.ndarray, np.ndarray, np.ndarray, list[Board | None]] | None = None

    # ---- the host's side

    def attach(self, host_address: int, size: int, *, at: int | None = None) -> int:
        """Put memory of this process on the bus. Page-aligned, both. Returns the bus address.

        The caller keeps the memory alive until :meth:`detach`. ``at`` asks for a bus address (a snapshot's memory must
        be where it was). :raises ValueError: misaligned, or there is something at ``at``.
        """
        if host_address % PAGE or size % PAGE or size <= 0:
            raise ValueError(f"attach of {size:#x} bytes at {host_address:#x}: address and size must be "
                             f"positive multiples of {PAGE}")
        with self._lock:
            address = self._next if at is None else self._free_at(at, size)
            if at is None and address + size + PAGE > RAM_END:
                address = self._first_fit(size)
            self._next = max(self._next, address + size + PAGE)     # a hole after each: overruns meet nothing
            self._ram[address] = (host_address, size)
            self._table = None
            return address

    def give_to_client(self) -> None:
        """A client decides what is where (vfio-user): memory may lie anywhere, and the cards' BARs are at addresses of
        the client's own, not on this bus."""
        self._ram_base, self._own_bars = 0, False
        self._table = None

    def _free_at(self, at: int, size: int) -> int:
        end = RAM_END if self._own_bars else BAR_END
        if at % PAGE or not self._ram_base <= at <= end - size - PAGE:
            raise ValueError(f"attach of {size:#x} bytes at bus address {at:#x}: memory lies in whole pages of "
                             f"{self._ram_base:#x}..{end:#x}")
        if any(start < at + size and at < start + there for start, (_, there) in self._ram.items()):
            raise ValueError(f"attach of {size:#x} bytes at bus address {at:#x}: something is attached there")
        return at

    def attached(self) -> list[tuple[int, int, int]]:
        """(bus address, host address, bytes) of the memory on the bus, ascending."""
        with self._lock:
            return sorted((bus, host, size) for bus, (host, size) in self._ram.items())

    def _first_fit(self, size: int) -> int:
        at = RAM_BASE
        for start in sorted(self._ram):
            if start - at >= size + PAGE:
                return at
            at = start + self._ram[start][1] + PAGE
        if at + size + PAGE > RAM_END:
            raise MemoryError(f"the bus has no room for {size:#x} bytes below {RAM_END:#x}")
        return at

    def detach(self, bus_address: int) -> None:
        """Take memory off the bus again: later access by a card is a bus error."""
        with self._lock:
            if bus_address not in self._ram:
                raise ValueError(f"detach of {bus_address:#x}: nothing was attached there")
            del self._ram[bus_address]
            self._table = None

    def add_board(self, board: Board) -> None:
        """Put a board on the bus; its BARs have addresses once the host has written them."""
        self._boards.append(board)
        self._table = None

    def bars_changed(self) -> None:
        """A card's BAR moved, or it stopped or started to decode memory."""
        self._table = None

    def has_host(self, host: int) -> bool:
        """Does the bus still lead to memory at a host pointer?"""
        with self._lock:
            return any(start <= host < start + size for start, size in self._ram.values()) or any(
                board.vram.base <= host < board.vram.base + board.vram.size for board in self._boards)

    def others(self, board: Board) -> list[Board]:
        """The cards but one; the same list as long as none comes or goes."""
        found = self._others.get(id(board))
        if found is None or len(self._boards) != self._count:
            self._count = len(self._boards)
            self._others = {id(each): [other for other in self._boards if other is not each] for each in self._boards}
            found = self._others.get(id(board), [])
        return found

    @property
    def boards(self) -> list[Board]:
        """The boards, in the order in which they were added."""
        return list(self._boards)

    # ---- the cards' side

    @property
    def generation(self) -> object:
        """Another object (by identity) whenever something came to the bus or left it."""
        return self._segments()[0]

    def _segments(self) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray, list[Board | None]]:
        table = self._table
        if table is None:
            with self._lock:
                rows: list[tuple[int, int, int, Board | None]] = [
                    (bus, size, host, None) for bus, (host, size) in self._ram.items()]
                for board in self._boards if self._own_bars else ():
                    rows += [(base, size, board.vram.base if index == 0 else 0, board)
                             for index, base, size in board.decoded_bars()]
                rows.sort(key=lambda row: row[0])
                starts = [row[0] for row in rows]
                table = (starts, np.array(starts, np.uint64), np.array([row[1] for row in rows], np.uint64),
                         np.array([row[2] for row in rows], np.uint64), [row[3] for row in rows])
                self._table = table
        return table

    def translate(self, bus_address: int, size: int) -> int:
        """Host pointer of ``size`` bytes of memory at a bus address. :raises BusError:"""
        starts, _, sizes, hosts, _boards = self._segments()
        i = bisect_right(starts, bus_address) - 1
        if i < 0 or bus_address + size > starts[i] + int(sizes[i]):
            raise BusError(bus_address, size, "nothing is attached to the bus there")
        if not int(hosts[i]):
            raise BusError(bus_address, size, "a register or doorbell BAR, which is not memory")
        return int(hosts[i]) + bus_address - starts[i]

    def translate_many(self, bus_addresses: np.ndarray, size: int) -> np.ndarray:
        """uint64[n] bus addresses of ``size`` bytes each -> uint64[n] host pointers. :raises BusError: for the first
        that has none."""
        _, starts, sizes, hosts, _boards = self._segments()
        if not len(starts):
            raise BusError(int(bus_addresses[0]), size, "nothing is attached to the bus")
        index = np.searchsorted(starts, bus_addresses, side="right").astype(np.int64) - 1
        slot = np.maximum(index, 0)
        inside = bus_addresses - starts[slot]
        bad = (index < 0) | (inside + np.uint64(size) > sizes[slot]) | (hosts[slot] == 0)
        if bad.any():
            self.translate(int(bus_addresses[int(np.argmax(bad))]), size)
        return hosts[slot] + inside

    def board_at(self, bus_address: int) -> Board | None:
        """The card whose BAR answers there, None for system memory. :raises BusError: where nothing answers."""
        starts, _, sizes, _hosts, boards = self._segments()
        i = bisect_right(starts, bus_address) - 1
        if i < 0 or bus_address >= starts[i] + int(sizes[i]):
            raise BusError(bus_address, 1, "nothing is attached to the bus there")
        return boards[i]

    def close(self) -> None:
        """Forget all memory and boards."""
        with self._lock:
            self._ram.clear()
            self._boards.clear()
            self._table = None
