"""Video memory, and the host's view of it through BAR0: strict about the HDP flush, at full speed.

Engines use ``view``, the memory itself, through host pointers. The CPU's loads and stores through BAR0 go to an
*image*, and a *twin* remembers what image and memory agreed on last:

* :meth:`flush` (the HDP flush): bytes where image and twin differ were written by the CPU; they go to memory. Without
  it an engine reads what was there before.
* :meth:`written` and :meth:`publish` (an engine's stores reached memory): bytes that an engine wrote go to the image,
  at once, as on silicon, where the CPU's reads go to memory. Stores that stay in GL2 come later (:mod:`mock.gl2`,
  which also keeps what the CPU stores from pages that GL2 holds: ``view`` is GL2's side, the twin is memory itself).
* A host that orders its stores by fences only may have some in its write-combining buffers still: of several pages, a
  flush without a fence finds the last one only.

Only pages in a window that was handed out (:meth:`window`) or that were touched by single accesses have an image;
where the operating system tells which pages were stored to, only those are compared. A page
that nobody wrote holds poison: odd 32-bit words that look like valid page-table entries, and are NaN as fp32 and
fp16. It costs nothing before it is touched: one poison file is mapped privately, tile by tile.

One thing cannot be told apart: a CPU store of the value that the image holds already, against an engine's store to
the same byte since the last flush. Then the engine's value stands.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.actor import Actor, current, host
from mock.writetracking import WriteTracker, track

if TYPE_CHECKING:
    from mock.gl2 import Gl2

__all__ = ["PAGE", "POISON", "Vram", "parse_size"]

PAGE = 4096
POISON = 0x7FC50001
"""Lowest poison word; word i of a tile is ``POISON | (i << 1 & 0xFFFE)``."""

MIN_TILE = 2 << 20
MAX_TILES = 4096
"""Of one mapping, so that three mappings of a few boards stay below Linux's default of 65530 (vm.max_map_count)."""

MAP_FIXED = 0x10
"""The same on Linux and on the BSDs (sys/mman.h)."""

PAGEMAP_PRESENT, PAGEMAP_FILE = 1 << 63, 1 << 61
"""Linux, Documentation/admin-guide/mm/pagemap.rst. A private page that was stored to is present and not of the file."""

CHUNK = 256
"""Pages that a flush merges at once."""

GAP = 16            # pages between windows that are looked at as well, for one look less
FEW = 32            # pages are compared sooner than the operating system is asked about them
KEEP_GONE = 64      # windows that went and wait for a flush

PagesHook = Callable[[np.ndarray], None]


def parse_size(text: str | int) -> int:
    """Bytes of ``"1G"``, ``"256M"``, ``"64K"`` or a number. :raises ValueError:"""
    if isinstance(text, int):
        return text
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in units else (text, "")
    if not number.isdigit():
        raise ValueError(f"size {text!r} must be a number of bytes, or of K, M, G or T, such as 256M or 1G")
    return int(number) << units.get(unit, 0)


def _private(size: int) -> mmap.mmap:
    """A mapping of this process's own, that costs nothing before it is touched. :raises OSError:"""
    flags = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANON", 0) | _no_reserve()
    return mmap.mmap(-1, size, flags=flags) if flags else mmap.mmap(-1, size)


def _no_reserve() -> int:
    """MAP_NORESERVE, whose number Python tells from 3.13 on only: a card may have more memory than this machine."""
    return 0x4000 if sys.platform == "linux" else 0     # asm-generic/mman.h


