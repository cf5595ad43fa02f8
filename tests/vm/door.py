"""The host's end of a serial line into the guest: a test inside asks the mock card's machine for what no HAL can ask.

    poke ADDRESS DATA       the card writes DATA (hex) at a device address, by its bus
    msi                     the card raises its interrupt
    mark                    whatever the test that opened the door does at this point

One line an answer: ``ok``, or ``error`` and why.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from mock.board import Board

__all__ = ["Door"]


class Door:
    """Serves one board to whoever QEMU connects: ``Guest(devices=[door.device, ...])``. A context manager."""

    def __init__(self, board: Board, path: str, *, mark: Callable[[], object] = lambda: None) -> None:
        self._mark = mark
        self._board, self.path = board, path
        self.device = f"-serial unix:{path}"            # the guest's second serial port: /dev/ttyS1
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True, name="door").start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:                                 # a guest that is started again connects again
                connection, _ = self._listener.accept()
                with connection, connection.makefile("rw", newline="\n") as lines, contextlib.suppress(OSError):
                    for line in lines:
                        lines.write(self._answer(line.split()) + "\n")
                        lines.flush()

    def _answer(self, words: list[str]) -> str:
        self.asked += 1
        try:
            if words[0] == "poke":
                data = bytes.fromhex(words[2])
                ctypes.memmove(self._board.dma(int(words[1], 16), len(data), write=True), data, len(data))
            elif words[0] == "msi":
                self._board.raise_msi()
            elif words[0] == "mark":
                self._mark()
            else:
                return f"error what is {words[0]}?"
        except Exception as error:
            return f"error {type(error).__name__}: {error}"
        return "ok"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            Path(self.path).unlink()

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def socket_path(name: str) -> str:
    """Short enough for a Unix socket, and of this process only."""
    return f"/tmp/amdrv-{name}-{os.getpid()}"
