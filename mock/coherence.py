"""Where an engine's access to a page goes: through GL2 or past it, to this card's memory, another's, or the host's.

The hubs give pointers to pages, with a flag on those that GL2 caches; :class:`Coherence` turns them into the pointers
to use now, tells GL2 and the shaders' caches what is touched and stored, and carries out the operations of packets
(:mod:`mock.gl2`, :mod:`mock.caches`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.actor import Actor, current
from mock.caches import FIRST_LAST, GL0, GL1, GLI, GLK, RANGE, ReadCaches, decode_control
from mock.gl2 import Gl2
from mock.hub import CACHED, PAGE, VA_BITS
from mock.overlap import Launches
from mock.pagetable import PAGE_SHIFT
from mock.posted import Posted

if TYPE_CHECKING:
    from mock.board import Board
    from mock.gmc import Gmc

__all__ = ["Coherence", "page_view"]

RANGE_LIMIT = 1 << 16       # pages that an operation with a range looks up
RANGED = (RANGE, FIRST_LAST)


class Coherence:
    """Of one card."""

    def __init__(self, board: Board, gmc: Gmc) -> None:
        self.board, self.gmc, self.vram = board, gmc, board.vram
        strict = board.gpu.is_strict
        self.gl2 = Gl2(board.vram, board.note, self._before_change, self._deliver, on=strict("gl2"))
        board.vram.gl2 = self.gl2
        self.caches = ReadCaches(board.vram.view, board.note, self.gl2.pool, _modelled(strict))
        self.posted = Posted(board.vram, board.note)
        self.launches = Launches(strict("overlap"))
        self.gl2.storing, self.gl2.launch_storing = self.launches.storing, self.launches.storing_to

    # ---- accesses

    def settle_one(self, hub: str, host: int, write: bool) -> int:
        """The pointer of a page, with its flag, -> where an engine's access to it goes now."""
        gl2, vram = self.gl2, self.vram
        offset = (host & ~CACHED) - vram.base
        own = 0 <= offset < vram.size
        if not host & CACHED:
            return self._outside(host, write, hub, own)
        host -= CACHED
        if not own:
            return gl2.foreign(host, write) if gl2.on else host
        page = offset >> PAGE_SHIFT
        if gl2.on:
            gl2.marks[page] = gl2.epoch
            if gl2.waiting:
                gl2.meet(page, write)
        if write and self.caches.held(page):
            self.caches.before_change(page, page + 1)
        return host

    def _outside(self, host: int, write: bool, hub: str, own: bool) -> int:
        """An access past GL2: uncached, or by the MM hub's clients."""
        vram = self.vram
        if own:
            who = f"{current().engine} (uncached)" if hub == "gc" else "a client of the MM hub"
            return vram.outside(host - vram.base >> PAGE_SHIFT, write, who)
        for board in self.board.bus.others(self.board):
            vram = board.vram
            if vram.base <= host < vram.base + vram.size:
                return vram.outside(host - vram.base >> PAGE_SHIFT, write, f"card {self.board.address}")
        return host

    def settle(self, hub: str, hosts: np.ndarray, write: bool) -> np.ndarray:
        """:meth:`settle_one` for uint64[n]."""
        vram = self.vram
        flags = hosts & np.uint64(CACHED)
        hosts = hosts - flags
        offsets = hosts - np.uint64(vram.base)
        cached, own = flags != 0, offsets < np.uint64(vram.size)
        inside = cached & own
        if inside.all():
            self.meet_many((offsets >> np.uint64(PAGE_SHIFT)).astype(np.int64), write)
            return hosts
        if inside.any():
            self.meet_many((offsets[inside] >> np.uint64(PAGE_SHIFT)).astype(np.int64), write)
        rest = ~inside if self.board.bus.others(self.board) else ~inside & (cached | own)
        past = ~cached & own
        if past.any():                  # of these, the pages to look at one by one
            pages = (offsets[past] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
            if write:
                self.caches.before_change_of(pages)
            rest[past] = self.gl2.special(pages, write)
        if rest.any():
            unique, inverse = np.unique(hosts[rest] | flags[rest], return_inverse=True)
            found = np.array([self.settle_one(hub, int(host), write) for host in unique], np.uint64)
            hosts[rest] = found[inverse]
        return hosts

    def meet_many(self, pages: np.ndarray, write: bool, by: Actor | None = None) -> None:
        """Engines touch pages of video memory (int64[n]) through GL2."""
        gl2 = self.gl2
        if gl2.on:
            gl2.touch(pages)
            if gl2.waiting:
                for page in np.unique(pages).tolist():
                    gl2.meet(page, write)
        if write:
            self.caches.before_change_of(pages, by)

    # ---- what GL2 asks for

    def _before_change(self, first: int, end: int, by: Actor) -> None:
        self.caches.before_change(first, end, by)

    def _deliver(self, host: int, stored: np.ndarray, data: np.ndarray) -> None:
        """GL2 writes bytes back (uint8[4096] where ``stored``) to a page on the host bus."""
        for board in self.board.bus.others(self.board):
            vram = board.vram
            if vram.base <= host < vram.base + vram.size:
                pointer = vram.outside(host - vram.base >> PAGE_SHIFT, True, f"card {self.board.address}")
                np.copyto(page_view(pointer), data, where=stored)
                self.gmc.written(pointer, PAGE)
                return
        np.copyto(page_view(host), data, where=stored)

    # ---- operations

    def operate(self, control: int, vmid: int = 0, base: int = 0, size: int = 0) -> None:
        """What GCR_CNTL asks for; ``base`` and ``size`` (bytes) of what operations with a range are confined to."""
        c = decode_control(control)
        pages: np.ndarray | None = None
        foreign: set[int] | None = None
        if c.gli in RANGED or c.gl1_range in RANGED or c.gl2_range in RANGED:
            pages, foreign = self._in_range(vmid, base, size, c.range_is_pa)
        gl2_ranged = c.gl2_range in RANGED
        if self.gl2.on:
            if c.gl2_wb:
                self.gl2.write_back(pages if gl2_ranged else None, foreign if gl2_ranged else None)
            if c.gl2_inv or c.gl2_discard:
                self.gl2.invalidate(pages if gl2_ranged else None, foreign if gl2_ranged else None,
                                    discard=c.gl2_discard)
        unwaited = [(waves.reader, waves.loaded) for waves in self.launches.unwaited()]
        if c.gl1_inv:
            self.caches.invalidate(GL1, pages if c.gl1_range in RANGED else None, unwaited)
        if c.glv_inv:
            self.caches.invalidate(GL0, None, unwaited)
        if c.glk_inv:
            self.caches.invalidate(GLK, None, unwaited)
        if c.gli:
            self.caches.invalidate(GLI, pages if c.gli in RANGED else None, unwaited)

    def _in_range(self, vmid: int, base: int, size: int, physical: bool) -> tuple[np.ndarray, set[int]]:
        """(pages of video memory, pointers to pages of the host bus) of a range of addresses, as far as mapped."""
        vram, hub = self.vram, self.gmc.hubs["gc"]
        if physical:
            base -= hub.current().fb_offset
            first, last = max(base, 0) >> PAGE_SHIFT, min(base + size + PAGE - 1 >> PAGE_SHIFT, vram.size // PAGE)
            return np.arange(first, max(last, first), dtype=np.int64), set()
        wanted = range(base >> PAGE_SHIFT, min(base + size + PAGE - 1 >> PAGE_SHIFT, 1 << VA_BITS - PAGE_SHIFT))
        hosts = [host & ~CACHED for page in wanted[:RANGE_LIMIT] if (host := hub.peek(vmid, page))]
        own = [host for host in hosts if vram.base <= host < vram.base + vram.size]
        return np.array([host - vram.base >> PAGE_SHIFT for host in own], np.int64), set(hosts).difference(own)

    def bus_changed(self) -> None:
        """Memory left the host bus: GL2's copies of it go nowhere."""
        self.gl2.lose_foreign(self.board.bus.has_host)

    def forget(self) -> None:
        """A reset."""
        self.launches.forget()
        self.gl2.forget()
        self.caches.invalidate_all()


def page_view(pointer: int) -> np.ndarray:
    """Live uint8[4096] over a page of this process."""
    memory: Any = (ctypes.c_uint8 * PAGE).from_address(pointer)
    return np.frombuffer(memory, np.uint8)


def _modelled(strict: Callable[[str], bool]) -> tuple[int, ...]:
    """The shaders' caches that the rules ask for. GL1 is behind both the vector and the scalar one."""
    wanted = {"glv": (GL0, GL1), "glk": (GLK, GL1), "gli": (GLI,)}
    return tuple(sorted({cache for rule, caches in wanted.items() if strict(rule) for cache in caches}))
