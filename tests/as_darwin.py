"""Run a module or script as if this were a Mac: ``python tests/as_darwin.py pytest tests/mock`` or ``... script.py``.

Python packages with binaries (NumPy, llvmlite) are imported first, as themselves. Then ``sys.platform`` becomes
``darwin``, the page size 16384, and what only Linux has is gone: ``fcntl``'s and ``pyudev``'s import, eventfd,
memfd_create, epoll, MAP_POPULATE, CPU affinity, /proc and /sys. (A Mac has ``fcntl``; this is stricter.)
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import mmap
import os
import runpy
import select
import sys
from collections.abc import Callable
from typing import Any

BINARY_PACKAGES = ("numpy", "numpy.testing", "llvmlite.binding", "llvmlite.ir", "cffi", "hypothesis", "pytest",
                   "_pytest", "rich.console", "rich.progress", "rich.live", "subprocess", "multiprocessing",
                   "concurrent.futures", "tempfile", "ctypes.util", "asyncio", "platform", "socket", "uuid",
                   "xdist", "xdist.plugin")
PAGE = 16384
LINUX_ONLY = {
    os: ("eventfd", "eventfd_read", "eventfd_write", "memfd_create", "sched_getaffinity", "sched_setaffinity",
         "copy_file_range", "posix_fallocate", "splice"),
    select: ("epoll",),
    mmap: ("MAP_POPULATE", "MAP_NORESERVE", "MAP_LOCKED", "MADV_DONTDUMP"),
}


def _refuse_linux_paths(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(path: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(2, "there is no such file system on a Mac", os.fspath(path))
        return function(path, *args, **kwargs)
    return checked


def become_darwin() -> None:
    for name in BINARY_PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.platform = "darwin"
    mmap.PAGESIZE = mmap.ALLOCATIONGRANULARITY = PAGE      # type: ignore[misc]
    sysconf = os.sysconf
    os.sysconf = lambda name: PAGE if name in ("SC_PAGE_SIZE", "SC_PAGESIZE") else sysconf(name)
    for module, names in LINUX_ONLY.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in ("fcntl", "pyudev"):
        sys.modules[name] = None        # type: ignore[assignment]
    builtins.open = io.open = _refuse_linux_paths(builtins.open)    # type: ignore[assignment]
    for name in ("open", "stat", "listdir", "scandir", "readlink"):
        setattr(os, name, _refuse_linux_paths(getattr(os, name)))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/as_darwin.py MODULE|SCRIPT.py [ARG ...]")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    become_darwin()
    target, sys.argv = sys.argv[1], sys.argv[1:]
    sys.path.insert(0, root)
    if target.endswith(".py"):
        runpy.run_path(target, run_name="__main__")
    else:
        runpy.run_module(target, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
