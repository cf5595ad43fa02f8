"""A transfer that goes on in a thread of its own: wait for it, look on, await it, or cancel it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

from hcq.load.transfer import Progress

__all__ = ["Transfer"]

T = TypeVar("T")


class Transfer(Generic[T]):
    """Under way between a file and a device. Made by ``load_async`` and ``store_async``.

        transfer = dev.load_async("weights.bin")
        print(f"{transfer.done_bytes} of {transfer.total_bytes}")
        buffer = transfer.wait()            # or: buffer = await transfer

    The buffer is the transfer's until it is finished: what else is done with it meanwhile has no order with it.
    """

    def __init__(self, what: str, progress: Progress, work: Callable[[], T]) -> None:
        self._what, self._progress = what, progress
        self._future: Future[T] = Future()
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"hcq {what}"[:60], daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._future.set_running_or_notify_cancel()
        try:
            result = self._work()
        except BaseException as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(result)
        finally:
            del self._work

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole transfer."""
        return self._progress.total

    @property
    def done_bytes(self) -> int:
        """Bytes that have arrived so far."""
        return self._progress.done

    @property
    def done(self) -> bool:
        """Finished, well or not."""
        return self._future.done()

    def wait(self, timeout: float | None = None) -> T:
        """The result; raises what went wrong.

        :raises TimeoutError: not finished after ``timeout`` seconds; it goes on.
        :raises concurrent.futures.CancelledError: it was cancelled.
        """
        try:
            return self._future.result(timeout)
        except TimeoutError as error:
            if self._future.done():
                raise
            raise TimeoutError(f"{self._what}: {self.done_bytes} of {self.total_bytes} bytes after {timeout:g} s; it "
                               "goes on, wait again or cancel it") from error

    def cancel(self) -> None:
        """Stop soon; what was reached so far is undefined. Nothing happens to a finished transfer."""
        self._progress.cancelled.set()

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self._future).__await__()

    def __repr__(self) -> str:
        state = "under way"
        if self._future.done():
            error = self._future.exception()
            state = ("done" if error is None else "cancelled" if isinstance(error, CancelledError) else
                     f"failed: {type(error).__name__}")
        return f"Transfer({self._what}: {self.done_bytes} of {self.total_bytes} bytes, {state})"
