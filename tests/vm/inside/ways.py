"""The ways to a device that this guest is to try."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

__all__ = ["MODES", "TRANSLATED", "VFIO", "in_child", "only"]

F = TypeVar("F", bound=Callable[..., object])
MODES = [mode for mode in os.environ.get("AMDRV_VM_MODE", "").split(",") if mode]
VFIO = ("type1", "iommufd", "noiommu")
TRANSLATED = ("type1", "iommufd")


def only(*modes: str) -> Callable[[F], F]:
    """The test is run in these modes only."""
    def mark(function: F) -> F:
        function.ways = modes           # type: ignore[attr-defined]
        return function
    return mark


def in_child(what: Callable[[], str], user: int) -> str:
    """A function's result, run in a fork as another user. What it imports must be imported before: the host's files
    may not be that user's to read."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            said = what()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said
