"""GL0, GL1 and the scalar cache within one launch (rule ``gl1``): a workgroup keeps what it loaded, whoever stores.

Without the rule the waves of a launch see each other's stores at once. With it each thread of native code stands for a
workgroup processor with caches of its own, alone on its shader array: what one loads it holds, until buffer_gl0_inv
and buffer_gl1_inv (scalar: s_dcache_inv and s_gl1_inv), while others store. Loads with glc, and atomics, go past them.

Nothing is copied unless a page is loaded by one and stored to by another: the copy is made before the first store. A
page that a workgroup processor itself has stored to it sees as it is (silicon would be as wrong there, line by line).

Facts: LLVM, User Guide for AMDGPU Backend, Memory Model GFX10-GFX11: GL0 is of a compute unit, GL1 of a shader array,
both write-through; loads at agent scope have glc, and buffer_gl0_inv and buffer_gl1_inv follow an acquire.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from mock.actor import Actor
from mock.gl2 import PAGE, PagePool
from mock.isa.dispatch import COHERENT_LOAD, FETCH, LOAD, SCALAR_LOAD, STORE

__all__ = ["Sharing", "WgpMemory"]

GL0_INV, GL1_INV, GLK_INV = 1, 2, 4     # bits of mock.isa.dispatch.CACHE_INSTRUCTIONS


class Held:
    """What caches have of a page; ``data`` None: as it is in GL2."""

    __slots__ = ("data", "told", "who")

    def __init__(self) -> None:
        self.data: np.ndarray | None = None
        self.told, self.who = False, ""

    def keep(self, host: int, pool: PagePool, who: str) -> None:
        """Somebody else stores to the page at ``host``."""
        if self.data is None:
            self.data, self.who = pool.take(), who
            self.data[:] = _page(host)

    def pointer(self, host: int) -> int:
        return host if self.data is None else int(self.data.ctypes.data)


class Sharing:
    """What the workgroup processors of one launch know of each other. ``memory`` is the launch's (an address space)."""

    def __init__(self, memory: Any, launch: Actor, base: int, size: int, pool: PagePool,
                 note: Callable[[str, str], None]) -> None:
        self.memory, self.launch, self.pool, self.note = memory, launch, pool, note
        self.base, self.size = base, size
        self.lock = threading.RLock()
        self.wgps: list[WgpMemory] = []
        self.writers: dict[int, set[WgpMemory]] = {}

    def wgp(self, zap: Callable[[int, int], None], group: Callable[[], int]) -> WgpMemory:
        """One more. ``zap(kind, page)`` takes a page's pointer from the thread's software TLB; ``group()`` says which
        workgroup it runs."""
        with self.lock:
            self.wgps.append(WgpMemory(self, zap, group))
            return self.wgps[-1]

    def close(self) -> None:
        """The launch has ended."""
        with self.lock:
            held = {id(held): held for wgp in self.wgps for level in wgp.levels for held in level.values()}
            self.pool.give(held.data for held in held.values() if held.data is not None)
            self.wgps.clear()


