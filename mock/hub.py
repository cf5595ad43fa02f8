"""One hub of the memory controller: its registers decoded, translation, faults and invalidation.

The rules and their sources are told in :mod:`mock.gmc`, which makes the two hubs and is what engines talk to.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amdrv import regs
from amdrv.facts import ih, vm
from mock import faultresponse
from mock.actor import CPU, Actor, current
from mock.bus import BusError
from mock.pagetable import (
    PAGE_SHIFT,
    PTE_ADDRESS,
    Context,
    Huge,
    WalkError,
    describe_entry,
    find_table,
    last_level,
)
from mock.tlb import Tlb

if TYPE_CHECKING:
    from mock.gmc import Gmc

__all__ = ["BusFault", "CACHED", "Client", "ENGINES", "FB_SHIFT", "Fault", "Hub", "PAGE", "REACH_BITS", "VA_BITS",
           "VMIDS"]

PAGE = 1 << PAGE_SHIFT
CACHED = 1              # flag in the pointer of a page: its accesses go through GL2 (GC hub, MTYPE other than UC)
VMIDS = 16
ENGINES = 18            # invalidation engines (Linux 6.1, gfxhub_v3_0.c, gfxhub_v3_0_program_invalidation)
VA_BITS = 48
REACH_BITS = 44         # of the host bus (Linux 6.1, gmc_v11_0.c, gmc_v11_0_sw_init: dma_set_mask_and_coherent)
FB_SHIFT = 24           # FB_LOCATION, FB_OFFSET, AGP are in 16 MiB
APERTURE_SHIFT = 18     # SYSTEM_APERTURE_{LOW,HIGH}_ADDR are in 256 KiB
DIRECT = vm.PTE_VALID | vm.PTE_READABLE | vm.PTE_WRITEABLE | vm.PTE_EXECUTABLE
PA_ONLY, USE_SYS_MAP, IN_SYS, NOT_IN_SYS = range(4)         # SYSTEM_ACCESS_MODE

# PERMISSION_FAULTS (Linux, kfd_int_process_v9.c decodes the same bits: valid, read, write; then execute)
PERM_VALID, PERM_READ, PERM_WRITE, PERM_EXECUTE = 1, 2, 4, 8
PERMISSION_KINDS = ((PERM_VALID, "VALID"), (PERM_READ, "READ"), (PERM_WRITE, "WRITE"), (PERM_EXECUTE, "EXECUTE"))
RETRY = "RETRY_PERMISSION_OR_INVALID_PAGE_FAULT"
# What the ring id of a fault says (Linux, kfd_int_process_v11.c, event_interrupt_wq_v11: prot_valid, _read, _write)
RING_VALID, RING_READ, RING_WRITE = 0x08, 0x10, 0x20
IV_WRITE, IV_RETRY = 0x20, 0x80         # in the second word of a fault's IH entry (Linux 6.1, gmc_v10_0.c)


MTYPE_MASK = np.uint64(7)


class Client:
    """UTCL2 client numbers of the GC hub (Linux 6.1, gfxhub_v3_0.c, gfxhub_client_ids), and a few of the MM hub."""

    CPF, CPC, CPG, RLC, TCP, SQC_INST, SQC_DATA = 4, 5, 6, 7, 8, 9, 10
    SDMA0, SDMA1 = 13, 14
    MM_MP0, MM_MP1, MM_OSSSYS, MM_HDP = 6, 7, 15, 16


class Fault(Exception):
    """A translation that failed; when a client sees it, registers are set and the interrupt is out. It must stop."""

    memory_violation = True
    """For :mod:`mock.isa`: a wave's trap handler may take it."""

    def __init__(self, hub: str, vmid: int, address: int, write: bool, why: str) -> None:
        self.hub, self.vmid, self.address, self.write, self.why = hub, vmid, address, write, why
        self.client, self.walker, self.permissions = 0, None, 0     # type: int, int | None, int
        super().__init__(f"{hub.upper()} hub, VMID {vmid}: {'write' if write else 'read'} at {address:#x}: {why}")


