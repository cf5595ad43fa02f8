"""Commands whose reader may go away before they are done, as in ``python -m mock.catalogue | head``."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["piped"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def piped(main: Callable[_P, _R]) -> Callable[_P, _R]:
    """``main``, such that a reader of its output who goes away ends it with exit status 1 and without a word.

    What is still buffered is written before the interpreter ends, whose own attempt could only complain.
    """
    @functools.wraps(main)
    def command(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        try:
            try:
                return main(*arguments, **keywords)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            nobody = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nobody, sys.stdout.fileno())
            os.close(nobody)
            raise SystemExit(1) from None
    return command
