"""The one way to poll: bounded, named, and kind to the other threads of this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from amdrv.errors import WaitTimeout

__all__ = ["wait_until"]

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float, what: str, *,
               seen: Callable[[], object] | None = None) -> T:
    """Poll ``condition`` until it is truthy and return its value.

    Every turn gives the interpreter lock away (``time.sleep(0)``): a bare spin would keep engines that
    run in threads from moving for whole switch intervals. After a millisecond of spinning the turns
    sleep a little, so that a long wait costs no core.

    :param timeout: seconds; the condition is tried at least twice, the last time after the deadline.
    :param what: what is waited for, as it will stand in the error.
    :param seen: called once on expiry for the state to report; default: the condition's last value.
    :raises WaitTimeout: with the state that was last seen.
    """
    start = time.monotonic()
    while True:
        if value := condition():
            return value
        elapsed = time.monotonic() - start
        if elapsed > timeout:
            if value := condition():
                return value
            raise WaitTimeout(what, timeout, seen() if seen is not None else value)
        time.sleep(0 if elapsed < 1e-3 else 50e-6)