class BusFault(Fault):
    """The translation is fine, but nothing answers at the physical address it gives."""


class _Config(NamedTuple):
    """A hub's registers, decoded once after they changed."""

    l1: bool
    l2: bool
    mode: int
    unmapped: int
    advanced: bool
    fb: tuple[int, int]             # page numbers, both included
    fb_offset: int                  # bytes
    agp: tuple[int, int, int]       # first and last page, base in bytes
    aperture: tuple[int, int]       # page numbers
    identity: tuple[int, int, int]  # first and last page, physical offset in bytes
    contexts: tuple[Context, ...]
    plain: bool                     # everything on, as drivers have it
    direct_flag: int                # CACHED, when what goes past the page tables is cached


class Hub:
    def __init__(self, gmc: Gmc, name: str, table: str, prefix: str) -> None:
        self.gmc, self.board, self.name, self.prefix = gmc, gmc.board, name, prefix
        self.table = regs.table(table)
        self.lock = threading.RLock()
        self.strict = gmc.board.gpu.is_strict("tlb")
        self._emptied = (-1, -1)
        self.tlbs: dict[int, Tlb] = {}
        self.clean = [False] * VMIDS
        self.crashed = False
        self.config: _Config | None = None
        self.bus_seen: object = None
        self.held: set[int] = set()             # invalidation engines whose semaphore is taken

    # ---- registers

    def reg(self, name: str) -> int:
        return self.board.regs[self.prefix + name]

    def field(self, name: str, field: str) -> int:
        return self.table[self.prefix + name][field].get(self.reg(name))

    def wide(self, name: str) -> int:
        return self.reg(name + "_LO32") | self.reg(name + "_HI32") << 32

    def _decode(self) -> _Config:
        tlb, page_of_fb = "MC_VM_MX_L1_TLB_CNTL", FB_SHIFT - PAGE_SHIFT
        contexts = []
        for n in range(VMIDS):
            context = f"VM_CONTEXT{n}_"
            cntl = self.reg(context + "CNTL")
            contexts.append(Context(
                enabled=bool(self.field(context + "CNTL", "ENABLE_CONTEXT")),
                depth=self.field(context + "CNTL", "PAGE_TABLE_DEPTH"),
                block=9 + self.field(context + "CNTL", "PAGE_TABLE_BLOCK_SIZE"),
                base=self.wide(context + "PAGE_TABLE_BASE_ADDR"), start=self.wide(context + "PAGE_TABLE_START_ADDR"),
                end=self.wide(context + "PAGE_TABLE_END_ADDR"), cntl=cntl))
        spread = (1 << page_of_fb) - 1
        identity = "VM_L2_CONTEXT1_IDENTITY_APERTURE_"
        aperture = APERTURE_SHIFT - PAGE_SHIFT
        return _Config(
            l1=bool(self.field(tlb, "ENABLE_L1_TLB")), l2=bool(self.field("VM_L2_CNTL", "ENABLE_L2_CACHE")),
            mode=self.field(tlb, "SYSTEM_ACCESS_MODE"), unmapped=self.field(tlb, "SYSTEM_APERTURE_UNMAPPED_ACCESS"),
            advanced=bool(self.field(tlb, "ENABLE_ADVANCED_DRIVER_MODEL")),
            fb=(self.field("MC_VM_FB_LOCATION_BASE", "FB_BASE") << page_of_fb,
                self.field("MC_VM_FB_LOCATION_TOP", "FB_TOP") << page_of_fb | spread),
            fb_offset=self.reg("MC_VM_FB_OFFSET") << FB_SHIFT,
            agp=(self.field("MC_VM_AGP_BOT", "AGP_BOT") << page_of_fb,
                 self.field("MC_VM_AGP_TOP", "AGP_TOP") << page_of_fb | spread,
                 self.field("MC_VM_AGP_BASE", "AGP_BASE") << FB_SHIFT),
            aperture=(self.reg("MC_VM_SYSTEM_APERTURE_LOW_ADDR") << aperture,
                      self.reg("MC_VM_SYSTEM_APERTURE_HIGH_ADDR") << aperture | ((1 << aperture) - 1)),
            identity=(self.wide(identity + "LOW_ADDR"), self.wide(identity + "HIGH_ADDR"),
                      self.wide("VM_L2_CONTEXT_IDENTITY_PHYSICAL_OFFSET") << PAGE_SHIFT),
            contexts=tuple(contexts),
            plain=bool(self.field(tlb, "ENABLE_L1_TLB") and self.field("VM_L2_CNTL", "ENABLE_L2_CACHE")
                       and self.field(tlb, "ENABLE_ADVANCED_DRIVER_MODEL")
                       and self.field(tlb, "SYSTEM_ACCESS_MODE") == NOT_IN_SYS),
            direct_flag=CACHED if self.name == "gc" and self.field(tlb, "MTYPE") != vm.MTYPE_UC else 0)

    def current(self) -> _Config:
        config = self.config
        if config is None:
            config = self.config = self._decode()
        return config

    # ---- translation

    def pages_to_hosts(self, vmid: int, pages: np.ndarray, write: bool, execute: bool, client: int,
                       who: Actor | None = None) -> np.ndarray:
        """uint64[n] page numbers -> uint64[n] host pointers of the pages. ``who`` asks, if not this thread's actor.

        :raises Fault:
        """
        redirected: dict[int, int] = {}         # where a default page answers instead: {page: host}
        told = -1
        wanted = pages
        while len(wanted):
            try:
                if self.board.faults.any and (error := faultresponse.injected(self, vmid, wanted, write, client)):
                    raise error
                found = self._pages_to_hosts(vmid, wanted, write, execute, client, who)
                break
            except Fault as error:
                page = error.address >> PAGE_SHIFT
                again = bool(error.permissions) and bool(self.field(f"VM_CONTEXT{error.vmid}_CNTL", RETRY))
                if not again or page != told:
                    self.report(error, retried=again)   # not under the lock: the interrupt is an access of its own
                told = page
                if faultresponse.retry(self, error):
                    continue
                names = faultresponse.kinds(error.walker, error.permissions, PERMISSION_KINDS)
                host = faultresponse.redirect(self, error, names)
                if host is None:
                    raise
                redirected[page] = host
                wanted = wanted[wanted != np.uint64(page)]
        else:
            found = np.empty(0, np.uint64)
        if redirected:
            hosts = np.empty(len(pages), np.uint64)
            kept = ~np.isin(pages, np.fromiter(redirected, np.uint64))
            hosts[kept] = found
            hosts[~kept] = [redirected[int(page)] for page in pages[~kept]]
            return hosts
        return found

    def page_to_host(self, vmid: int, page: int, write: bool, execute: bool, client: int,
                     who: Actor | None = None) -> int:
        """:meth:`pages_to_hosts` for one page; quick when the TLB has it."""
        config = self.config
        if config is not None and config.plain and not self.crashed and not self.board.faults.any \
                and (self.strict or self._same_packet()):
            if vmid:
                need = vm.PTE_VALID | (vm.PTE_WRITEABLE if write else vm.PTE_READABLE)
                if execute:
                    need |= vm.PTE_EXECUTABLE
                tlb = self.tlbs.get(vmid)
                if tlb is not None and self.board.bus.generation is self.bus_seen:
                    with self.lock:
                        slot = tlb.slot(page)
                        if slot >= 0 and int(tlb.entries[slot]) & need == need and (host := int(tlb.hosts[slot])):
                            if tlb.stale:
                                self.gmc.staleness.tell(self, vmid, page, tlb, who)
                            return host
            elif config.fb[0] <= page <= config.fb[1] and config.aperture[0] <= page <= config.aperture[1] \
                    and (offset := page - config.fb[0] << PAGE_SHIFT) < self.board.vram.size:
                return self.board.vram.base + offset | config.direct_flag
        return int(self.pages_to_hosts(vmid, np.array([page], np.uint64), write, execute, client, who)[0])

    def _same_packet(self, empty: bool = False) -> bool:
        """With rule ``tlb`` off: nothing was decoded since the TLBs were emptied, so that they need not be again.
        ``empty``: they will be."""
        counters = self.board.counters
        now = counters["pm4_packets"], counters["sdma_packets"]
        same = now == self._emptied and self.name == "gc"
        if empty:
            self._emptied = now
        return same

    def peek(self, vmid: int, page: int) -> int:
        """The pointer of a page, with its flag, or 0: no fault, and nobody is told."""
        try:
            return int(self._pages_to_hosts(vmid, np.array([page], np.uint64), False, False, Client.CPC, None)[0])
        except Fault:
            return 0

    def _pages_to_hosts(self, vmid: int, pages: np.ndarray, write: bool, execute: bool, client: int,
                        who: Actor | None) -> np.ndarray:
        config = self.current()
        if self.crashed:
            raise self.fault(vmid, int(pages[0]), write, "the hub crashed at an earlier fault (CRASH_ON_NO_RETRY_FAULT "
                             "is set) and answers nobody until a reset", client, None)
        if not config.advanced:
            vmid = 0
        if vmid == 0 or not config.l1:
            direct = self._direct(config, pages)
            if direct.all():
                return self._direct_hosts(config, vmid, pages, write, client)
            if not config.l1:
                page = int(pages[int(np.argmin(direct))])
                raise self.fault(vmid, page, write, "the L1 TLB is off (MX_L1_TLB_CNTL.ENABLE_L1_TLB), so the address "
                                 "goes out untranslated, and it is not in the frame buffer", client, None)
            if direct.any():
                hosts = np.empty(len(pages), np.uint64)
                hosts[direct] = self._direct_hosts(config, vmid, pages[direct], write, client)
                hosts[~direct] = self._mapped(config, vmid, pages[~direct], write, execute, client, who)
                return hosts
        return self._mapped(config, vmid, pages, write, execute, client, who)

    def _direct(self, config: _Config, pages: np.ndarray) -> np.ndarray:
        """bool[n]: pages of VMID 0 that go past the page tables."""
        if not config.l1:
            return (pages >= np.uint64(config.fb[0])) & (pages <= np.uint64(config.fb[1]))
        low, high = config.aperture
        inside = (pages >= np.uint64(low)) & (pages <= np.uint64(high))
        if config.mode == PA_ONLY:
            return np.ones(len(pages), bool)
        if config.mode == USE_SYS_MAP:
            return np.zeros(len(pages), bool)
        return inside if config.mode == NOT_IN_SYS else ~inside

    def _direct_hosts(self, config: _Config, vmid: int, pages: np.ndarray, write: bool, client: int) -> np.ndarray:
        vram = self.board.vram
        first, last = config.fb
        offsets = (pages - np.uint64(first)) << np.uint64(PAGE_SHIFT)
        in_fb = (pages >= np.uint64(first)) & (pages <= np.uint64(last)) & (offsets < np.uint64(vram.size))
        if in_fb.all():
            return np.uint64(vram.base | config.direct_flag) + offsets
        low, high, base = config.agp
        in_agp = (pages >= np.uint64(low)) & (pages <= np.uint64(high)) & ~in_fb
        lost = ~(in_fb | in_agp)
        if lost.any():
            page = int(pages[int(np.argmax(lost))])
            raise self.fault(vmid, page, write, "in the system aperture, but neither in the frame buffer "
                             f"({first << PAGE_SHIFT:#x}..{(last << PAGE_SHIFT) + PAGE - 1:#x}) nor in AGP",
                             client, None)
        hosts = np.empty(len(pages), np.uint64)
        hosts[in_fb] = np.uint64(vram.base | config.direct_flag) + offsets[in_fb]
        addresses = np.uint64(base) + ((pages[in_agp] - np.uint64(low)) << np.uint64(PAGE_SHIFT))
        hosts[in_agp] = self._bus(addresses, vmid, int(pages[in_agp][0]), write, client)
        return hosts

    def _mapped(self, config: _Config, vmid: int, pages: np.ndarray, write: bool, execute: bool, client: int,
                who: Actor | None) -> np.ndarray:
        need = vm.PTE_VALID | (vm.PTE_WRITEABLE if write else vm.PTE_READABLE)
        if execute:
            need |= vm.PTE_EXECUTABLE
        with self.lock:
            if not config.l2:
                raise self.fault(vmid, int(pages[0]), write, "UTCL2 is off (L2_CNTL.ENABLE_L2_CACHE), nothing "
                                 "translates", client, 1)
            if not self.clean[vmid]:
                raise self.fault(vmid, int(pages[0]), write, "the TLB was never invalidated since power-on "
                                 "(L2_CNTL2.INVALIDATE_ALL_L1_TLBS and INVALIDATE_L2_CACHE)", client, 1)
            tlb = self.tlbs.get(vmid)
            if tlb is None:
                tlb = self.tlbs[vmid] = Tlb()
            self.follow_bus()
            if not self.strict and not self._same_packet(True):
                for each in self.tlbs.values():
                    each.drop(0, None, entries=True, walks=True, block=0)
            slots, hit = tlb.look_up(pages)
            entries, hosts = tlb.entries[slots], tlb.hosts[slots]
            missing = ~hit
            if tlb.stale:
                for page in tlb.stale.keys() & set(pages[hit].tolist()):
                    self.gmc.staleness.tell(self, vmid, page, tlb, who)
            if missing.any():
                wanted = np.unique(pages[missing])
                if tlb.stale_walks:
                    for page in wanted.tolist():
                        self.gmc.staleness.tell_walk(self, vmid, page, page >> config.contexts[vmid].block, tlb, who)
                found = self._walk(config, vmid, tlb, wanted, write, client)
                entries[missing] = found[np.searchsorted(wanted, pages[missing])]
                hosts[missing] = 0
            lacking = entries & np.uint64(need) != np.uint64(need)
            if lacking.any():
                sparse = entries & np.uint64(vm.PTE_PRT) != 0
                really = lacking & ~sparse
                if really.any():
                    at = int(np.argmax(really))
                    raise self._denied(vmid, int(pages[at]), int(entries[at]), need, write, client)
            unknown = hosts == 0
            if unknown.any():
                hosts[unknown] = self._hosts(config, vmid, pages[unknown], entries[unknown], write, client)
                valid = unknown & (entries & np.uint64(vm.PTE_VALID) != 0)
                tlb.fill(pages[valid], entries[valid], hosts[valid])
        return hosts

    def follow_bus(self) -> None:
        """What left the host bus is not reached through old pointers."""
        generation = self.board.bus.generation
        if generation is self.bus_seen:
            return
        with self.lock:
            self.bus_seen = generation
            self.gmc.coherence.bus_changed()
            for vmid, tlb in self.tlbs.items():
                tlb.forget_hosts(vm.PTE_SYSTEM)
                self.gmc.invalidated(self.name, vmid)

    def _walk(self, config: _Config, vmid: int, tlb: Tlb, wanted: np.ndarray, write: bool, client: int) -> np.ndarray:
        """Sorted uint64[n] page numbers -> uint64[n] entries."""
        context = config.contexts[vmid]
        if vmid == 1 and config.identity[0] <= config.identity[1]:
            low, high, offset = config.identity
            within = (wanted >= np.uint64(low)) & (wanted <= np.uint64(high))
            if within.any():
                entries = np.empty(len(wanted), np.uint64)
                base = np.uint64(offset + config.fb_offset | DIRECT)
                entries[within] = (wanted[within] << np.uint64(PAGE_SHIFT)) + base
                if not within.all():
                    entries[~within] = self._walk_tables(context, vmid, tlb, wanted[~within], write, client)
                return entries
        return self._walk_tables(context, vmid, tlb, wanted, write, client)

    def _walk_tables(self, context: Context, vmid: int, tlb: Tlb, wanted: np.ndarray, write: bool, client: int,
                     ) -> np.ndarray:
        entries = np.empty(len(wanted), np.uint64)
        regions = wanted >> np.uint64(context.block)
        cuts = np.flatnonzero(np.diff(regions)) + 1
        for part in np.split(np.arange(len(wanted)), cuts):
            page, region = int(wanted[part[0]]), int(regions[part[0]])
            try:
                found = tlb.walks.get(region)
                if found is None or isinstance(found, Huge):
                    found = find_table(self.gmc.read_entries, context, page)
                    if not isinstance(found, Huge):
                        tlb.walks[region] = found
                elif page > context.end:
                    raise WalkError(None, f"page {page:#x} is beyond the context's end {context.end:#x}")
                part_pages = wanted[part]
                if int(part_pages[-1]) > context.end:
                    raise WalkError(None, f"page {int(part_pages[-1]):#x} is beyond the context's end {context.end:#x}")
                entries[part] = last_level(self.gmc.read_entries, context, found, part_pages)
            except WalkError as error:
                number = 1 if error.level is None else 2 + error.level
                raise self.fault(vmid, page, write, str(error), client, number) from None
            except BusError as error:
                raise self.fault(vmid, page, write, f"the page table itself cannot be read: {error}", client, 6,
                                 kind=BusFault) from None
        return entries

    def _denied(self, vmid: int, page: int, entry: int, need: int, write: bool, client: int) -> Fault:
        permissions = 0
        for bit, flag in ((PERM_VALID, vm.PTE_VALID), (PERM_READ, vm.PTE_READABLE), (PERM_WRITE, vm.PTE_WRITEABLE),
                          (PERM_EXECUTE, vm.PTE_EXECUTABLE)):
            if need & flag and not entry & flag:
                permissions |= bit
        return self.fault(vmid, page, write, f"the entry is {describe_entry(entry)}", client, 0, permissions)

    def _hosts(self, config: _Config, vmid: int, pages: np.ndarray, entries: np.ndarray, write: bool, client: int,
               ) -> np.ndarray:
        """Entries -> host pointers of their pages."""
        hosts = np.empty(len(entries), np.uint64)
        sparse = entries & np.uint64(vm.PTE_VALID) == 0
        hosts[sparse] = self.gmc.sink_page() if write else self.gmc.zero_page()
        system = (entries & np.uint64(vm.PTE_SYSTEM) != 0) & ~sparse
        address = entries & np.uint64(PTE_ADDRESS)
        local = ~system & ~sparse
        offset = address[local] - np.uint64(config.fb_offset)
        if (offset >= np.uint64(self.board.vram.size)).any():
            at = int(np.argmax(offset >= np.uint64(self.board.vram.size)))
            raise self.fault(vmid, int(pages[local][at]), write, f"the entry's address {int(address[local][at]):#x} is "
                             f"beyond the card's {self.board.vram.size:#x} bytes of VRAM", client, None, kind=BusFault)
        hosts[local] = np.uint64(self.board.vram.base) + offset
        if system.any():
            hosts[system] = self._bus(address[system], vmid, int(pages[system][0]), write, client)
        if self.name == "gc":
            mtype = entries >> np.uint64(vm.PTE_MTYPE_SHIFT) & MTYPE_MASK
            hosts += ((mtype != np.uint64(vm.MTYPE_UC)) & ~sparse).astype(np.uint64)        # CACHED
        return hosts

    def _bus(self, addresses: np.ndarray, vmid: int, page: int, write: bool, client: int) -> np.ndarray:
        if (addresses >> np.uint64(REACH_BITS)).any():
            far = int(addresses[int(np.argmax(addresses >> np.uint64(REACH_BITS) != 0))])
            self.board.note("bus-reach", f"bus address {far:#x} does not fit the {REACH_BITS} bits that this card has")
            raise self.fault(vmid, page, write, f"bus address {far:#x} is out of the card's reach "
                             f"({REACH_BITS} bits)", client, None, kind=BusFault)
        try:
            return self.board.dma_many(addresses, PAGE, write=write)
        except BusError as error:
            raise self.fault(vmid, page, write, str(error), client, None, kind=BusFault) from None

    # ---- faults

    def fault(self, vmid: int, page: int, write: bool, why: str, client: int, walker: int | None,
              permissions: int = 0, kind: type[Fault] = Fault) -> Fault:
        """The exception for a client. ``walker`` None: no hub register knows of it (the fabric lost the access)."""
        error = kind(self.name, vmid, page << PAGE_SHIFT, write, why)
        error.client, error.walker, error.permissions = client, walker, permissions
        return error

    def report(self, error: Fault, *, retried: bool = False) -> Fault:
        """Status, address and interrupt, as the hub does it. ``retried``: the client will ask again."""
        self.board.note("page-fault" if type(error) is Fault else "bus-fault", str(error))
        if error.walker is None and isinstance(error, BusFault):
            return error
        page, walker = error.address >> PAGE_SHIFT, error.walker
        status = self.table[self.prefix + "VM_L2_PROTECTION_FAULT_STATUS"]
        name = self.prefix + "VM_L2_PROTECTION_FAULT_"
        store, cntl = self.board.regs, self.table[name + "CNTL"]
        if store[name + "STATUS"] and not cntl["ALLOW_SUBSEQUENT_PROTECTION_FAULT_STATUS_ADDR_UPDATES"].get(
                store[name + "CNTL"]):
            store[name + "STATUS"] = status.replace(store[name + "STATUS"], MORE_FAULTS=1)
        else:
            store[name + "STATUS"] = status.pack(
                WALKER_ERROR=min(walker or 0, 7), PERMISSION_FAULTS=error.permissions,
                MAPPING_ERROR=int(bool(walker)), CID=error.client, RW=int(error.write), VMID=error.vmid)
            store[name + "ADDR_LO32"] = page & 0xFFFFFFFF
            store[name + "ADDR_HI32"] = page >> 32 & 0xF
        if not retried and cntl["CRASH_ON_NO_RETRY_FAULT"].get(store[name + "CNTL"]):
            self.crashed = True
        if retried and not self.field("VM_L2_PROTECTION_FAULT_CNTL2", "ENABLE_RETRY_FAULT_INTERRUPT"):
            return error
        if self._interrupts(error.vmid, walker, error.permissions):
            gc = self.name == "gc"
            self.gmc.interrupt(ih.SOC21_IH_CLIENTID_GFX if gc else ih.SOC21_IH_CLIENTID_VMC,
                               ih.UTCL2_1_0__SRCID__FAULT if gc else ih.VMC_1_0__SRCID__VM_FAULT, vmid=error.vmid,
                               vmid_src=0 if gc else 1, ring_id=RING_VALID | (RING_WRITE if error.write else RING_READ),
                               data=(page & 0xFFFFFFFF, page >> 32 & 0xF | IV_WRITE * error.write | IV_RETRY * retried,
                                     0, 0))
        return error

    def _interrupts(self, vmid: int, walker: int | None, permissions: int) -> bool:
        name = f"VM_CONTEXT{vmid}_CNTL"
        kinds = faultresponse.kinds(walker, permissions, PERMISSION_KINDS)
        return any(self.field(name, f"{kind}_PROTECTION_FAULT_ENABLE_INTERRUPT") for kind in kinds)

    def clear_fault(self) -> None:
        name = self.prefix + "VM_L2_PROTECTION_FAULT_"
        for register in ("STATUS", "ADDR_LO32", "ADDR_HI32"):
            self.board.regs[name + register] = 0

    # ---- invalidation

    def invalidate(self, engine: int, value: int) -> None:
        """INVALIDATE_ENGn_REQ: the VMIDs in the mask forget the engine's address range."""
        name = f"{self.prefix}VM_INVALIDATE_ENG{engine}_"
        request = self.table[name + "REQ"]
        vmids = request["PER_VMID_INVALIDATE_REQ"].get(value)
        first, count = self._range(engine)
        l1, l2 = request["INVALIDATE_L1_PTES"].get(value), request["INVALIDATE_L2_PTES"].get(value)
        walks = all(request[f"INVALIDATE_L2_PDE{n}"].get(value) for n in range(3))
        if self.name == "mm" and engine not in self.held and current().engine == CPU:
            # Linux 7.3 lets the scheduler's firmware make the request and wait, without it (gmc_v11_0_flush_gpu_tlb)
            self.board.note("invalidate-semaphore", f"{name}REQ without its semaphore: the acknowledge may be lost "
                                                    "across power gating")
        if vmids and not (l1 and l2 and walks):
            self.board.note("invalidate-partial", f"{request.describe(value)}: some level keeps what it has")
        self._forget(vmids, first, count, bool(l1 and l2), walks)
        if request["CLEAR_PROTECTION_FAULT_STATUS_ADDR"].get(value):
            self.clear_fault()
        self.board.regs[name + "ACK"] = vmids
        if vmids:
            self.board.counters["tlb_flushes"] += 1
        self.gmc.tables.count()

    def _range(self, engine: int) -> tuple[int, int | None]:
        """(first page, pages or None for all) of ADDR_RANGE."""
        name = f"VM_INVALIDATE_ENG{engine}_ADDR_RANGE"
        page = self.field(name + "_LO32", "LOGI_PAGE_ADDR_RANGE_LO31") | \
            self.field(name + "_HI32", "LOGI_PAGE_ADDR_RANGE_HI5") << 31
        return page_range(page, bool(self.field(name + "_LO32", "S_BIT")))

    def forget(self, vmids: int, page: int, sized: bool, *, entries: bool, walks: bool) -> None:
        """A request that comes with its own range (SDMA's GPUVM_INV)."""
        self._forget(vmids, *page_range(page, sized), entries, walks)

    def _forget(self, vmids: int, first: int, count: int | None, entries: bool, walks: bool) -> None:
        with self.lock:
            config = self.current()
            for vmid in range(VMIDS):
                tlb = self.tlbs.get(vmid)
                if vmids >> vmid & 1:
                    if count is None and entries:
                        self.clean[vmid] = True
                    if tlb is not None:
                        tlb.drop(first, count, entries=entries, walks=walks, block=config.contexts[vmid].block)
        for vmid in range(VMIDS):
            if vmids >> vmid & 1:
                self.gmc.invalidated(self.name, vmid)

    def invalidate_all(self) -> None:
        with self.lock:
            self.tlbs.clear()
            self.clean = [True] * VMIDS
        for vmid in range(VMIDS):
            self.gmc.invalidated(self.name, vmid)

    def reset(self) -> None:
        with self.lock:
            self.tlbs.clear()
            self.clean = [False] * VMIDS
            self.crashed = False
            self.config = None
            self.held.clear()


def page_range(page: int, sized: bool) -> tuple[int, int | None]:
    """(first page, pages, or None for all) of an invalidation's address. The encoding is that of AMD's IOMMU commands:
    with S set, the lowest zero bit of the page number says the size."""
    if not sized:
        return page, 1
    ones = (~page & (page + 1)).bit_length() - 1        # trailing ones
    if ones >= VA_BITS - PAGE_SHIFT:
        return 0, None
    size = 2 << ones
    return page & ~(size - 1), size