class WgpMemory:
    """Memory as the waves on one workgroup processor see it; the rest is the launch's own."""

    def __init__(self, sharing: Sharing, zap: Callable[[int, int], None], group: Callable[[], int]) -> None:
        self.sharing, self.memory, self.zap, self.group = sharing, sharing.memory, zap, group
        self.gl0: dict[int, Held] = {}
        self.gl1: dict[int, Held] = {}
        self.glk: dict[int, Held] = {}
        self.levels = (self.gl0, self.glk, self.gl1)
        self.own: set[int] = set()                  # pages that it stored to
        self.pages: dict[int, int] = {}             # host pointer -> number of the page by which it is reached

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        return self.translate_as(addresses, STORE if write else LOAD)

    def translate_as(self, addresses: np.ndarray, kind: int) -> np.ndarray:
        """:raises Fault:"""
        return np.array([self.translate_page(address, kind) for address in np.asarray(addresses, np.uint64).tolist()],
                        np.uint64)

    def translate_page(self, address: int, kind: int) -> int:
        """:raises Fault:"""
        pointer: int = self.memory.translate_page(address, kind)
        if kind in (COHERENT_LOAD, FETCH) or not 0 <= pointer - self.sharing.base < self.sharing.size:
            return pointer
        host, inside = pointer & -PAGE, pointer & PAGE - 1
        with self.sharing.lock:
            self.pages[host] = address >> 12
            if kind == STORE:
                self._store(host)
                return pointer
            return self._load(host, address, self.glk if kind == SCALAR_LOAD else self.gl0) + inside

    def _store(self, host: int) -> None:
        sharing = self.sharing
        sharing.writers.setdefault(host, set()).add(self)
        if host not in self.own:
            self.own.add(host)
            self._drop(host)
        for other in sharing.wgps:
            if other is not self and (host in other.gl1 or host in other.gl0 or host in other.glk):
                other.before_store(host, f"workgroup {self.group()}")

    def _drop(self, host: int) -> None:
        """From here on its own stores are what it loads."""
        found = [level.pop(host, None) for level in self.levels]
        if any(found):
            self._look_again(host)

    def _look_again(self, host: int, *kinds: int) -> None:
        for kind in kinds or (LOAD, SCALAR_LOAD):
            self.zap(kind, self.pages[host])

    def before_store(self, host: int, who: str) -> None:
        """Another workgroup processor is about to store to the page."""
        for level in self.levels:
            if (held := level.get(host)) is not None:
                held.keep(host, self.sharing.pool, who)
        self._look_again(host)

    def _load(self, host: int, address: int, near: dict[int, Held]) -> int:
        if host in self.own:
            return host
        scalar = near is self.glk
        held, cache = near.get(host), "the scalar cache" if scalar else "GL0"
        if held is None:
            held, cache = self.gl1.get(host), "GL1"
            if held is None:
                held, cache = Held(), ""
                self.gl1[host] = held
            near[host] = held
        stored = self.sharing.writers.get(host)
        writers = [wgp for wgp in stored if wgp is not self] if stored else []
        if writers and not held.told:
            if held.data is None:
                held.keep(host, self.sharing.pool, f"workgroup {writers[0].group()}")
            elif cache:
                self._tell(held, host, address, cache, scalar)
            if not held.told:           # their next store is to be seen
                for wgp in writers:
                    wgp.zap(STORE, wgp.pages[host])
        return held.pointer(host)

    def _tell(self, held: Held, host: int, address: int, cache: str, scalar: bool) -> None:
        assert held.data is not None
        differ = np.flatnonzero(held.data != _page(host))
        if not len(differ):
            return
        held.told = True
        nearer, further = ("s_dcache_inv", "s_gl1_inv") if scalar else ("buffer_gl0_inv", "buffer_gl1_inv")
        missing = further if cache == "GL1" else f"{nearer} and {further}"
        first = int(differ[0]) & ~3
        old, new = (int.from_bytes(page[first:first + 4].tobytes(), "little") for page in (held.data, _page(host)))
        self.sharing.note("gl1", f"{self.sharing.launch}: workgroup {self.group()} loads from the page of {address:#x} "
                                 f"out of {cache}, which holds {old:#010x} at {(address & -PAGE) + first:#x} where "
                                 f"{held.who} of the same launch has stored {new:#010x}; {missing}"
                                 f"{'' if scalar else ' (or glc at the load)'} is missing in between")

    def invalidate(self, bits: int) -> None:
        """Cache instructions that this one's waves executed."""
        with self.sharing.lock:
            if bits & GL0_INV:
                self.gl0.clear()
            if bits & GL1_INV:
                self.gl1.clear()
            if bits & GLK_INV:
                self.glk.clear()
        self.memory.invalidate(bits)


def _page(host: int) -> np.ndarray:
    """Live uint8[4096]."""
    memory: Any = (ctypes.c_uint8 * PAGE).from_address(host)
    return np.frombuffer(memory, np.uint8)
