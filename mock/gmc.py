"""The memory controller: both hubs (GC for shaders, CP and SDMA; MM for PSP, SMU, IH), their TLBs, faults and flushes.

Facts: Linux 6.1, gfxhub_v3_0.c, mmhub_v3_0.c, gmc_v11_0.c; register fields from gc_11_0_0 and mmhub_3_0_0; modes of
MX_L1_TLB_CNTL by AMD's older name for the same fields (Linux, rv770d.h: SYSTEM_ACCESS_MODE PA_ONLY 0, USE_SYS_MAP 1,
IN_SYS 2, NOT_IN_SYS 3; UNMAPPED_ACCESS PASS_THRU 0, DEFAULT_PAGE 1).

What is strict here:

* A TLB serves what it has until the invalidation engine is asked, for the right VMID and range, with L1 and L2.
* After power-on the TLBs hold nothing sensible: L2_CNTL2.INVALIDATE_ALL_L1_TLBS and INVALIDATE_L2_CACHE come first.
* ENABLE_L1_TLB off: clients put their addresses on the fabric untranslated; only the frame buffer answers.
  ENABLE_L2_CACHE off: nobody answers the L1. ENABLE_ADVANCED_DRIVER_MODEL off: every client is VMID 0.
* VMID 0 reaches the frame buffer directly only inside of the system aperture, in mode NOT_IN_SYS.
* Context 1's identity aperture is open from power-on (page 0), until LOW is above HIGH.
* What the tables call cached goes through GL2, and what waves load through their caches (:mod:`mock.coherence`,
  :mod:`mock.gl2`, :mod:`mock.caches`); walks, the MM hub's clients, and pages of MTYPE UC go past them.
* A fault stops the client that made it: UTCL2 answers "no retry" (RETRY_PERMISSION_OR_INVALID_PAGE_FAULT is 0 in
  amdgpu's default). STATUS and ADDR keep the first fault until cleared; later ones only set MORE_FAULTS.
  The interrupt follows CONTEXTn_CNTL's *_ENABLE_INTERRUPT bits. WALKER_ERROR's values are not published: here 1 is
  range, 2 to 4 are PDB0 to PDB2, 5 translate-further.

Inert, performance only: L2_CNTL3 (bank select, big-K sizes), L2_CNTL5 (fragment sizes), fragments in entries,
L2_CNTL's cache modes, MX_L1_TLB_CNTL.ECO_BITS, FAULT_CNTL2.ACTIVE_PAGE_MIGRATION_PTE_READ_RETRY (no migration),
MM_ATC_L2_MISC_CG and the other clock gates, GL1C_UTCL0_CNTL1 and SQG_CONFIG (answers to XNACK, which never comes).
Inert on a card without a virtual function: L2_CNTL4's VMC_TAP_*_REQUEST_PHYSICAL for tables in VRAM.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from amdrv.facts import vm
from mock.actor import Actor, current
from mock.block import Block
from mock.bus import BusError
from mock.coherence import Coherence, page_view
from mock.hub import ENGINES, FB_SHIFT, PAGE, REACH_BITS, VA_BITS, VMIDS, BusFault, Client, Fault, Hub
from mock.pagetable import ENTRY_BYTES, PAGE_SHIFT
from mock.staleness import Staleness
from mock.tablecount import TableCount

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Client", "Fault", "BusFault", "Gmc", "PAGE", "ENGINES", "VMIDS"]

MTYPE_MASK = 7
PAGE_MASK = np.uint64(PAGE - 1)
LOOK_AT = 64            # entries of one walk that are looked at one by one
CHUNK = 4096            # pages translated at a time in bulk, well below the TLB's slots


class Gmc(Block):
    """``board.memory``. Hubs are named "gc" and "mm"."""

    ip = "GC"
    # gc_11_0_0_default.h; FB_LOCATION is what the card's firmware posts (set in reset, by the size of VRAM)
    reset_values: ClassVar[Mapping[str, int]] = {f"{p}{name}": value for p in ("GC", "MM") for name, value in (
        ("VM_L2_CNTL", 0x00080602), ("VM_L2_CNTL3", 0x80120007), ("VM_L2_CNTL4", 0x000000C1), ("VM_L2_CNTL5", 0x3FE0),
        ("VM_L2_PROTECTION_FAULT_CNTL", 0x3FFFFFFC), ("VM_L2_PROTECTION_FAULT_CNTL2", 0x000A0000),
        ("MC_VM_MX_L1_TLB_CNTL", 0x00000501))}
    FB_BASE = 0x8000_0000_00        # where amdgpu's traces of Navi 3x have it: 512 GiB

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.hubs = {"gc": Hub(self, "gc", "gc_11_0_0", "GC"), "mm": Hub(self, "mm", "mmhub_3_0_0", "MM")}
        self._qwords = np.frombuffer(board.vram.view, dtype=np.uint64)
        self._spare = np.zeros(3 * PAGE, np.uint8)
        self._generations = {hub: [0] * VMIDS for hub in self.hubs}
        self.on_invalidate: list[Callable[[str, int], None]] = []
        """Called with (hub, vmid) after a TLB forgot something: software TLBs above this one follow."""
        self.staleness = Staleness(self)
        self.tables = TableCount(board, self)
        board.after_flush.append(self.tables.count)
        self.coherence = Coherence(board, self)
        self.gl2, self.caches = self.coherence.gl2, self.coherence.caches

    # ---- the engines' side

    def translate(self, hub: str, vmid: int, addresses: np.ndarray | Sequence[int], *, write: bool, nbytes: int = 1,
                  execute: bool = False, client: int = Client.TCP) -> np.ndarray:
        """uint64[n] GPU virtual addresses of ``nbytes`` each -> uint64[n] host pointers.

        An access that crosses a page must find both pages next to each other on the host; use :meth:`runs` for
        stretches of memory. :raises Fault: after the fault was reported.
        """
        addresses = np.asarray(addresses, np.uint64)
        if not len(addresses):
            return addresses.copy()
        if len(addresses) == 1 and not (address := int(addresses[0])) >> VA_BITS \
                and (address & PAGE - 1) + nbytes <= PAGE:
            found = self.hubs[hub].page_to_host(vmid, address >> PAGE_SHIFT, write, execute, client)
            host = self.coherence.settle_one(hub, found, write)
            return np.array([host + (address & PAGE - 1)], np.uint64)
        pointers = self.pages_to_hosts(hub, vmid, addresses, write=write, execute=execute, client=client)
        hosts = self.coherence.settle(hub, pointers, write)
        inside = addresses & PAGE_MASK
        if nbytes > 1:
            crossing = inside + np.uint64(nbytes - 1) >= np.uint64(PAGE)
            if crossing.any():
                for address in addresses[crossing]:
                    if len(self.runs(hub, vmid, int(address), nbytes, write=write, client=client)) != 1:
                        raise ValueError(f"an access of {nbytes} bytes at {int(address):#x} crosses a page and is not "
                                         "contiguous on the host; split it")
        return hosts + inside

    def pages_to_hosts(self, hub: str, vmid: int, addresses: np.ndarray, *, write: bool, execute: bool = False,
                       client: int = Client.TCP, who: Actor | None = None) -> np.ndarray:
        """Addresses uint64[n] -> pointers to the pages that hold them, with the flag CACHED. :raises Fault:"""
        pages = self._pages(hub, vmid, addresses, write)
        the_hub = self.hubs[hub]
        if len(pages) > CHUNK:
            unique, inverse = np.unique(pages, return_inverse=True)
            hosts: np.ndarray = np.concatenate([
                the_hub.pages_to_hosts(vmid, unique[i:i + CHUNK], write, execute, client, who)
                for i in range(0, len(unique), CHUNK)])[inverse]
            return hosts
        return the_hub.pages_to_hosts(vmid, pages, write, execute, client, who)

    def _pages(self, hub: str, vmid: int, addresses: np.ndarray, write: bool) -> np.ndarray:
        """Page numbers of 48-bit addresses; bits 63:48 must repeat bit 47 (the VM hole)."""
        top = addresses >> np.uint64(VA_BITS - 1)
        hole = (top != 0) & (top != np.uint64(0x1FFFF)) & (top != 1)
        if hole.any():
            address = int(addresses[int(np.argmax(hole))])
            the_hub = self.hubs[hub]
            raise the_hub.report(the_hub.fault(vmid, address >> PAGE_SHIFT, write, f"{address:#x} is no 48-bit address "
                                               "(VM hole)", Client.TCP, 1))
        return (addresses >> np.uint64(PAGE_SHIFT)) & np.uint64((1 << (VA_BITS - PAGE_SHIFT)) - 1)

    def runs(self, hub: str, vmid: int, address: int, nbytes: int, *, write: bool, client: int = Client.TCP,
             execute: bool = False, poll: bool = False) -> list[tuple[int, int]]:
        """[(host pointer, bytes)] of a stretch of GPU memory, in order, neighbours merged.

        :param poll: it may be read before what the CPU stored there was flushed.
        :raises Fault:
        """
        if nbytes <= 0:
            return []
        first, last = address >> PAGE_SHIFT, address + nbytes - 1 >> PAGE_SHIFT
        if first == last and not address >> VA_BITS:
            found = self.hubs[hub].page_to_host(vmid, first, write, execute, client)
            if self.gl2.count.on and hub == "gc":
                self.gl2.count.asked(np.array([found], np.uint64), address, nbytes, write)
            host = self.coherence.settle_one(hub, found, write) + (address & PAGE - 1)
            if not write and not poll and 0 <= (offset := host - self.board.vram.base) < self.board.vram.size:
                self.coherence.posted.look(offset, nbytes, address)
            return [(host, nbytes)]
        self._pages(hub, vmid, np.array([address, address + nbytes - 1], np.uint64), write)
        the_hub = self.hubs[hub]
        limit = (1 << (VA_BITS - PAGE_SHIFT)) - 1
        hosts = np.concatenate([the_hub.pages_to_hosts(
            vmid, np.arange(at, min(at + CHUNK, last + 1), dtype=np.uint64) & np.uint64(limit), write, execute, client)
            for at in range(first, last + 1, CHUNK)])
        if self.gl2.count.on and hub == "gc":
            self.gl2.count.asked(hosts, address, nbytes, write)
        hosts = self.coherence.settle(hub, hosts, write)
        cuts = np.flatnonzero(np.diff(hosts) != np.uint64(PAGE)) + 1
        starts = np.concatenate([[0], cuts])
        ends = np.concatenate([cuts, [len(hosts)]])
        result = []
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            low = address if start == 0 else (first + start) << PAGE_SHIFT
            high = address + nbytes if end == len(hosts) else (first + end) << PAGE_SHIFT
            host = int(hosts[start]) + (low & PAGE - 1 if start == 0 else 0)
            result.append((host, high - low))
            if not write and not poll and 0 <= (offset := host - self.board.vram.base) < self.board.vram.size:
                self.coherence.posted.look(offset, high - low, low)
        return result

    def check_atomic(self, hub: str, vmid: int, addresses: np.ndarray | Sequence[int], *, client: int) -> None:
        """An atomic operation on uncached system memory is a PCIe AtomicOp, which the root complex takes only from a
        function with AtomicOp Requester Enable (Linux, pci_enable_atomic_ops_to_root). :raises BusFault:"""
        if self.board.config.atomics_enabled:
            return
        addresses = np.asarray(addresses, np.uint64)
        self.translate(hub, vmid, addresses, write=True, client=client)
        the_hub = self.hubs[hub]
        tlb = the_hub.tlbs.get(vmid)
        if tlb is None:
            return
        pages = self._pages(hub, vmid, addresses, True)
        slots, hit = tlb.look_up(pages)
        entries = tlb.entries[slots]
        mtype = entries >> np.uint64(vm.PTE_MTYPE_SHIFT) & np.uint64(MTYPE_MASK)
        refused = hit & (entries & np.uint64(vm.PTE_SYSTEM) != 0) & (mtype == np.uint64(vm.MTYPE_UC))
        if refused.any():
            page = int(pages[int(np.argmax(refused))])
            self.board.note("pcie-atomics", f"AtomicOp to host memory at {page << PAGE_SHIFT:#x} (VMID {vmid}) while "
                                            "AtomicOp Requester Enable of Device Control 2 is off")
            raise the_hub.report(the_hub.fault(vmid, page, True, "the host bus takes no AtomicOps from this function",
                                               client, None, kind=BusFault))

    def read(self, hub: str, vmid: int, address: int, nbytes: int, *, client: int = Client.CPC, poll: bool = False,
             ) -> bytes:
        """:raises Fault:"""
        return b"".join(ctypes.string_at(host, size)
                        for host, size in self.runs(hub, vmid, address, nbytes, write=False, client=client, poll=poll))

    def write(self, hub: str, vmid: int, address: int, data: bytes | bytearray | memoryview, *,
              client: int = Client.CPC, through: bool = True) -> None:
        """:param through: past GL2, into memory as well (cache policy BYPASS).

        :raises Fault: before anything was written.
        """
        data = bytes(data)
        at = 0
        for host, size in self.runs(hub, vmid, address, len(data), write=True, client=client):
            (ctypes.c_char * size).from_address(host).raw = data[at:at + size]
            self.written(host, size, through=through)
            at += size

    def read_words(self, hub: str, vmid: int, address: int, count: int, *, client: int = Client.CPC) -> np.ndarray:
        """uint32[count]."""
        return np.frombuffer(self.read(hub, vmid, address, 4 * count, client=client), np.uint32)

    def written(self, host: int, nbytes: int, *, through: bool = True) -> None:
        """An engine stored ``nbytes`` at a host pointer: what lies in a card's VRAM becomes visible to the CPU.

        :param through: False for stores that stay in GL2 until they are written back.
        """
        vram, gl2 = self.board.vram, self.gl2
        if vram.base <= host < vram.base + vram.size:
            offset = host - vram.base
            self.tables.stored(offset >> PAGE_SHIFT, (offset + nbytes - 1 >> PAGE_SHIFT) + 1)
            if through or not gl2.on:
                vram.written(offset, nbytes)
            else:
                gl2.stored(np.arange(offset >> PAGE_SHIFT, (offset + nbytes - 1 >> PAGE_SHIFT) + 1), current())
            return
        if through and gl2.through(host, nbytes):
            return
        for board in self.board.bus.boards or [self.board]:
            vram = board.vram
            if vram.base <= host < vram.base + vram.size:
                vram.written(host - vram.base, nbytes)
            elif (offset := vram.image_offset(host)) >= 0:
                vram.store_outside(offset, nbytes)

    def publish(self, host_pages: np.ndarray) -> None:
        """A kernel may have stored anywhere in these pages (host pointers), past GL2: the CPU sees it."""
        for board in {id(b): b for b in [self.board, *self.board.bus.boards]}.values():
            base, size = np.uint64(board.vram.base), np.uint64(board.vram.size)
            inside = (host_pages >= base) & (host_pages < base + size)
            if inside.any():
                board.vram.publish(((host_pages[inside] - base) >> np.uint64(PAGE_SHIFT)).astype(np.int64))
            if board.vram.gl2 is not None:
                for host in host_pages[~inside].tolist():
                    if (offset := board.vram.image_offset(int(host))) >= 0:
                        board.vram.store_outside(offset, PAGE)

    # ---- the walker's side

    def read_entries(self, addresses: np.ndarray, system: bool) -> np.ndarray:
        """Page-table entries at physical addresses, uint64[n] -> uint64[n]. :raises BusError:"""
        if not system:
            offset = addresses - np.uint64(self.hubs["gc"].current().fb_offset)
            if (offset >= np.uint64(self.board.vram.size)).any():
                raise BusError(int(addresses[int(np.argmax(offset))]), ENTRY_BYTES, "beyond the card's VRAM")
            values: np.ndarray = self._qwords[(offset >> np.uint64(3)).astype(np.int64)]
            self._look_at_entries(offset)
            return self._entries_in_memory(offset, values) if self.gl2.differs else values
        if (addresses >> np.uint64(REACH_BITS)).any():
            raise BusError(int(addresses.max()), ENTRY_BYTES, f"beyond the {REACH_BITS} bits that the card reaches")
        hosts = self.board.dma_many(addresses, ENTRY_BYTES, write=False)
        return np.array([ctypes.c_uint64.from_address(int(host)).value for host in hosts], np.uint64)

    def _look_at_entries(self, offsets: np.ndarray) -> None:
        """Entries that a walker reads: did the CPU store there without a flush?"""
        windows, who = self.board.vram.windows, current()
        reader = Actor(f"a table walk for {who.engine}", who.doing, who.seconds)
        first, count = int(offsets[0]), len(offsets)
        if int(offsets[-1]) - first == ENTRY_BYTES * (count - 1):
            if windows[first >> PAGE_SHIFT]:
                self.coherence.posted.look(first, ENTRY_BYTES * count, first, reader)
            return
        for offset in offsets[:LOOK_AT].tolist():
            if windows[offset >> PAGE_SHIFT]:
                self.coherence.posted.look(offset, ENTRY_BYTES, offset, reader)

    def _entries_in_memory(self, offsets: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The walker goes past GL2."""
        vram = self.board.vram
        pages = (offsets >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        for page in np.unique(pages).tolist():
            pointer = vram.outside(page, False, "a table walk")
            if pointer != vram.base + page * PAGE:
                there = pages == page
                entries = page_view(pointer).view(np.uint64)
                values[there] = entries[((offsets[there] & PAGE_MASK) >> np.uint64(3)).astype(np.int64)]
        return values

    def zero_page(self) -> int:
        base = -(-int(self._spare.ctypes.data) // PAGE) * PAGE
        ctypes.memset(base, 0, PAGE)
        return base

    def sink_page(self) -> int:
        return self.zero_page() + PAGE

    def interrupt(self, client: int, source: int, **rest: Any) -> None:
        self.board.ih.post(client, source, **rest)

    def generation(self, hub: str, vmid: int) -> int:
        """How often the TLB of a VMID forgot something, or the host bus changed under it."""
        self.hubs[hub].follow_bus()
        return self._generations[hub][vmid]

    def invalidated(self, hub: str, vmid: int) -> None:
        self._generations[hub][vmid] += 1
        for function in self.on_invalidate:
            function(hub, vmid)

    # ---- registers

    def handlers(self) -> Iterator[tuple[str, str, Callable[..., Any]]]:
        for hub in self.hubs.values():
            p = hub.prefix
            plain = ["VM_L2_CNTL", *(f"MC_VM_{name}" for name in (
                "MX_L1_TLB_CNTL", "FB_LOCATION_BASE", "FB_LOCATION_TOP", "FB_OFFSET", "AGP_BASE", "AGP_BOT", "AGP_TOP",
                "SYSTEM_APERTURE_LOW_ADDR", "SYSTEM_APERTURE_HIGH_ADDR"))]
            plain += [f"VM_L2_CONTEXT{name}_{half}32" for half in ("LO", "HI") for name in (
                "1_IDENTITY_APERTURE_LOW_ADDR", "1_IDENTITY_APERTURE_HIGH_ADDR", "_IDENTITY_PHYSICAL_OFFSET")]
            for n in range(VMIDS):
                plain.append(f"VM_CONTEXT{n}_CNTL")
                plain += [f"VM_CONTEXT{n}_PAGE_TABLE_{kind}_ADDR_{half}32" for kind in ("START", "END")
                          for half in ("LO", "HI")]

            def changed(value: int, hub: Hub = hub) -> None:
                hub.config = None
                self.tables.roots_changed = True
            for name in plain:
                yield "write", p + name, _bind(changed)
            for n in range(VMIDS):
                for half in ("LO", "HI"):
                    yield "write", f"{p}VM_CONTEXT{n}_PAGE_TABLE_BASE_ADDR_{half}32", _bind(
                        lambda _, hub=hub, n=n, changed=changed: self._root(hub, n, changed))
            yield "write", p + "VM_L2_CNTL2", _bind(lambda value, hub=hub: self._l2_cntl2(hub, value))
            yield "write", p + "VM_L2_PROTECTION_FAULT_CNTL", _bind(lambda value, hub=hub: self._fault_cntl(hub, value))
            for n in range(ENGINES):
                name = f"{p}VM_INVALIDATE_ENG{n}_"
                yield "write", name + "REQ", _bind(lambda value, hub=hub, n=n: hub.invalidate(n, value))
                yield "write", name + "SEM", _bind(lambda value, hub=hub, n=n: self._release(hub, n, value))
                yield "read", name + "SEM", _source(lambda hub=hub, n=n: self._acquire(hub, n))

    def _root(self, hub: Hub, vmid: int, changed: Callable[[int], None]) -> None:
        changed(0)
        self.staleness.root_changed(hub, vmid)

    def _l2_cntl2(self, hub: Hub, value: int) -> None:
        register = hub.table[hub.prefix + "VM_L2_CNTL2"]
        if register["INVALIDATE_ALL_L1_TLBS"].get(value) and register["INVALIDATE_L2_CACHE"].get(value):
            hub.invalidate_all()

    def _fault_cntl(self, hub: Hub, value: int) -> None:
        register = hub.table[hub.prefix + "VM_L2_PROTECTION_FAULT_CNTL"]
        if register["CLEAR_PROTECTION_FAULT_STATUS_ADDR"].get(value):
            hub.clear_fault()

    def _acquire(self, hub: Hub, engine: int) -> int:
        """A read of 1 means that the semaphore is the reader's now (gmc_v11_0.c, gmc_v11_0_flush_vm_hub)."""
        with hub.lock:
            if engine in hub.held:
                return 0
            hub.held.add(engine)
            return 1

    def _release(self, hub: Hub, engine: int, value: int) -> None:
        with hub.lock:
            if not value & 1:
                hub.held.discard(engine)

    def reset(self) -> None:
        top = self.FB_BASE + self.board.vram.size - 1
        for hub in self.hubs.values():
            hub.reset()
            self.board.regs[hub.prefix + "MC_VM_FB_LOCATION_BASE"] = self.FB_BASE >> FB_SHIFT
            self.board.regs[hub.prefix + "MC_VM_FB_LOCATION_TOP"] = top >> FB_SHIFT
            hub.config = None
        self.tables.reset()
        self.coherence.forget()
        for name in self.hubs:
            for vmid in range(VMIDS):
                self.invalidated(name, vmid)

    def stop(self) -> None:
        self._qwords = np.empty(0, np.uint64)


def _bind(function: Callable[..., None]) -> Callable[[int], None]:
    def handler(value: int) -> None:
        function(value)
    return handler


def _source(function: Callable[..., int]) -> Callable[[], int]:
    def handler() -> int:
        return function()
    return handler
