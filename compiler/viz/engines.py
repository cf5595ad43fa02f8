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
        self._profiles: dict[str, list[Any]] = {}       # by device; the last one may be on
        self._over: set[str] = set()                    # devices of which no more is wanted
        self._said: set[str] = set()

    def watch(self, device: str) -> None:
        """Begin a device's profile, if none is on.

        A profile that the program takes comes first: ours ends before it and goes on after it."""
        profiles = self._profiles.setdefault(device, [])
        if device in self._over or (profiles and not profiles[-1].done):
            return
        from compiler.runtime import runtime
        if profiles or device in self._said:
            self._once(device, f"the program took a profile of {device}; its engines are missing in the time line for "
                               "that long")
        try:
            profile = runtime(device).device.profile(yields=True)       # type: ignore[attr-defined]
            profile.__enter__()
        except Exception as error:      # somebody else profiles just now, or the backend cannot
            self._once(device, f"no time line of {device}'s engines for now: {error}")
            return
        if not profiles:
            atexit.register(self.stop)      # before the device itself goes, which registered earlier
        profiles.append(profile)

    def _once(self, device: str, text: str) -> None:
        if device not in self._said:
            self._said.add(device)
            self._say(text)

    def check(self) -> None:
        """End what has seen enough; go on where the program's own profile is over."""
        for device, profiles in list(self._profiles.items()):
            if device in self._over:
                continue
            if sum(p.recorded for p in profiles) > self._limit:
                self._end(device)
                self._say(f"the time line of {device}'s engines ends after {self._limit} packets")
            elif not profiles or profiles[-1].done:
                self.watch(device)

    def _end(self, device: str) -> None:
        self._over.add(device)
        for profile in self._profiles[device]:
            if not profile.done:
                try:
                    profile.__exit__(None, None, None)
                except Exception as error:      # a device that hangs or is closed
                    self._say(f"the profile of {device} did not end well: {error}")

    def stop(self) -> None:
        """End all."""
        for device in self._profiles:
            if device not in self._over:
                self._end(device)

    @property
    def uncertainty(self) -> float:
        """Seconds that the engines' times may be off on the host's time line."""
        return max((p.uncertainty for profiles in self._profiles.values() for p in profiles), default=0.0)

    def spans(self, begin: int) -> list[tuple[str, str, float, float, str, dict[str, Any]]]:
        """(device, engine, begin, end, name, facts) with times in ns since ``begin``."""
        found = []
        for device, profiles in self._profiles.items():
            try:
                spans = [s for p in profiles for s in p.spans]
            except Exception as error:
                self._say(f"the time line of {device} cannot be read: {error}")
                continue
            for s in spans:
                if s.what in _SHOWN:
                    facts = {k: v if isinstance(v, int | float | str) else str(v) for k, v in s.facts.items()}
                    found.append((device, s.queue, s.begin - begin, s.end - begin, s.name, facts))
        return found
