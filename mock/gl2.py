"""GL2, the card's last cache: write-back, one for shaders, CP and SDMA; the CPU and other cards go past it.

What is cached is the page table's to say: everything but MTYPE UC. Nothing is copied as long as nobody could tell:

* Video memory. ``vram.view`` is what GL2's clients see, ``vram``'s twin is what lies in memory, its image is what the
  CPU sees. An engine's stores make a page *dirty*; :meth:`Gl2.write_back` brings them to twin and image. A page that
  GL2 *holds* (an engine touched it since the last invalidation) keeps its bytes when the CPU or another card stores to
  it: these *wait* in the twin until :meth:`Gl2.invalidate`.
* Memory on the host bus that a page table calls cached: GL2 has copies of its pages, with twins.

Whole pages stand for GL2's lines of 128 bytes: what one engine read, GL2 may hold together with what lies around it.

Facts: Linux 6.1, gfx_v11_0.c, gfx_v11_0_emit_mem_sync (GL2_INV and GL2_WB at the start of every IB, since the CPU
stores behind GL2's back), gfx_v11_0_ring_emit_fence (GL2_WB at its end); nvd.h, PACKET3_ACQUIRE_MEM (GL2_INV beside
GL2_DISCARD: only the latter drops stores that were not written back); Mesa 25.0, ac_shader_util.h (before gfx12, CP and
SDMA are coherent with shaders in GL2).
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.actor import Actor, current
from mock.gl2count import Gl2Count

if TYPE_CHECKING:
    from mock.vram import Vram

__all__ = ["Gl2", "PagePool"]

PAGE = 4096
PAGE_SHIFT = 12
SLAB = 256              # pages of the pool that are reserved at once
LINGER = 4096           # free pages that are not used again: somebody may still hold a pointer
KEEP_ARRAYS = 1024      # of dirty pages, before they are put together
KEEP_WRITERS = 64       # of dirty pages, for the notes


class PagePool:
    """Pages for copies. One that was given back keeps its place for a long while."""

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque()
        self._fresh: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self) -> np.ndarray:
        """uint8[4096], page-aligned."""
        with self._lock:
            if len(self._free) > LINGER:
                return self._free.popleft()
            if not self._fresh:
                slab = np.frombuffer(mmap.mmap(-1, SLAB * PAGE), np.uint8)
                self._fresh = list(slab.reshape(SLAB, PAGE))
            return self._fresh.pop()

    def give(self, pages: Iterable[np.ndarray]) -> None:
        with self._lock:
            self._free.extend(pages)


class _Arrival:
    """Stores from outside that wait below pages that GL2 holds."""

    def __init__(self, by: Actor) -> None:
        self.by, self.told = by, False


class _Foreign:
    """GL2's copy of a page on the host bus."""

    def __init__(self, pool: PagePool, host: int) -> None:
        self.host = host
        self.copy, self.twin = pool.take(), pool.take()
        memory: Any = (ctypes.c_uint8 * PAGE).from_address(host)
        self.memory = np.frombuffer(memory, np.uint8)
        self.copy[:] = self.memory
        self.twin[:] = self.copy
        self.pointer = int(self.copy.ctypes.data)
        self.told = False

    def write_back(self, deliver: Callable[[int, np.ndarray, np.ndarray], None]) -> int:
        """How many pages were dirty."""
        stored = self.copy != self.twin
        if not stored.any():
            return 0
        deliver(self.host, stored, self.copy)
        np.copyto(self.twin, self.copy, where=stored)
        return 1