class _Mapping:
    """``size`` bytes of lazily poisoned private memory; ``like`` another of the same size, whose file of poison serves
    both."""

    def __init__(self, size: int, poison: bool, like: _Mapping | None = None) -> None:
        try:
            self.memory = _private(size)
        except OSError as error:
            raise MemoryError(f"cannot reserve {size:#x} bytes of address space for video memory ({error}); make the "
                              "board's vram= smaller") from None
        self.bytes = np.frombuffer(self.memory, dtype=np.uint8)
        self.base = int(self.bytes.ctypes.data)
        self.tiled, self._wants_poison = False, poison
        self._file: io.FileIO | None = None if like is None else like._file
        self._owns_file = like is None
        if poison:
            self._poison(size)
        self.pages = self.bytes.reshape(-1, PAGE)

    def _poison(self, size: int) -> None:
        tile = MIN_TILE
        while size // tile > MAX_TILES:
            tile *= 2
        tile = min(tile, size)
        try:
            libc_mmap = _map_at()
        except (OSError, TypeError, AttributeError):    # no libc to ask: poison is filled in, at a price
            for at in range(0, size, tile):
                self.bytes[at:at + tile] = np.frombuffer(_poison_bytes(min(tile, size - at)), np.uint8)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)    # noqa: SIM115 (for as long as the mapping)
            self._file.write(_poison_bytes(tile))
        protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | MAP_FIXED | _no_reserve()
        for at in range(0, size, tile):
            where = libc_mmap(self.base + at, min(tile, size - at), protection, flags, self._file.fileno(), 0)
            if where != self.base + at:
                raise MemoryError(f"cannot map tile {at // tile} of {size // tile} of {size:#x} bytes of video "
                                  "memory; make the board's vram= smaller")
        self.tiled = True

    def without_poison(self) -> None:
        """Zeros wherever nobody stored, now and after every :meth:`refill`."""
        stored = self.stored_pages(0, len(self.pages))
        if stored is None:
            words, poison = self.pages.view(np.uint32), np.frombuffer(_poison_bytes(PAGE), np.uint32)
            odd = (words & np.uint32(0xFFFF0001)) != (poison & np.uint32(0xFFFF0001))
            stored = np.flatnonzero(odd.any(axis=1))
        kept = self.pages[stored].copy()
        self._wants_poison = False
        self._blank()
        self.pages[stored] = kept

    def _blank(self) -> None:
        """Zeros all over; of private pages that cost nothing, where the system has such (which ``tiled`` says)."""
        anonymous = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANON", 0) | MAP_FIXED | _no_reserve()
        if not self.tiled or _map_at()(self.base, len(self.bytes), mmap.PROT_READ | mmap.PROT_WRITE, anonymous, -1,
                                       0) != self.base:
            self.bytes[:] = 0

    def refill(self) -> None:
        """Back to poison (or zeros) all over, in place."""
        if self._wants_poison:
            self._poison(len(self.bytes))
        else:
            self._blank()

    def stored_pages(self, first: int, count: int) -> np.ndarray | None:
        """Numbers of the pages in [first, first+count) that were ever stored to; None where nobody can tell."""
        if not self.tiled or sys.platform != "linux" or mmap.PAGESIZE != PAGE:
            return None
        try:
            file = os.open("/proc/self/pagemap", os.O_RDONLY)
        except OSError:
            return None
        try:
            data = os.pread(file, count * 8, (self.base // PAGE + first) * 8)
        finally:
            os.close(file)
        if len(data) != count * 8:
            return None
        entries = np.frombuffer(data, dtype=np.uint64)
        # a page in swap (bit 62) was stored to as well; the file's pages are never swapped
        return np.flatnonzero((entries >> np.uint64(62) != 0) & (entries & np.uint64(PAGEMAP_FILE) == 0)) + first

    def close(self) -> None:
        self.bytes = np.empty(0, np.uint8)      # the mapping goes when the last view of it goes
        if self._file is not None and self._owns_file:
            self._file.close()
        self.pages = self.bytes.reshape(0, PAGE)
        del self.memory


def _poison_bytes(size: int) -> bytes:
    words = np.uint32(POISON) | (np.arange(size // 4, dtype=np.uint32) << np.uint32(1) & np.uint32(0xFFFE))
    return words.tobytes()


def _map_at() -> Any:
    """libc's mmap, which takes an address. :raises OSError, TypeError, AttributeError: there is none to ask."""
    function = ctypes.CDLL(None).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    return function


def _memcmp(keep_lock: bool) -> Callable[[int, int, int], int] | None:
    """libc's; ``keep_lock``: without giving the interpreter's lock away, which takes longer than a few pages do."""
    try:
        function: Any = (ctypes.PyDLL if keep_lock else ctypes.CDLL)(None).memcmp
    except (OSError, TypeError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_int
    return function


def _runs(pages: np.ndarray, gap: int = 1) -> Iterator[tuple[int, int]]:
    """(first, end) of the stretches of sorted page numbers; holes smaller than ``gap`` pages are included."""
    count = len(pages)
    if not count:
        return
    first, last = int(pages[0]), int(pages[-1])
    if last - first == count - 1:
        yield first, last + 1
        return
    cuts = np.flatnonzero(np.diff(pages) > gap)
    for end, start in zip(pages[cuts].tolist(), pages[cuts + 1].tolist(), strict=True):
        yield first, end + 1
        first = start
    yield first, last + 1


def _merge(source: _Mapping, target: _Mapping, twin: _Mapping, first: int, end: int, *, alone: bool = False,
           ) -> np.ndarray:
    """What differs between ``source`` and the twin goes to ``target`` and the twin, byte by byte; others may store
    beside it meanwhile. ``alone``: the target is still as the twin. Returns the pages that differed."""
    now = source.pages[first:end].copy()                # its owner may go on storing
    words, twins, targets = (pages.view(np.uint64) for pages in (now, twin.pages[first:end], target.pages[first:end]))
    stored = words != twins
    if alone and stored.all():
        targets[...] = words
        twins[...] = words
    elif alone or not (stored & (targets != twins)).any():
        np.copyto(targets, words, where=stored)
        np.copyto(twins, words, where=stored)
    else:                                               # both sides stored to the same 8 bytes: byte by byte
        mask = now != twin.pages[first:end]
        np.copyto(target.pages[first:end], now, where=mask)
        np.copyto(twin.pages[first:end], now, where=mask)
    return np.flatnonzero(stored.any(axis=1)) + first


class _SharedMapping(_Mapping):
    """Memory that another process may map too: of zeros, in a file without a name."""

    def __init__(self, size: int) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("vram")
        else:
            with tempfile.TemporaryFile(buffering=0) as file:
                self.fd = os.dup(file.fileno())
        os.ftruncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)
        self.bytes = np.frombuffer(self.memory, dtype=np.uint8)
        self.base = int(self.bytes.ctypes.data)
        self.tiled, self._wants_poison = False, False
        self._file, self._owns_file = None, False
        self.pages = self.bytes.reshape(-1, PAGE)

    def stored_pages(self, first: int, count: int) -> np.ndarray | None:
        """Pages that the file holds: what anybody stored to, in whichever process, is among them."""
        if not hasattr(os, "SEEK_DATA"):
            return None
        found, at, end = [], first * PAGE, (first + count) * PAGE
        while at < end:
            try:
                start = os.lseek(self.fd, at, os.SEEK_DATA)
                stop = os.lseek(self.fd, start, os.SEEK_HOLE)
            except OSError:             # no data from here on
                break
            found.append(np.arange(start // PAGE, min(-(-stop // PAGE), first + count)))
            at = stop
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def refill(self) -> None:
        stored = self.stored_pages(0, len(self.pages))
        self.pages[slice(None) if stored is None else stored] = 0

    def close(self) -> None:
        super().close()
        os.close(self.fd)


class Vram:
    """Video memory of ``size`` bytes (a multiple of 4096). ``strict=False`` lets engines see BAR stores at once."""

    def __init__(self, size: int, *, strict: bool = True, poison: bool = True) -> None:
        if size <= 0 or size % PAGE:
            raise ValueError(f"vram of {size} bytes: must be a positive multiple of {PAGE}")
        self.size, self.strict = size, strict
        self._poison, self._shared = poison, False
        self._memory = _Mapping(size, poison)
        self.base, self.view = self._memory.base, self._memory.bytes
        self._image: _Mapping | None = None
        self._twin: _Mapping | None = None
        self._handed = np.zeros(size // PAGE, dtype=np.uint32)      # windows on each page
        self.windows = memoryview(self._handed)                     # type: ignore[arg-type]
        """Page -> windows on it."""
        self._open: Counter[tuple[int, int]] = Counter()            # windows, by their pages
        self._ranges: list[tuple[int, int]] | None = []             # handed pages as runs; None: to be computed
        self._single: dict[int, Actor] = {}                         # pages stored to by single accesses, by whom
        self._gone: deque[tuple[int, int]] = deque()                # windows that went, and are not looked at yet
        self._posted: list[tuple[int, int]] = []                    # those of them with stores that await a flush
        self._lock = self.lock = threading.RLock()
        self._compare, self._compare_few = _memcmp(False), _memcmp(True)
        self.gone = False           # a card that left the bus
        self.gl2: Gl2 | None = None
        self._tracker: WriteTracker | None = None       # of the image
        self._combining: list[tuple[int, int]] = []     # runs of pages that a flush without a fence left behind
        self.lingering = 0          # how many pages that was, ever
        self.flushed_at = time.monotonic()
        self.on_merge: Callable[[], None] = lambda: None
        """Called at every flush."""
        self.on_flush: list[PagesHook] = []
        """Called at a flush that changed memory, with the numbers of the pages (int64[n], ascending)."""

    def share(self) -> int:
        """From here on the CPU's side is memory that another process may map; returns its descriptor, which stays
        ours. Before any window. A page that nobody wrote reads as zeros there. :raises ValueError: too late, or
        not strict (then there is one side only)."""
        if self._image is not None or not self.strict:
            raise ValueError("video memory is shared before anyone looks at it, and with the rule hdp on")
        self._shared = True
        self._memory.without_poison()       # what differs from the shared side by itself would hide stores of zeros
        image, _ = self._images()
        assert isinstance(image, _SharedMapping)
        return image.fd

    def stored_pages(self) -> np.ndarray:
        """Numbers of the pages that may differ from a new card's, int64[n], ascending."""
        count = self.size // PAGE
        stored = self._memory.stored_pages(0, count)
        return np.arange(count) if stored is None else stored

    # ---- the CPU's side

    def window(self, offset: int, size: int) -> memoryview:
        """The CPU's view of a range; engines see its stores after :meth:`flush`."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"window of {size:#x} bytes at {offset:#x}: video memory ends at {self.size:#x}")
        if not self.strict:
            return memoryview(self.view[offset:offset + size])      # type: ignore[arg-type]
        first, end = offset // PAGE, -(-(offset + size) // PAGE)
        with self._lock:
            if len(self._gone) > KEEP_GONE:
                self._release_gone()
            image, _ = self._images()
            fresh = self._fresh(first, end)
            self._handed[first:end] += 1        # from here on engines tell what they write, and wait for the lock
            self._open[first, end] += 1
            self._ranges = None
            self._refresh(fresh)
            for low, high in _runs(fresh):
                if high - low > FEW:            # of fewer pages the next flush finds out by comparing
                    self._tracked(low, high)    # from here on, what is reported is the CPU's
            exporter = image.bytes[offset:offset + size]    # an array of its own: it lives as long as any view of it
            weakref.finalize(exporter, self._gone.append, (first, end))
            return memoryview(exporter)     # type: ignore[arg-type]

    def _release_gone(self) -> None:
        """Pages of windows that went need no image any more, once their stores were flushed. The next flush does the
        same for less; this is for those who never flush."""
        while self._gone:
            first, end = self._gone.popleft()
            if any(not self._equal(*self._images(), *run) for run in self._stored(first, end, again=True)):
                self._posted.append((first, end))
            else:
                self._release(first, end)

    def _release(self, first: int, end: int) -> None:
        self._handed[first:end] -= 1
        self._open[first, end] -= 1
        if not self._open[first, end]:
            del self._open[first, end]
        self._ranges = None

    def cpu_read(self, offset: int, width: int) -> int:
        """One load through BAR0."""
        page = offset // PAGE
        source = self._memory if self._image is None or not self._has_image(page) else self._image
        if self.gl2 is not None and source is self._image and self.gl2.is_dirty(page) and \
                not np.array_equal(source.bytes[offset:offset + width], self.view[offset:offset + width]):
            self.gl2.told_dirty(page, "the CPU")
        return int.from_bytes(source.bytes[offset:offset + width].tobytes(), "little")

    def cpu_write(self, offset: int, width: int, value: int) -> None:
        """One store through BAR0; posted until the flush."""
        data = np.frombuffer(value.to_bytes(width, "little"), np.uint8)
        if not self.strict:
            self.view[offset:offset + width] = data
            return
        page = offset // PAGE
        with self._lock:
            image, _ = self._images()
            fresh = self._fresh(page, page + 1)
            self._single[page] = current()
            self._refresh(fresh)
            image.bytes[offset:offset + width] = data

    def _has_image(self, page: int) -> bool:
        return bool(self._handed[page]) or page in self._single or (self.gl2 is not None and page in self.gl2.waiting)

    def _images(self) -> tuple[_Mapping, _Mapping]:
        if self._image is None or self._twin is None:
            if self._shared:            # what another process stores to, nobody tells but the file
                self._image, self._twin = _SharedMapping(self.size), _Mapping(self.size, False)
            else:
                self._image, self._twin = (_Mapping(self.size, self._poison, self._memory) for _ in range(2))
                self._tracker = track(self._image.base, self.size)
        return self._image, self._twin

    def _fresh(self, first: int, end: int) -> np.ndarray:
        """Which pages of [first, end) have no image until now."""
        fresh = self._handed[first:end] == 0
        fresh[[page - first for page in self._beside() if first <= page < end]] = False
        return np.flatnonzero(fresh) + first

    def _beside(self) -> Collection[int]:
        """Pages with an image beside those of windows."""
        if self.gl2 is None or not self.gl2.waiting:
            return self._single
        return self._single.keys() | self.gl2.waiting.keys()

    def _refresh(self, pages: np.ndarray) -> None:
        """Make image and twin equal memory in ``pages``."""
        image, twin = self._images()
        for first, end in _runs(pages):
            if end - first > FEW:
                parts = [m.stored_pages(first, end - first) for m in (self._memory, image)]
                if parts[0] is not None and parts[1] is not None:
                    stored = list(_runs(np.union1d(parts[0], parts[1])))
                else:
                    stored = [(first, end)]
            else:
                stored = [(first, end)]
            for low, high in stored:
                if not self._equal(self._memory, image, low, high):
                    image.pages[low:high] = self._memory.pages[low:high]
                if not self._equal(self._memory, twin, low, high):
                    twin.pages[low:high] = self._memory.pages[low:high]

    def _equal(self, one: _Mapping, other: _Mapping, first: int, end: int) -> bool:
        if self._compare is not None and self._compare_few is not None:
            compare = self._compare_few if end - first <= FEW else self._compare
            return compare(one.base + first * PAGE, other.base + first * PAGE, (end - first) * PAGE) == 0
        return bool(np.array_equal(one.pages[first:end], other.pages[first:end]))

    def _stored(self, first: int, end: int, *, again: bool = False) -> list[tuple[int, int]]:
        """Runs of the pages of [first, end) whose image the CPU may have stored to since the last flush (of pages in
        windows; ``again``: and tell the next caller once more)."""
        image, _ = self._images()
        if end - first <= FEW:
            return [(first, end)]
        if (runs := self._tracked(first, end, again=again)) is not None:
            return runs
        stored = image.stored_pages(first, end - first)
        return [(first, end)] if stored is None else list(_runs(stored))

    def _tracked(self, first: int, end: int, *, again: bool = False) -> list[tuple[int, int]] | None:
        """What the operating system says was stored to since it was asked last; None where it does not say."""
        if self._tracker is None:
            return None
        try:
            return self._tracker.written(first, end, again=again)
        except OSError:                     # from here on by comparing
            self._tracker.close()
            self._tracker = None
            return None

    def _windows(self) -> list[tuple[int, int]]:
        if self._ranges is None:
            runs: list[tuple[int, int]] = []
            for first, end in sorted(self._open):
                if runs and first <= runs[-1][1] + GAP:
                    runs[-1] = runs[-1][0], max(runs[-1][1], end)
                else:
                    runs.append((first, end))
            self._ranges = runs
        return self._ranges

    def _imaged(self) -> list[tuple[int, int]]:
        """Runs of the pages whose image may differ from the twin."""
        found: list[tuple[int, int]] = [(p, p + 1) for p in self._single]
        found += self._combining            # the operating system has told of these before
        for first, end in self._windows():
            found += self._stored(first, end)
        return found

    # ---- what the CPU stored and engines do not see

    def has_window(self, page: int) -> bool:
        """May the CPU have stores to this page that await a flush?"""
        return self.windows[page] > 0 or page in self._single

    def pending(self, first: int, end: int, limit: int) -> list[int]:
        """Pages of [first, end) with such stores; of many pages, ``limit`` are compared."""
        if self._image is None or self.gone:
            return []
        image, twin = self._images()
        if end - first <= FEW:
            pages = [page for page in range(first, end) if self.has_window(page)]
        else:
            with self._lock:
                handed = np.flatnonzero(self._handed[first:end]) + first
                pages = [page for page in self._single if first <= page < end]
                for low, high in _runs(handed, gap=FEW):
                    runs = self._tracked(low, high, again=True) or [(low, high)]
                    pages += [page for run in runs for page in range(*run)]
        return [page for page in pages[:limit] if not self._equal(image, twin, page, page + 1)]

    def pending_pages(self, limit: int = 4) -> list[int]:
        """The first pages of all with such stores."""
        if self._image is None or self.gone:
            return []
        image, twin = self._images()
        found: list[int] = []
        for first, end in [*((page, page + 1) for page in self._single), *self._windows()]:
            for low, high in self._stored(first, end, again=True):
                for page in range(low, high):
                    if len(found) < limit and not self._equal(image, twin, page, page + 1):
                        found.append(page)
        return found

    def lingering_at(self) -> str:
        """Where stores are that a flush found in the write-combining buffers, in words."""
        where = ", ".join(f"{first * PAGE:#x}" for first, _ in self._combining[:4])
        return where + (", ..." if len(self._combining) > 4 else "")

    def missed(self, low: int, high: int) -> tuple[int, np.ndarray, np.ndarray] | None:
        """Of bytes [low, high), what the CPU stored first: (offset, what is there, what the CPU stored); one to eight
        bytes. None: nothing."""
        if self._image is None or self._twin is None:
            return None
        with self._lock:                # an engine's stores that are being published look like the CPU's
            image, twin = self._image.bytes[low:high].copy(), self._twin.bytes[low:high]
            differ = np.flatnonzero(image != twin)
            if not len(differ):
                return None
            at = max((low + int(differ[0]) & ~3) - low, 0)
            size = 8 if (image[at + 4:at + 8] != twin[at + 4:at + 8]).any() else 4
            return low + at, self.view[low + at:min(low + at + size, high)].copy(), image[at:at + size]

    def stored_by(self, page: int) -> str:
        return str(self._single[page]) if page in self._single else "the CPU"

    def combining(self, page: int) -> bool:
        """Did a flush find this page's stores in the write-combining buffers?"""
        return any(first <= page < end for first, end in self._combining)

    # ---- the flush, and what engines say

    def flush(self, *, drained: bool = True) -> int:
        """HDP flush: the CPU's stores reach memory. Returns how many pages changed.

        :param drained: the CPU's write-combining buffers are empty; otherwise only the last page of several has left
            them, and one that is alone has not.
        """
        self.flushed_at = time.monotonic()
        self.on_merge()
        if self._image is None or self.gone:
            return 0
        changed: list[np.ndarray] = []
        with self._lock:
            image, twin = self._images()
            gone = len(self._gone)              # nobody stores there any more: after this flush nothing is posted
            stored = self._imaged()
            if not drained:
                stored, held_back = self._still_combining(stored)
            arrival = None if self.gl2 is None else self.gl2.arrival(host())
            for first, end in stored:
                for low in range(first, end, CHUNK):
                    high = min(low + CHUNK, end)
                    if not self._equal(image, twin, low, high):
                        if self.gl2 is None or arrival is None:
                            changed.append(_merge(image, self._memory, twin, low, high))
                        else:
                            changed.append(self._arrive(self.gl2, arrival, low, high))
            if drained:
                self._posted += [self._gone.popleft() for _ in range(gone)]
                self._flushed()
            else:
                self._combining += held_back
        pages = np.unique(np.concatenate(changed)) if changed else np.empty(0, np.int64)
        if len(pages):
            for hook in self.on_flush:
                hook(pages)
        return len(pages)

    def _still_combining(self, stored: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(runs that have left the write-combining buffers, runs of one page that have not)."""
        image, twin = self._images()
        pages = [page for first, end in stored for page in range(first, end)
                 if not self._equal(image, twin, page, page + 1)]
        if not pages:
            return [], []
        last = max(pages)
        out = [(last, last + 1)] if len(pages) > 1 else []
        kept = [(page, page + 1) for page in pages if (page, page + 1) not in out]
        self.lingering += len(kept)
        return out, kept

    def _arrive(self, gl2: Gl2, arrival: Any, low: int, high: int) -> np.ndarray:
        """The CPU's stores to pages of [low, high) reach memory: what GL2 holds keeps its bytes."""
        image, twin = self._images()
        differ = (image.pages[low:high].view(np.uint64) != twin.pages[low:high].view(np.uint64)).any(axis=1)
        held = gl2.holds(low, high)
        for first, end in _runs(np.flatnonzero(differ & ~held) + low):
            gl2.before_change(first, end, arrival.by)
            _merge(image, self._memory, twin, first, end)
        for first, end in _runs(np.flatnonzero(differ & held) + low):
            if not any(gl2.entangled(page) for page in range(first, end)):
                twin.pages[first:end] = image.pages[first:end]
                gl2.waiting.update(dict.fromkeys(range(first, end), arrival))
                continue
            for page in range(first, end):
                before = twin.pages[page].copy()
                twin.pages[page] = image.pages[page]
                gl2.arrived(page, before, arrival)
        return np.flatnonzero(differ) + low

    def _flushed(self) -> None:
        """No store is posted any more."""
        for first, end in self._posted:
            self._release(first, end)
        self._posted.clear()
        self._single.clear()
        self._combining.clear()

    # ---- pages, for GL2 and for those who go past it

    def page(self, number: int) -> np.ndarray:
        """uint8[4096], as GL2's clients see it."""
        return self._memory.pages[number]

    def twin_page(self, number: int) -> np.ndarray | None:
        """What lies in memory; None where nobody outside has ever looked, and it is the same."""
        return self._twin.pages[number] if self._twin is not None and self._has_image(number) else None

    def image_page(self, number: int) -> np.ndarray | None:
        return self._image.pages[number] if self._image is not None and self._has_image(number) else None

    def outside(self, number: int, write: bool, who: str) -> int:
        """Host pointer of a page for an access that goes past GL2 (uncached, from another card, by a table walker)."""
        gl2 = self.gl2
        if gl2 is not None and self._image is not None and self._twin is not None and self._has_image(number):
            dirty = gl2.is_dirty(number)
            if write and (dirty or gl2.marks[number] == gl2.epoch):
                return self._image.base + number * PAGE
            if not write and (dirty or number in gl2.waiting):
                if dirty:
                    gl2.told_dirty(number, who)
                return self._twin.base + number * PAGE
        if write and gl2 is not None:
            gl2.before_change(number, number + 1, current())
        return self.base + number * PAGE

    def image_offset(self, host: int) -> int:
        """Offset in video memory of a pointer that :meth:`outside` gave into the image; -1 for others."""
        if self._image is None or not self._image.base <= host < self._image.base + self.size:
            return -1
        return host - self._image.base

    def store_outside(self, offset: int, size: int) -> None:
        """An access past GL2 stored these bytes to the image: they reach memory."""
        gl2 = self.gl2
        if gl2 is None or self._image is None or self._twin is None:
            return
        with self._lock:
            arrival = gl2.arrival()
            for page in range(offset // PAGE, (offset + size - 1) // PAGE + 1):
                low, high = max(offset, page * PAGE), min(offset + size, (page + 1) * PAGE)
                before = self._twin.pages[page].copy()
                self._twin.bytes[low:high] = self._image.bytes[low:high]
                if gl2.marks[page] == gl2.epoch or gl2.is_dirty(page):
                    gl2.arrived(page, before, arrival)
                else:
                    self._memory.bytes[low:high] = self._image.bytes[low:high]

    def publish_pages(self, pages: np.ndarray) -> None:
        """Engines' stores to these pages (int64[n], ascending) reach memory."""
        self.publish(pages)

    def written(self, offset: int, size: int) -> None:
        """An engine wrote exactly these bytes of memory: the CPU sees them now. Cheap where there is no image."""
        if self._image is None or not size or self.gone:
            return
        first, end = offset // PAGE, (offset + size - 1) // PAGE + 1
        if not self._handed[first:end].any() and not any(first <= page < end for page in self._beside()):
            return
        with self._lock:
            image, twin = self._images()
            data = self.view[offset:offset + size]
            twin.bytes[offset:offset + size] = data
            image.bytes[offset:offset + size] = data

    def publish(self, pages: np.ndarray | None = None) -> None:
        """An engine may have written anywhere in ``pages`` (page numbers; None: anywhere): the CPU sees it now."""
        if self._image is None or self.gone:
            return
        with self._lock:
            image, twin = self._images()
            if pages is None:
                runs: list[tuple[int, int]] = [(p, p + 1) for p in self._single]
                for first, end in self._windows():
                    parts = [m.stored_pages(first, end - first) for m in (self._memory, twin)] \
                        if end - first > 4 else [None]
                    if parts[0] is None or parts[1] is None:
                        runs.append((first, end))
                    else:
                        runs += _runs(np.union1d(parts[0], parts[1]))
            else:
                wanted = np.unique(np.asarray(pages, dtype=np.int64))
                keep = self._handed[wanted] > 0
                if beside := self._beside():
                    keep |= np.isin(wanted, np.fromiter(beside, np.int64))
                runs = list(_runs(wanted[keep]))
            for first, end in runs:
                for low in range(first, end, CHUNK):
                    high = min(low + CHUNK, end)
                    if not self._equal(self._memory, twin, low, high):
                        _merge(self._memory, image, twin, low, high, alone=self._equal(image, twin, low, high))

    def drop_posted(self) -> None:
        """A reset of the card: stores that were not flushed, or not written back, are lost."""
        if self._image is None:
            return
        with self._lock:
            if self.gl2 is not None:
                self.gl2.forget()
            image, twin = self._images()
            for first, end in self._imaged():
                if not self._equal(image, twin, first, end):
                    image.pages[first:end] = self._memory.pages[first:end]
                    twin.pages[first:end] = self._memory.pages[first:end]
            self._flushed()

    def lose(self) -> None:
        """The memory lost its refresh: poison everywhere, for engines and CPU alike, windows included."""
        with self._lock:
            if self.gl2 is not None:
                self.gl2.forget()
            for mapping in (self._memory, self._image, self._twin):
                if mapping is not None:
                    mapping.refill()
            if self._tracker is not None and self._image is not None:   # the new mapping must be watched anew
                self._tracker.close()
                self._tracker = track(self._image.base, self.size)
            self._flushed()

    def vanish(self) -> None:
        """The card left the bus: loads through windows give all ones from now on (the stores are lost)."""
        with self._lock:
            self.gone = True
            if self._image is not None:
                for first, end in self._windows():
                    self._image.pages[first:end] = 0xFF

    def return_(self) -> None:
        """It is back, with its memory."""
        with self._lock:
            self.gone = False
            if self._image is not None:
                for low, high in self._windows():
                    if self._twin is not None:
                        self._image.pages[low:high] = self._memory.pages[low:high]
                        self._twin.pages[low:high] = self._memory.pages[low:high]
                self._flushed()

    def close(self) -> None:
        """Give the memory back; views that are still held keep their own mapping alive."""
        for mapping in (self._memory, self._image, self._twin):
            if mapping is not None:
                mapping.close()
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None
        self.view = np.empty(0, np.uint8)
        self._image = self._twin = None
