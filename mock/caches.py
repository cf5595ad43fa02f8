"""The caches of a card's shaders (GL0, GL1, scalar and instruction cache), and the operations that packets ask for.

A cache that read a page keeps its bytes: when somebody else is about to change them, the page is copied first, and
until the cache is invalidated the copy is what waves read. While nobody changes what caches hold, nothing is copied and
nothing is slower. A launch sees its own stores (they go through), later ones need the invalidation: their waves may
run on another shader array.

Facts: LLVM, User Guide for AMDGPU Backend, Memory Model GFX10-GFX11 (GL0 by compute unit, GL1 by shader array, scalar
cache beside GL0 and above GL1; stores and atomics are GL2's; buffer_gl0_inv, buffer_gl1_inv); Mesa 25.0,
ac_shader_util.c (GFX11: GLC means device scope for loads; SLC and DLC are hints only); Linux 6.1, nvd.h
(PACKET3_ACQUIRE_MEM_GCR_CNTL: bits, ranges); amdrv.facts.pm4 (COHER_BASE and COHER_SIZE count 256 bytes). GLM holds
metadata of images and GLK_WB concerns scalar stores, which gfx11 has not: both are inert. So are GL2_US and SEQ (every
operation here is done in order, before the next packet).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mock.actor import Actor, current
from mock.gl2 import PAGE, PagePool

__all__ = ["CODE", "Control", "Copy", "FIRST_LAST", "GL0", "GL1", "GLI", "GLK", "RANGE", "ReadCaches", "SCALAR",
           "VECTOR", "decode_control"]

GL0, GL1, GLK, GLI = range(4)
VECTOR, SCALAR, CODE = (GL0, GL1), (GLK, GL1), (GLI,)
"""Which caches a load goes through, the nearest first."""

NAMES = ("GL0", "GL1", "the scalar cache", "the instruction cache")
NEEDED = {GL0: "GLV_INV", GL1: "GL1_INV", GLK: "GLK_INV", GLI: "GLI_INV"}
RANGE, FIRST_LAST = 2, 3        # GLI_INV, GL1_RANGE, GL2_RANGE: only a range, only its first and last page


class Control(NamedTuple):
    """GCR_CNTL, as ACQUIRE_MEM and SDMA's GCR_REQ carry it. ``gli``, ``gl1_range``, ``gl2_range``: the raw fields."""

    gli: int
    gl1_range: int
    glk_inv: bool
    glv_inv: bool
    gl1_inv: bool
    gl2_range: int
    gl2_discard: bool
    gl2_inv: bool
    gl2_wb: bool
    range_is_pa: bool


def decode_control(control: int) -> Control:
    """nvd.h, PACKET3_ACQUIRE_MEM_GCR_CNTL_*."""
    return Control(gli=control & 3, gl1_range=control >> 2 & 3, glk_inv=bool(control >> 7 & 1),
                   glv_inv=bool(control >> 8 & 1), gl1_inv=bool(control >> 9 & 1), gl2_range=control >> 11 & 3,
                   gl2_discard=bool(control >> 13 & 1), gl2_inv=bool(control >> 14 & 1),
                   gl2_wb=bool(control >> 15 & 1), range_is_pa=bool(control >> 18 & 1))


class Copy:
    """What caches hold of a page that has changed since."""

    __slots__ = ("by", "data", "late", "pointer", "told")

    def __init__(self, data: np.ndarray, by: Actor, late: Actor | None = None) -> None:
        self.data, self.by, self.told = data, by, False
        self.late = late        # a launch under way, because of which an invalidation left it
        self.pointer = int(data.ctypes.data)


