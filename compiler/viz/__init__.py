"""``VIZ=1``: a page in the browser that shows what the compiler did, and why.

    VIZ=1 python my.py              # prints an address, and serves there until Ctrl-C
    VIZ=out.html python my.py       # writes one page that needs no server; VIZ=out.json writes the data alone
    python -m compiler.viz out.html # opens a recording again

The page has the graph before and after each rewrite with the rule that fired, schedules, each kernel's UOps, LLVM IR
and instructions, and who ran when. In a program: ``with compiler.viz.record() as recorder: ...`` and then
``recorder.data()``. What is kept is bounded (:data:`compiler.viz.recording.LIMITS`); the page says what was left out.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator
from multiprocessing.process import parent_process
from pathlib import Path

from compiler import watch
from compiler.viz.pages import RecordingError, page, read
from compiler.viz.recording import LIMITS, Recorder
from compiler.viz.server import Server

__all__ = ["LIMITS", "Recorder", "RecordingError", "Server", "from_environment", "page", "read", "record", "write"]


@contextlib.contextmanager
def record(*, limits: dict[str, int] | None = None, profile: bool = True) -> Iterator[Recorder]:
    """Record what the compiler does while this is open.

    :param limits: in place of some of :data:`LIMITS`.
    :param profile: also what the engines of GPUs do (one profile of a device can be on at a time).
    """
    recorder = Recorder(limits=limits, profile=profile)
    watch.watchers.append(recorder)
    try:
        yield recorder
    finally:
        recorder.stop()


def write(recorder: Recorder, path: str) -> None:
    """:param path: ``.json`` for the data, anything else for a page. :raises OSError:"""
    text = recorder.json()
    Path(path).write_text(text if path.endswith(".json") else page(text), encoding="utf-8")


def from_environment() -> None:
    """Record from now on, as ``VIZ`` says; ``VIZ_PROFILE=0`` leaves profiles of GPUs to the program."""
    if parent_process() is not None:        # a worker of a program that is recorded itself: the page is its parent's
        return
    target = os.environ["VIZ"]
    recorder = Recorder(profile=os.environ.get("VIZ_PROFILE") != "0")
    watch.watchers.append(recorder)
    if target.endswith((".html", ".json")):
        atexit.register(_write_at_exit, recorder, os.path.abspath(target), os.getpid())
        return
    if target != "1":
        print(f"compiler: VIZ={target}: 1 to serve, or a file ending in .html or .json to write; serving",
              file=sys.stderr)
    server = Server(lambda: page(recorder.json()), recorder.json)
    print(f"compiler: VIZ is at {server.url}", file=sys.stderr)
    server.start()
    atexit.register(_serve_at_exit, recorder, server, os.getpid())


def _write_at_exit(recorder: Recorder, path: str, owner: int) -> None:
    if os.getpid() != owner:        # of a fork
        return
    recorder.stop()
    try:
        write(recorder, path)
    except OSError as error:
        print(f"compiler: VIZ={path} cannot be written: {error.strerror}", file=sys.stderr)
        return
    print(f"compiler: VIZ wrote {path}", file=sys.stderr)


def _serve_at_exit(recorder: Recorder, server: Server, owner: int) -> None:
    if os.getpid() != owner:
        return
    with contextlib.suppress(KeyboardInterrupt):        # at any moment from here on
        recorder.stop()
        print(f"compiler: the program is through; VIZ serves {server.url} until Ctrl-C", file=sys.stderr, flush=True)
        server.wait()
