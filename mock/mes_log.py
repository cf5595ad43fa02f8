"""The log buffers of SET_LOG_BUFFER: which context runs, and which queue has new work.

Facts: Linux 7.3, mes_v11_api_def.h (MES_LOG_BUFFER: a header of 32 bytes, entries of 32: time, operation, two words of
64 bits; a buffer for each kind of queue). When an interrupt comes at ``interrupt_entry`` no public source says; none
does here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from mock.gmc import Client, Fault

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["IDLE", "Log", "READY", "RUNNING"]

HEADER, ENTRY = struct.Struct("<IIQQQ"), struct.Struct("<QIIQQ")
STATE_CHANGE, NEW_WORK = 0, 1           # MES_LOG_OPERATION_*
IDLE, RUNNING, READY = 0, 1, 2          # MES_LOG_CONTEXT_STATE_*


class Log:
    def __init__(self, board: Board) -> None:
        self.board = board
        self.clear()

    def clear(self) -> None:
        self._buffers: dict[int, list[int]] = {}        # by kind of queue: address, entries, next entry, wraps

    def set(self, kind: int, address: int, entries: int) -> None:
        """A buffer for a kind of queue; address 0 takes it away. :raises Fault:"""
        self._buffers.pop(kind, None)
        if address and entries:
            self._buffers[kind] = [address, entries, 0, 0]
            self._write(address, HEADER.pack(0, 0, entries, 0, 0))

    def state(self, kind: int, context: int, state: int) -> None:
        self._put(kind, STATE_CHANGE, context, state)

    def new_work(self, kind: int, queue: int) -> None:
        self._put(kind, NEW_WORK, queue, 0)

    def _put(self, kind: int, operation: int, first: int, second: int) -> None:
        buffer = self._buffers.get(kind)
        if buffer is None:
            return
        address, entries, at, wraps = buffer
        following = (at + 1) % entries
        wraps += following == 0
        try:
            self._write(address + HEADER.size + ENTRY.size * at,
                        ENTRY.pack(self.board.clock(), operation, 0, first, second))
            self._write(address, HEADER.pack(following, wraps, entries, 0, 0))
        except Fault as error:
            self.board.note("mes-log", f"the log of queue type {kind} at {address:#x} cannot be written: {error}")
            del self._buffers[kind]
            return
        buffer[2:] = following, wraps

    def _write(self, address: int, data: bytes) -> None:
        self.board.memory.write("gc", 0, address, data, client=Client.CPC)
