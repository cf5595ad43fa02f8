"""The engines' part of the time line: a profile of every device that ``hcq`` opened, from its first kernel on."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

__all__ = ["Engines"]

_SHOWN = ("kernel", "copy", "fill", "work")


class Engines:
    """:param limit: packets after which a profile ends, for it holds a timestamp of each.
    :param say: is told what could not be."""

    def __init__(self, limit: int, say: Callable[[str], None]) -> None:
        self._limit, self._say = limit, say
        self._profiles: dict[str, Any] = {}
        self._ended: set[str] = set()

    def watch(self, device: str) -> None:
        """Begin a device's profile, if it is not on."""
        if device in self._profiles or device in self._ended:
            return
        from compiler.runtime import runtime
        try:
            profile = runtime(device).device.profile()      # type: ignore[attr-defined]
            profile.__enter__()
        except Exception as error:      # somebody else profiles; another backend cannot: the program goes on without
            self._ended.add(device)
            self._say(f"no time line of {device}'s engines: {error}")
            return
        self._profiles[device] = profile
        atexit.register(self.stop)      # before the device itself goes, which registered earlier

    def check(self) -> None:
        """End what has seen enough."""
        for device, profile in self._profiles.items():
            if device not in self._ended and profile.recorded > self._limit:
                self._end(device)
                self._say(f"the time line of {device}'s engines ends after {self._limit} packets")

    def _end(self, device: str) -> None:
        self._ended.add(device)
        try:
            self._profiles[device].__exit__(None, None, None)
        except Exception as error:      # a device that hangs or is closed
            self._say(f"the profile of {device} did not end well: {error}")

    def stop(self) -> None:
        for device in self._profiles:
            if device not in self._ended:
                self._end(device)

    @property
    def uncertainty(self) -> float:
        """Seconds that the engines' times may be off on the host's time line."""
        return max((p.uncertainty for p in self._profiles.values()), default=0.0)

    def spans(self, begin: int) -> list[tuple[str, str, float, float, str, dict[str, Any]]]:
        """(device, engine, begin, end, name, facts) with times in ns since ``begin``."""
        found = []
        for device, profile in self._profiles.items():
            try:
                spans = profile.spans
            except Exception as error:
                self._say(f"the time line of {device} cannot be read: {error}")
                continue
            for s in spans:
                if s.what in _SHOWN:
                    facts = {k: v if isinstance(v, int | float | str) else str(v) for k, v in s.facts.items()}
                    found.append((device, s.queue, s.begin - begin, s.end - begin, s.name, facts))
        return found