class Gl2:
    """Of one card. ``note(rule, text)`` is the board's log; ``before_change(first, end, by)`` is called before bytes of
    the pages [first, end) of ``vram.view`` change because of somebody outside; ``deliver(host, stored, data)`` writes
    bytes of a page back to the host bus. Switched off (``on``), GL2 holds nothing."""

    def __init__(self, vram: Vram, note: Callable[[str, str], None],
                 before_change: Callable[[int, int, Actor], None],
                 deliver: Callable[[int, np.ndarray, np.ndarray], None], *, on: bool = True) -> None:
        self.vram, self._note, self.before_change, self._deliver, self.on = vram, note, before_change, deliver, on
        pages = vram.size // PAGE
        self.lock = vram.lock
        self._marks = np.zeros(pages, np.uint32)
        self.marks = memoryview(self._marks)     # type: ignore[arg-type]
        """Page -> the epoch in which an engine touched it last."""
        self.epoch = 1
        self._dirty_marks = np.zeros(pages, np.uint32)
        self.dirty_marks = memoryview(self._dirty_marks)   # type: ignore[arg-type]
        self.dirty_epoch = 1
        self._dirty: list[np.ndarray] = []
        self._writers: deque[tuple[np.ndarray, Actor]] = deque(maxlen=KEEP_WRITERS)
        self._told_dirty: set[int] = set()
        self.waiting: dict[int, _Arrival] = {}
        """Page -> stores from outside that GL2's clients do not see."""
        self._masks: dict[int, tuple[np.ndarray, np.ndarray]] = {}      # of waiting pages that are dirty as well
        self.storing: Callable[[], np.ndarray] = lambda: np.empty(0, np.int64)
        """Pages (int64[n]) that launches under way have stored to: dirty, and not to be written back yet."""
        self.launch_storing: Callable[[int], Actor | None] = lambda page: None
        """Which launch under way has stored to a page."""
        self._left: set[int] = set()        # pages that a write-back left because of them
        self.pool = PagePool()
        self.count = Gl2Count(self, Counter())
        self._foreign: dict[int, _Foreign] = {}
        self._copies: dict[int, _Foreign] = {}      # the same by the copies' pointers

    # ---- engines

    def touch(self, pages: np.ndarray) -> None:
        """Engines read or write these pages (int64[n]) through GL2."""
        self._marks[pages] = self.epoch

    def has(self, host: int) -> bool:
        """Does GL2 hold the page at a host pointer?"""
        offset = host - self.vram.base
        if 0 <= offset < self.vram.size:
            return self.marks[offset >> PAGE_SHIFT] == self.epoch
        return host in self._foreign

    def is_dirty(self, page: int) -> bool:
        return self.dirty_marks[page] == self.dirty_epoch

    def stored(self, pages: np.ndarray, by: Actor) -> None:
        """An engine stored to these pages (int64[n]), and the stores stay in GL2."""
        with self.lock:
            self._marks[pages] = self.epoch
            self._dirty_marks[pages] = self.dirty_epoch
            self._dirty.append(pages)
            if len(self._dirty) > KEEP_ARRAYS:      # of somebody who never writes back
                self._dirty = [np.unique(np.concatenate(self._dirty))]
            self._writers.append((pages, by))

    def special(self, pages: np.ndarray, write: bool) -> np.ndarray:
        """bool[n]: pages (int64[n]) where it matters to those who go past GL2 what it has."""
        found: np.ndarray = self._dirty_marks[pages] == self.dirty_epoch
        if self.waiting:
            found |= np.isin(pages, np.fromiter(self.waiting, np.int64, len(self.waiting)))
        return found | (self._marks[pages] == self.epoch) if write else found

    @property
    def differs(self) -> bool:
        """Is there anything that GL2's clients see otherwise than the rest of the world?"""
        return bool(self.waiting or self._dirty)

    def meet(self, page: int, write: bool) -> None:
        """An engine touches a page while stores from outside wait somewhere."""
        if page in self.waiting:
            if write:
                self._protect(np.array([page]))
            else:
                self.told_stale(page, "a page")

    def mark_dirty(self, pages: np.ndarray) -> None:
        """Engines are about to store to these pages (int64[n])."""
        self._dirty_marks[pages] = self.dirty_epoch

    def _protect(self, pages: np.ndarray) -> None:
        """Pages on which outside stores wait are about to become dirty: remember which bytes wait."""
        with self.lock:
            for page in pages.tolist():
                if page in self.waiting and page not in self._masks:
                    view, twin = self.vram.page(page), self.vram.twin_page(page)
                    if twin is not None:
                        self._masks[page] = (view != twin, view.copy())

    def writer(self, page: int) -> Actor | None:
        """Who stored to a dirty page last."""
        for pages, by in reversed(self._writers):
            if page in pages:
                return by
        return None

    def told_stale(self, page: int, what: str) -> None:
        """An engine reads a page below which stores from outside wait: a note, once for each arrival."""
        arrival = self.waiting.get(page)
        if arrival is None or arrival.told:
            return
        arrival.told = True
        self._note("gl2", f"{current()} reads {what} from GL2, which holds video memory {page * PAGE:#x} as it was "
                          f"before {arrival.by} stored there; GL2_INV is missing in between")

    def told_dirty(self, page: int, reader: str) -> None:
        """Somebody outside reads a page with stores that are not written back: a note, once until the write-back."""
        if page in self._told_dirty:
            return
        self._told_dirty.add(page)
        if page in self._left and (launch := self.launch_storing(page)) is not None:
            self._note("overlap", f"{reader} reads video memory {page * PAGE:#x}, and what {launch} stored there is "
                                  "still in GL2: GL2_WB came in between, but nobody had waited for that launch "
                                  "(CS_PARTIAL_FLUSH, or an end-of-pipe event)")
            return
        self._note("gl2", f"{reader} reads video memory {page * PAGE:#x}, and what {self.writer(page) or 'an engine'} "
                          "stored there is still in GL2; GL2_WB is missing in between")

    # ---- outside

    def entangled(self, page: int) -> bool:
        """Has the page stores of both sides?"""
        return self.dirty_marks[page] == self.dirty_epoch or page in self._masks

    def holds(self, first: int, end: int) -> np.ndarray:
        """bool[n]: which of the pages [first, end) GL2 has."""
        held: np.ndarray = (self._marks[first:end] == self.epoch) if self.on else np.zeros(end - first, np.bool_)
        return held

    def arrived(self, page: int, before: np.ndarray, by: _Arrival) -> None:
        """Stores from outside reached memory (the twin, which was ``before``) below a page that GL2 holds."""
        if self.is_dirty(page) and page not in self._masks:
            view, twin = self.vram.page(page), self.vram.twin_page(page)
            if twin is not None:
                self._masks[page] = ((twin != before) & (view == before), view.copy())
        elif page in self._masks:
            mask, kept = self._masks[page]
            view, twin = self.vram.page(page), self.vram.twin_page(page)
            if twin is not None:
                more = (twin != before) & (view == before)
                np.copyto(kept, view, where=more & ~mask)
                mask |= more
        self.waiting[page] = by

    def arrival(self, by: Actor | None = None) -> _Arrival:
        return _Arrival(by or current())

    # ---- operations

    def write_back(self, wanted: np.ndarray | None = None, foreign: set[int] | None = None) -> None:
        """Dirty bytes go to memory. ``wanted``: only pages of video memory among these; ``foreign``: host pages."""
        with self.lock:
            for page in list(self._foreign.values()):
                if foreign is None or page.host in foreign:
                    self.count.written_back(page.write_back(self._deliver))
            if not self._dirty:
                self._left = set(self.storing().tolist())
                return
            pages = np.unique(np.concatenate(self._dirty)) if len(self._dirty) > 1 else np.unique(self._dirty[0])
            rest = np.empty(0, np.int64)
            if wanted is not None:
                rest, pages = np.setdiff1d(pages, wanted), np.intersect1d(pages, wanted)
            plain = pages
            if self._masks:
                masked = np.isin(pages, np.fromiter(self._masks, np.int64))
                for page in pages[masked].tolist():
                    self._write_back_beside(page)
                plain = pages[~masked]
            self.vram.publish_pages(plain)
            self.count.written_back(len(pages))
            self._dirty = [rest] if len(rest) else []
            self._told_dirty.clear()
            self.dirty_epoch += 1
            if len(rest):
                self._dirty_marks[rest] = self.dirty_epoch
            else:
                self._writers.clear()
            left = self.storing()
            self._dirty_marks[left] = self.dirty_epoch
            self._left = set(left.tolist())

    def _write_back_beside(self, page: int) -> None:
        """A dirty page on which stores from outside wait: only what engines stored."""
        mask, kept = self._masks[page]
        view, twin, image = self.vram.page(page), self.vram.twin_page(page), self.vram.image_page(page)
        if twin is None or image is None:
            return
        ours = (view != twin) & ~(mask & (view == kept))
        np.copyto(twin, view, where=ours)
        np.copyto(image, view, where=ours)

    def invalidate(self, wanted: np.ndarray | None = None, foreign: set[int] | None = None, *,
                   discard: bool = False) -> None:
        """Forget lines that are not dirty (``discard``: those too)."""
        with self.lock:
            if discard:
                self._discard(wanted)
            if self.waiting:
                pages = np.fromiter(self.waiting, np.int64, len(self.waiting))
                self._let_in(np.sort(pages if wanted is None else np.intersect1d(pages, wanted)))
            if wanted is None:
                self.epoch += 1
            else:
                self._marks[wanted] = 0
            for host, page in list(self._foreign.items()):
                if foreign is None or host in foreign:
                    self._refresh(page, discard)

    def _let_in(self, pages: np.ndarray) -> None:
        """Stores that waited become visible to engines."""
        for page in pages.tolist():
            twin = self.vram.twin_page(page)
            arrival = self.waiting.pop(page)
            found = self._masks.pop(page, None)
            if twin is None:
                continue
            self.before_change(page, page + 1, arrival.by)
            view = self.vram.page(page)
            if found is None:
                view[:] = twin
            else:
                mask, kept = found
                np.copyto(view, twin, where=mask & (view == kept))

    def _discard(self, wanted: np.ndarray | None) -> None:
        """Stores that were not written back are lost."""
        pages = np.unique(np.concatenate(self._dirty)) if self._dirty else np.empty(0, np.int64)
        if wanted is not None:
            pages = np.intersect1d(pages, wanted)
        for page in pages.tolist():
            twin = self.vram.twin_page(page)
            if twin is not None:
                self.before_change(page, page + 1, current())
                self.vram.page(page)[:] = twin
                self.waiting.pop(page, None)
                self._masks.pop(page, None)
        self._dirty = [np.setdiff1d(np.unique(part), pages) for part in self._dirty]
        self._dirty_marks[pages] = 0

    # ---- memory on the host bus

    def foreign(self, host: int, write: bool) -> int:
        """GL2's copy of a page of host memory (or of another card's) that a page table calls cached."""
        with self.lock:
            page = self._foreign.get(host)
            if page is None:
                page = self._foreign[host] = _Foreign(self.pool, host)
                self._copies[page.pointer] = page
            elif not write and not page.told and not np.array_equal(page.memory, page.twin):
                page.told = True
                self._note("gl2", f"{current()} reads a page of cached memory on the host bus from GL2; others stored "
                                  "there since GL2 took it, and GL2_INV is missing in between (MTYPE UC needs none)")
            return page.pointer

    def through(self, pointer: int, size: int) -> bool:
        """Stores to copies of host memory go through to it. False: the pointer is none of a copy's."""
        if not self._copies:
            return False
        found = False
        for at in range(pointer & -PAGE, pointer + size, PAGE):
            with self.lock:
                page = self._copies.get(at)
                if page is not None:
                    page.write_back(self._deliver)
                    found = True
        return found

    def _drop(self, page: _Foreign) -> None:
        del self._foreign[page.host], self._copies[page.pointer]
        self.pool.give((page.copy, page.twin))

    def _refresh(self, page: _Foreign, discard: bool) -> None:
        if discard or np.array_equal(page.copy, page.twin):
            self._drop(page)
            return
        clean = page.copy == page.twin
        np.copyto(page.copy, page.memory, where=clean)
        np.copyto(page.twin, page.memory, where=clean)
        page.told = False

    def lose_foreign(self, still_there: Callable[[int], bool]) -> None:
        with self.lock:
            for host in [host for host in self._foreign if not still_there(host)]:
                self._drop(self._foreign[host])

    def forget(self) -> None:
        """A reset: what was not written back is lost, and nothing is held."""
        with self.lock:
            self._discard(None)
            self._let_in(np.sort(np.fromiter(self.waiting, np.int64, len(self.waiting))))
            self._dirty.clear()
            self._writers.clear()
            self._masks.clear()
            for page in list(self._foreign.values()):
                self._drop(page)
            self.epoch += 1
            self.dirty_epoch += 1
