"""The guest's end of the serial line to the host (``door.py``)."""

from __future__ import annotations

import os
import termios
import tty

__all__ = ["Line"]

DOOR = "/dev/ttyS1"


class Line:
    """``Line().ask("msi")``: one request, done when it returns."""

    def __init__(self) -> None:
        self._fd = os.open(DOOR, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._fd)
        termios.tcflush(self._fd, termios.TCIOFLUSH)

    def ask(self, text: str) -> None:
        """:raises AssertionError: the host did not answer ``ok``."""
        os.write(self._fd, text.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += os.read(self._fd, 256)
        assert answer.strip() == b"ok", (text, answer)
