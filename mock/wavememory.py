"""Memory as the waves of one launch see it: through the shaders' caches, GL2 and the tables of a VMID.

Pages, not accesses: native code keeps the pointers it was given, and asks once a page and kind of access. Its threads
ask at the same time; sets take single additions from any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mock.actor import Actor
from mock.caches import CODE, GL0, GL1, GLI, GLK, SCALAR, VECTOR
from mock.hub import CACHED, PAGE, VA_BITS, Client
from mock.isa.dispatch import COHERENT_LOAD, FETCH, LOAD, SCALAR_LOAD, STORE
from mock.pagetable import PAGE_SHIFT

if TYPE_CHECKING:
    from mock.gmc import Gmc

__all__ = ["CodeMemory", "WaveMemory"]

NEAR = 256      # bytes from the first address that scalar loads and fetches of a page are taken to mean
INVALIDATE = {1: GL0, 2: GL1, 4: GLK, 8: GLI}
"""Bits of :data:`mock.isa.dispatch.CACHE_INSTRUCTIONS`."""


class WaveMemory:
    """``reader`` names the launch in notes, ``queue`` is whose it is."""

    def __init__(self, memory: Gmc, vmid: int, reader: Actor, queue: str = "") -> None:
        self.memory, self.vmid, self.reader, self.queue = memory, vmid, reader, queue
        self.coherence, self.caches, self.gl2 = memory.coherence, memory.caches, memory.gl2
        self._hub = memory.hubs["gc"]
        self._base, self._size = memory.board.vram.base, memory.board.vram.size
        self._handed = np.asarray(memory.board.vram.windows)
        self._windows = memory.board.vram.windows
        strict = memory.board.gpu.is_strict
        self._paths: dict[int, tuple[int, ...]] = {
            LOAD: VECTOR if strict("glv") else (), SCALAR_LOAD: SCALAR if strict("glk") else (),
            FETCH: CODE if strict("gli") else (), STORE: (), COHERENT_LOAD: ()}
        self._marks = {kind: tuple((cache, self.caches.marks[cache]) for cache in path)
                       for kind, path in self._paths.items()}
        self.own: set[int] = set()              # pages of video memory that waves stored to through GL2
        self._past: set[int] = set()            # pointers to other pages that they stored to
        self.loaded: set[int] = set()          # pages that no cache held before this launch loaded from them
        self.served = False
        self.coherence.launches.begin(self)
        """Some load got what a cache held, not what is there: pointers for loads must not outlive a store."""

    def page(self, address: int, kind: int) -> int:
        """The pointer for one address. :raises Fault:"""
        page = address >> PAGE_SHIFT
        client = Client.SQC_DATA if kind == SCALAR_LOAD else Client.SQC_INST if kind == FETCH else Client.TCP
        if address >> VA_BITS:
            return int(self.many(np.array([address], np.uint64), kind)[0])
        host = self._hub.page_to_host(self.vmid, page, kind == STORE, False, client, self.reader)
        if self.gl2.count.on:
            self.gl2.count.page(host, kind == STORE)
        inside = address & PAGE - 1
        offset = host - CACHED - self._base
        if not host & CACHED or not 0 <= offset < self._size:
            pointer = self.coherence.settle_one("gc", host, kind == STORE)
            if kind == STORE:
                self._past.add(pointer)
            return pointer + inside
        number = offset >> PAGE_SHIFT
        gl2, caches = self.gl2, self.caches
        if gl2.on:
            gl2.marks[number] = gl2.epoch
            if gl2.waiting:
                gl2.meet(number, kind == STORE)
        if self._windows[number]:
            self._look(number, address, kind)
        if kind == STORE:
            if number not in self.own:
                if number not in self.loaded and caches.held(number):
                    caches.keep(number, self.reader)
                if gl2.on:
                    gl2.dirty_marks[number] = gl2.dirty_epoch
                self.own.add(number)
            return host - CACHED + inside
        epochs = caches.epochs
        for cache, marks in self._marks[kind]:
            if marks[number] == epochs[cache]:
                break
            marks[number] = epochs[cache]
        else:
            self.loaded.add(number)
        if caches.any_copies and number not in self.own:
            path = self._paths[kind]
            found = caches.find(path, number)
            if found is not None:
                caches.tell(path, number, found, address, str(self.reader))
                self.served = True
                return found[0].pointer + inside
        return host - CACHED + inside

    def many(self, addresses: np.ndarray, kind: int) -> np.ndarray:
        """uint64[n] -> uint64[n] pointers; no access crosses a page. :raises Fault:"""
        if len(addresses) == 1 and not int(addresses[0]) >> VA_BITS:
            return np.array([self.page(int(addresses[0]), kind)], np.uint64)
        client = Client.SQC_DATA if kind == SCALAR_LOAD else Client.SQC_INST if kind == FETCH else Client.TCP
        write = kind == STORE
        found = self.memory.pages_to_hosts("gc", self.vmid, addresses, write=write, client=client, who=self.reader)
        if self.gl2.count.on:
            for host in np.unique(found).tolist():
                self.gl2.count.page(host, write)
        offsets = found - np.uint64(self._base | CACHED)
        cached = (found & np.uint64(CACHED) != 0) & (offsets < np.uint64(self._size))
        if cached.all():
            hosts = found - np.uint64(CACHED)
            self._meet(addresses, (offsets >> np.uint64(PAGE_SHIFT)).astype(np.int64), hosts, kind)
        else:
            hosts = self.coherence.settle("gc", found, write)
            if write:
                self._past.update(np.unique(hosts[~cached]).tolist())
            if cached.any():
                own = hosts[cached]
                self._meet(addresses[cached], (offsets[cached] >> np.uint64(PAGE_SHIFT)).astype(np.int64), own, kind)
                hosts[cached] = own
        return hosts + (addresses & np.uint64(PAGE - 1))

    def _meet(self, addresses: np.ndarray, pages: np.ndarray, hosts: np.ndarray, kind: int) -> None:
        """Pages of video memory through the caches; ``hosts`` are replaced where a cache has other bytes."""
        gl2, caches = self.gl2, self.caches
        for page in np.unique(pages[self._handed[pages] > 0]).tolist():
            self._look(page, int(addresses[int(np.argmax(pages == page))]), kind)
        if gl2.on:
            gl2.touch(pages)
        if kind == STORE:
            fresh = set(pages.tolist()) - self.own
            if fresh:
                self.coherence.meet_many(np.array(sorted(fresh - self.loaded), np.int64), True, self.reader)
                if gl2.on:
                    gl2.mark_dirty(pages)
                self.own.update(fresh)
            return
        if gl2.waiting:
            for page in set(pages.tolist()):
                gl2.meet(page, False)
        path = self._paths[kind]
        if path:
            self.loaded.update(caches.load(path, pages).tolist())
        if caches.any_copies and path:
            for page in set(pages.tolist()) - self.own:
                found = caches.find(path, page)
                if found is not None:
                    there = pages == page
                    caches.tell(path, page, found, int(addresses[int(np.argmax(there))]), str(self.reader))
                    hosts[there] = found[0].pointer
                    self.served = True

    def _look(self, number: int, address: int, kind: int) -> None:
        """A load of a page that the CPU has a window on: is what it stored there flushed?"""
        if kind == STORE:
            return
        inside = address & PAGE - 1
        at, size = (inside, min(NEAR, PAGE - inside)) if kind in (SCALAR_LOAD, FETCH) else (0, PAGE)
        self.coherence.posted.look((number << PAGE_SHIFT) + at, size, address - inside + at, self.reader)

    def invalidate(self, bits: int) -> None:
        """Cache instructions of waves, by the bits of :data:`mock.isa.dispatch.CACHE_INSTRUCTIONS`."""
        for bit, cache in INVALIDATE.items():
            if bits & bit:
                self.caches.invalidate(cache)

    def publish(self) -> None:
        """The launch has run: what its stores went to past GL2 is in memory."""
        past = np.array(sorted(self._past), np.uint64)
        self._past.clear()
        if len(past):
            self.memory.publish(past)
        self.coherence.launches.end(self.queue, self)

    def complete(self) -> None:
        """The launch has ended, as packets know it: its other stores are in GL2."""
        own = np.array(sorted(self.own), np.int64)
        if len(own):
            self.memory.tables.stored_pages(self.own)
            if self.gl2.on:
                self.gl2.stored(own, self.reader)
            else:
                self.memory.board.vram.publish(own)


class CodeMemory:
    """The same memory as instructions are fetched from it."""

    def __init__(self, waves: WaveMemory) -> None:
        self._waves = waves

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        return self._waves.many(np.asarray(addresses, np.uint64), FETCH)