class ReadCaches:
    """Of one card's shaders, over the pages of its video memory. ``on``: which caches are modelled."""

    def __init__(self, memory: np.ndarray, note: Callable[[str, str], None], pool: PagePool,
                 on: tuple[int, ...]) -> None:
        self._memory, self._note, self._pool = memory.reshape(-1, PAGE), note, pool
        self.on = on
        marks = [np.zeros(len(self._memory), np.uint32) for _ in NAMES]
        self._marks = marks
        self.marks = [memoryview(mark) for mark in marks]      # type: ignore[arg-type]
        self.epochs = [1] * len(NAMES)
        self.copies: list[dict[int, Copy]] = [{} for _ in NAMES]
        self._late: list[dict[int, Actor]] = [{} for _ in NAMES]     # pages that invalidations left, because of whom
        self.any_copies = False
        """Some cache has a copy: only then loads must be looked at."""

    def load(self, path: tuple[int, ...], pages: np.ndarray) -> np.ndarray:
        """Loads of pages (int64[n]) fill the caches of ``path`` as far as they miss. Returns those that none had."""
        for cache in path:
            marks, epoch = self._marks[cache], self.epochs[cache]
            missed = marks[pages] != epoch
            if not missed.any():
                return pages[:0]
            pages = pages[missed]
            marks[pages] = epoch
        return pages

    def held(self, page: int) -> bool:
        marks, epochs = self.marks, self.epochs
        for cache in self.on:       # noqa: SIM110 (a generator takes three times as long)
            if marks[cache][page] == epochs[cache]:
                return True
        return False

    def before_change(self, first: int, end: int, by: Actor | None = None) -> None:
        """Somebody is about to store to pages [first, end) of video memory."""
        for cache in self.on:
            marks = self._marks[cache][first:end]
            held = marks == self.epochs[cache]
            if held.any():
                for page in (np.flatnonzero(held) + first).tolist():
                    self.keep(page, by)

    def before_change_of(self, pages: np.ndarray, by: Actor | None = None) -> None:
        """The same of pages int64[n]."""
        for cache in self.on:
            held = self._marks[cache][pages] == self.epochs[cache]
            if held.any():
                for page in np.unique(pages[held]).tolist():
                    self.keep(page, by)

    def keep(self, page: int, by: Actor | None) -> None:
        """Whatever holds the page holds it as it is now."""
        copy: Copy | None = None
        for cache in self.on:
            if self.marks[cache][page] == self.epochs[cache] and page not in self.copies[cache]:
                if copy is None:
                    data = self._pool.take()
                    data[:] = self._memory[page]
                    copy = Copy(data, by or current(), self._late[cache].get(page))
                self.copies[cache][page] = copy
                self.any_copies = True

    def find(self, path: tuple[int, ...], page: int) -> tuple[Copy, int] | None:
        """What a load gets that goes through the caches of ``path``, and which of them had it; None: GL2's bytes."""
        for level, cache in enumerate(path):
            copy = self.copies[cache].get(page)
            if copy is not None:
                for nearer in path[:level]:
                    self.copies[nearer][page] = copy        # filled from the level below
                return copy, cache
        return None

    def tell(self, path: tuple[int, ...], page: int, found: tuple[Copy, int], address: int, reader: str) -> None:
        """A note, once a copy, when other bytes are served than GL2 has."""
        copy, cache = found
        if copy.told or np.array_equal(copy.data, self._memory[page]):
            return
        copy.told = True
        if copy.late is not None:
            self._note("overlap", f"{reader} reads {address:#x} from {NAMES[cache]}, which holds the page as it was "
                                  f"before {copy.by} stored there: {NEEDED[cache]} came in between, but did not cover "
                                  f"{copy.late}, for which nobody had waited (CS_PARTIAL_FLUSH, an end-of-pipe event)")
            return
        rule = {GL0: "glv", GL1: "glv" if path == VECTOR else "glk", GLK: "glk", GLI: "gli"}[cache]
        self._note(rule, f"{reader} reads {address:#x} from {NAMES[cache]}, which holds the page as it was before "
                         f"{copy.by} stored there; {NEEDED[cache]} is missing in between")

    def invalidate(self, cache: int, pages: np.ndarray | None = None,
                   unwaited: Sequence[tuple[Actor, set[int]]] = ()) -> None:
        """``pages``: only these of video memory. ``unwaited``: launches that may still run, (who, pages loaded)."""
        held = {page: by for by, loaded in unwaited for page in loaded if self.marks[cache][page] == self.epochs[cache]}
        late = {id(by) for by, _ in unwaited}
        kept = {page: copy for page, copy in self.copies[cache].items() if id(copy.by) in late} if late else {}
        if pages is None:
            self.epochs[cache] += 1
            copies, self.copies[cache] = self.copies[cache], {}
            gone = list(copies.values())
        else:
            self._marks[cache][pages] = 0
            gone = [self.copies[cache].pop(page) for page in pages.tolist() if page in self.copies[cache]]
        if late:
            self._marks[cache][[*held, *kept]] = self.epochs[cache]
            self.copies[cache].update(kept)
            for copy in kept.values():
                copy.late = copy.by
        self._late[cache] = held
        if gone:
            self.any_copies = any(self.copies)
            left = {id(copy) for copies in self.copies for copy in copies.values()}
            self._pool.give(copy.data for copy in gone if id(copy) not in left)

    def invalidate_all(self) -> None:
        for cache in range(len(NAMES)):
            self.invalidate(cache)
