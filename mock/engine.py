"""Engines: one thread each, with a mailbox. A doorbell posts a job and returns, as silicon does.

An engine starts at its first job and ends with the board. What a job raises is never lost: it becomes a note, the
engine counts as hung (``failure``), and the block that owns it is told.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from mock.actor import acting
from mock.faultresponse import patience

__all__ = ["Aborted", "Engine", "Engines"]


class Aborted(Exception):
    """Raised in an engine's job when the card is reset or taken apart under it."""


class Engine:
    """Made by ``board.engine(name)``."""

    def __init__(self, engines: Engines, name: str) -> None:
        self._engines, self.name = engines, name
        self._jobs: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running = False
        self._epoch = 0
        self._stopped = False
        self.failure: BaseException | None = None
        """What the last job raised, until the next reset."""
        self.on_failure: Callable[[BaseException], None] | None = None

    def post(self, job: Callable[..., Any], *args: Any) -> None:
        """Run ``job(*args)`` on the engine's thread, after those posted before."""
        with self._wake:
            if self._stopped:
                return
            self._jobs.append((self._epoch, job, args))
            self._engines.count(1)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"{self._engines.label} {self.name}",
                                                daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._running = False
                self._wake.notify_all()
                while not self._jobs and not self._stopped:
                    self._wake.wait()
                if self._stopped:
                    return
                epoch, job, args = self._jobs.popleft()
                if epoch != self._epoch:
                    self._engines.count(-1)
                    continue
                self._running, self._current = True, epoch
            try:
                patience.check = self.check
                acting(self.name, None)
                self._engines.on_job(self.name)
                job(*args)
            except Aborted:
                pass
            except BaseException as error:
                self.failure = error
                self._engines.failed(self, error)
            finally:
                self._engines.count(-1)

    def check(self) -> None:
        """For jobs that wait: give way to other threads. :raises Aborted: when the card was reset meanwhile."""
        if self.aborted:
            raise Aborted
        time.sleep(0)

    @property
    def aborted(self) -> bool:
        """True when the running job belongs to a time before the last reset."""
        return self._stopped or self._current != self._epoch

    _current = 0

    @property
    def idle(self) -> bool:
        with self._wake:
            return not self._jobs and not self._running

    def wait_idle(self, timeout: float = 10.0) -> bool:
        """Wait until nothing is posted or running; False when that did not happen in ``timeout`` seconds."""
        with self._wake:
            return self._wake.wait_for(lambda: self.idle, timeout)

    def abort(self) -> None:
        """Drop what is posted; a job that runs sees it at its next :meth:`check`."""
        with self._wake:
            self._epoch += 1
            self._engines.count(-len(self._jobs))
            self._jobs.clear()
            self.failure = None
            self._wake.notify_all()

    def stop(self) -> bool:
        """End the thread; False when it did not end within 10 seconds (a job that does not :meth:`check`)."""
        self.abort()
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
            return not self._thread.is_alive()
        return True


class Engines:
    """A board's engines by name."""

    def __init__(self, label: str, note: Callable[[str, str], None]) -> None:
        self.label, self._note = label, note
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()
        self.busy = 0
        """Jobs posted and not done."""
        self.on_job: Callable[[str], None] = lambda engine: None
        """Called with the engine's name on its thread, before each job."""

    def count(self, change: int) -> None:
        with self._lock:
            self.busy += change

    def __getitem__(self, name: str) -> Engine:
        with self._lock:
            if name not in self._engines:
                self._engines[name] = Engine(self, name)
            return self._engines[name]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(list(self._engines.values()))

    def failed(self, engine: Engine, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error)).rstrip()
        self._note("engine-failed", f"{engine.name}: a job raised {type(error).__name__}: {error}\n{text}")
        if engine.on_failure is not None:
            try:
                engine.on_failure(error)
            except Exception as again:
                self._note("engine-failed", f"{engine.name}: its on_failure raised {type(again).__name__}: {again}")

    def abort(self) -> None:
        for engine in self:
            engine.abort()

    def stop(self) -> bool:
        """End all threads; False when one did not end."""
        ended = [engine.stop() for engine in self]
        self._engines.clear()
        return all(ended)
