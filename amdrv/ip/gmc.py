"""GMC: two hubs translate addresses, MM for PSP, IH and media, GC for the graphics core and SDMA.

Both walk the same page tables. VMID 0 is the card's own: it sees VRAM through the system aperture and everything
else through the tables. Queues run as :data:`QUEUE_VMID`, which sees nothing but the tables: a stray pointer faults
instead of finding the page tables. Other VMIDs stay disabled (Linux enables all sixteen, for many processes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amdrv.errors import BootError
from amdrv.memory import ADDRESS_BASE, ADDRESS_SIZE
from amdrv.mmu.pte import MTYPE, VALID
from amdrv.regs import BoundRegister
from amdrv.wait import wait_until

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["Gmc", "Hub", "KERNEL_VMID", "QUEUE_VMID"]

KERNEL_VMID = 0
QUEUE_VMID = 8              # the first that Linux gives to compute processes (gmc_v11_0.c, first_kfd_vmid)

PAGE_TABLE_DEPTH = 3        # directories above the leaves: PDB2, PDB1, PDB0
LAST_PAGE = (1 << 48 - 12) - 1
INVALIDATE_ENGINE = 17      # gmc_v11_0_flush_vm_hub: the engine that Linux keeps for itself
WHOLE_RANGE = (0xFFFF_FFFF, 0x1F)       # gfxhub_v3_0_program_invalidation
FLUSH_TIMEOUT = 1.0

# Values after reset that Linux writes back with some fields changed: gc_11_0_0_default.h, mmhub_v3_0.c
L2_CNTL3_DEFAULT = {"GC": 0x80120007, "MM": 0x80100007}
L2_CNTL4_DEFAULT = 0x000000C1
L2_CNTL5_DEFAULT = 0x00003FE0

FAULTS = ("RANGE", "DUMMY_PAGE", "PDE0", "VALID", "READ", "WRITE", "EXECUTE")
DEFAULT_PAGE_FAULTS = ("RANGE", "PDE0", "PDE1", "PDE2", "TRANSLATE_FURTHER", "NACK", "DUMMY_PAGE", "VALID", "READ",
                       "WRITE", "EXECUTE")


class Hub:
    """One hub's registers: the same set under two prefixes (gfxhub_v3_0.c, mmhub_v3_0.c)."""

    def __init__(self, device: Device, prefix: str) -> None:
        self.device, self.regs, self.prefix = device, device.regs, prefix
        self.name = {"GC": "gc", "MM": "mm"}[prefix]
        self.active = False

    def vm(self, name: str) -> BoundRegister:
        return self.regs[f"{self.prefix}VM_{name}"]

    def mc(self, name: str) -> BoundRegister:
        return self.regs[f"{self.prefix}MC_VM_{name}"]

    def enable(self) -> None:
        """gfxhub_v3_0_gart_enable, mmhub_v3_0_gart_enable, then set_fault_enable_default."""
        for vmid in (KERNEL_VMID, QUEUE_VMID):
            self._point_at_tables(vmid)
        self._system_aperture()
        self._tlb()
        self._cache()
        self._identity_aperture_off()
        for vmid in (KERNEL_VMID, QUEUE_VMID):
            self._enable_context(vmid)
        low, high = WHOLE_RANGE
        self.vm(f"INVALIDATE_ENG{INVALIDATE_ENGINE}_ADDR_RANGE_LO32").write(low)
        self.vm(f"INVALIDATE_ENG{INVALIDATE_ENGINE}_ADDR_RANGE_HI32").write(high)
        self.vm("L2_PROTECTION_FAULT_CNTL").update(
            **{f"{fault}_PROTECTION_FAULT_ENABLE_DEFAULT": 1 for fault in DEFAULT_PAGE_FAULTS})
        self.active = True
        if self.faulted():
            self.take_fault()       # of an engine that the owner before us had not quite stopped

    def _point_at_tables(self, vmid: int) -> None:
        base = self.device.require_memory().tables.root | VALID
        context = f"CONTEXT{vmid}_PAGE_TABLE_"
        self.vm(context + "BASE_ADDR_LO32").write(base & 0xFFFF_FFFF)
        self.vm(context + "BASE_ADDR_HI32").write(base >> 32)
        self.vm(context + "START_ADDR_LO32").write(0)
        self.vm(context + "START_ADDR_HI32").write(0)
        self.vm(context + "END_ADDR_LO32").write(LAST_PAGE & 0xFFFF_FFFF)
        self.vm(context + "END_ADDR_HI32").write(LAST_PAGE >> 32)

    def _system_aperture(self) -> None:
        """init_system_aperture_regs: VMID 0 reaches VRAM at its place in the card's own address space."""
        gmc = self.device.gmc
        self.mc("AGP_BASE").write(0)
        self.mc("AGP_BOT").write(0x00FF_FFFF)                   # bottom above top: no AGP aperture
        self.mc("AGP_TOP").write(0)
        self.mc("SYSTEM_APERTURE_LOW_ADDR").write(gmc.fb_start >> 18)
        self.mc("SYSTEM_APERTURE_HIGH_ADDR").write(gmc.fb_end >> 18)
        self.mc("SYSTEM_APERTURE_DEFAULT_ADDR_LSB").write(gmc.scratch_page >> 12 & 0xFFFF_FFFF)
        self.mc("SYSTEM_APERTURE_DEFAULT_ADDR_MSB").write(gmc.scratch_page >> 44)
        self.vm("L2_PROTECTION_FAULT_DEFAULT_ADDR_LO32").write(gmc.dummy_page >> 12 & 0xFFFF_FFFF)
        self.vm("L2_PROTECTION_FAULT_DEFAULT_ADDR_HI32").write(gmc.dummy_page >> 44)
        self.vm("L2_PROTECTION_FAULT_CNTL2").update(active_page_migration_pte_read_retry=1)

    def _tlb(self) -> None:
        """init_tlb_regs"""
        self.mc("MX_L1_TLB_CNTL").update(enable_l1_tlb=1, system_access_mode=3, enable_advanced_driver_model=1,
                                         system_aperture_unmapped_access=0, eco_bits=0, mtype=MTYPE.UC)

    def _cache(self) -> None:
        """init_cache_regs"""
        self.vm("L2_CNTL").update(enable_l2_cache=1, enable_l2_fragment_processing=0,
                                  enable_default_page_out_to_system_memory=1, l2_pde0_cache_tag_generation_mode=0,
                                  pde_fault_classification=0, context1_identity_access_mode=1,
                                  identity_mode_fragment_size=0)
        self.vm("L2_CNTL2").update(invalidate_all_l1_tlbs=1, invalidate_l2_cache=1)
        self.vm("L2_CNTL3").write(L2_CNTL3_DEFAULT[self.prefix], bank_select=9, l2_cache_bigk_fragment_size=6)
        self.vm("L2_CNTL4").write(L2_CNTL4_DEFAULT, vmc_tap_pde_request_physical=0, vmc_tap_pte_request_physical=0)
        self.vm("L2_CNTL5").write(L2_CNTL5_DEFAULT, l2_cache_smallk_fragment_size=0)

    def _identity_aperture_off(self) -> None:
        """disable_identity_aperture: its low end above its high end."""
        aperture = "L2_CONTEXT1_IDENTITY_APERTURE_"
        self.vm(aperture + "LOW_ADDR_LO32").write(0xFFFF_FFFF)
        self.vm(aperture + "LOW_ADDR_HI32").write(0xF)
        self.vm(aperture + "HIGH_ADDR_LO32").write(0)
        self.vm(aperture + "HIGH_ADDR_HI32").write(0)
        self.vm("L2_CONTEXT_IDENTITY_PHYSICAL_OFFSET_LO32").write(0)
        self.vm("L2_CONTEXT_IDENTITY_PHYSICAL_OFFSET_HI32").write(0)

    def _enable_context(self, vmid: int) -> None:
        """setup_vmid_config, and the interrupts of amdgpu_gmc_set_vm_fault_masks: faults are reported, not retried."""
        faults = {f"{fault}_PROTECTION_FAULT_ENABLE_{what}": 1 for fault in FAULTS for what in ("DEFAULT", "INTERRUPT")}
        self.vm(f"CONTEXT{vmid}_CNTL").write(enable_context=1, page_table_depth=PAGE_TABLE_DEPTH,
                                             page_table_block_size=0,
                                             retry_permission_or_invalid_page_fault=0, **faults)

    def disable(self) -> None:
        """gart_disable"""
        self.active = False
        for vmid in (KERNEL_VMID, QUEUE_VMID):
            self.vm(f"CONTEXT{vmid}_CNTL").write(0)
        self.mc("MX_L1_TLB_CNTL").update(enable_l1_tlb=0, enable_advanced_driver_model=0)
        self.vm("L2_CNTL").update(enable_l2_cache=0)
        self.vm("L2_CNTL3").write(0)

    def flush_tlb(self, *vmids: int) -> None:
        """gmc_v11_0_flush_vm_hub: request, wait for every VMID's acknowledge.

        The semaphore keeps the hub from power gating in between, which would lose the acknowledge.
        """
        engine = f"INVALIDATE_ENG{INVALIDATE_ENGINE}_"
        wanted = sum(1 << vmid for vmid in vmids)
        semaphore, acknowledge = self.vm(engine + "SEM"), self.vm(engine + "ACK")
        if self.prefix == "MM":         # gmc_v11_0_use_invalidate_semaphore: Linux takes it on the MM hub only
            wait_until(lambda: semaphore.read() & 1, FLUSH_TIMEOUT, f"{self.name} hub: TLB invalidation semaphore",
                       seen=lambda: repr(semaphore.read()))
        self.vm(engine + "REQ").write(per_vmid_invalidate_req=wanted, flush_type=0, invalidate_l2_ptes=1,
                                      invalidate_l2_pde0=1, invalidate_l2_pde1=1, invalidate_l2_pde2=1,
                                      invalidate_l1_ptes=1)
        wait_until(lambda: acknowledge.read() & wanted == wanted, FLUSH_TIMEOUT,
                   f"{self.name} hub: TLB invalidation of VMIDs {', '.join(map(str, vmids))} acknowledged",
                   seen=lambda: repr(acknowledge.read()))
        if self.prefix == "MM":
            semaphore.write(0)
            # "additional private vm invalidation to MMHUB"
            private = self.vm("L2_BANK_SELECT_RESERVED_CID2")
            private.update(reserved_cache_private_invalidation=1)
            private.read()
        self.device.statistics["tlb_flushes"] += 1

    def faulted(self) -> bool:
        """Do the registers hold a page fault that nobody has taken? False, too, where the card is gone (all ones)."""
        return self.active and int(self.vm("L2_PROTECTION_FAULT_STATUS").read()) not in (0, 0xFFFF_FFFF)

    def fault_address(self) -> int:
        """The page of the fault that the registers hold, in bytes."""
        low, high = (int(self.vm(f"L2_PROTECTION_FAULT_ADDR_{half}32").read()) for half in ("LO", "HI"))
        return (low | high << 32) << 12

    def fault_vmid(self) -> int:
        return int(self.vm("L2_PROTECTION_FAULT_STATUS").read().vmid)

    def take_fault(self) -> str:
        """What PROTECTION_FAULT_STATUS says, in words; the register is cleared for the next fault."""
        self.vm("L2_PROTECTION_FAULT_STATUS").read()        # the first read waits for the register to be updated
        status = int(self.vm("L2_PROTECTION_FAULT_STATUS").read())
        self.vm("L2_PROTECTION_FAULT_CNTL").update(clear_protection_fault_status_addr=1)
        return describe_fault(self.prefix, status)


# gfxhub_v3_0.c, gfxhub_client_ids; the access's client of the GC hub
GC_CLIENTS = ("CB/DB", "reserved", "GE1", "GE2", "CPF", "CPC", "CPG", "RLC", "TCP", "SQC (instructions)", "SQC (data)",
              "SQG", "reserved", "SDMA0", "SDMA1", "GCR", "SDMA2", "SDMA3")
# PERMISSION_FAULTS, one bit each: AMD's KFD calls them so (kfd_events.c, kfd_signal_vm_fault_event)
PERMISSIONS = ((1, "page not present"), (2, "not readable"), (4, "not writable"), (8, "not executable"))


def describe_fault(prefix: str, status: int) -> str:
    """PROTECTION_FAULT_STATUS in words, e.g. "write by TCP, page not present"."""
    if not status:
        return "cause not recorded (the registers hold only the first of several faults)"
    from amdrv.regs import table
    register = table("gc_11_0_0" if prefix == "GC" else "mmhub_3_0_0")[f"{prefix}VM_L2_PROTECTION_FAULT_STATUS"]
    bits = {name.upper(): value for name, value in register.unpack(status).items()}
    client = bits["CID"]
    who = GC_CLIENTS[client] if prefix == "GC" and client < len(GC_CLIENTS) else f"client {client}"
    access = "atomic" if bits["ATOMIC"] else "write" if bits["RW"] else "read"
    causes = [text for bit, text in PERMISSIONS if bits["PERMISSION_FAULTS"] & bit]
    if bits["MAPPING_ERROR"]:
        causes.append("not mapped to any memory")
    if bits["WALKER_ERROR"]:
        causes.append(f"page table walk failed (code {bits['WALKER_ERROR']})")
    if bits["MORE_FAULTS"]:
        causes.append("more faults followed")
    return f"{access} by {who}" + "".join(f", {cause}" for cause in causes)


class Gmc:
    """The stage ``gmc`` brings up the MM hub; the GC hub follows with ``gfx``, when its registers have power."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.mm, self.gc = Hub(device, "MM"), Hub(device, "GC")
        # gmc_v11_0_vram_gtt_location: where the VBIOS placed VRAM in the card's own address space
        self.fb_start = (self.mm.mc("FB_LOCATION_BASE").read() & 0xFF_FFFF) << 24
        self.fb_offset = self.mm.mc("FB_OFFSET").read() << 24
        self.fb_end = self.fb_start + device.vram_size - 1
        self.scratch_page = self.dummy_page = 0

    def boot(self) -> None:
        device = self.device
        if self.fb_end >= ADDRESS_BASE and self.fb_start < ADDRESS_BASE + ADDRESS_SIZE:
            raise BootError(f"the card has VRAM at {self.fb_start:#x}..{self.fb_end:#x}, where this driver places "
                            "buffers")
        memory = device.require_memory()
        self.scratch_page = self.fb_offset + memory.boot_pages.allocate(4096)[0][0]
        self._dummy = device.pci.alloc_dma(device.pci.page_size, contiguous=True)
        self.dummy_page = self._dummy.segments[0][0]
        device.hdp.flush()
        self.mm.enable()
        device.hdp.flush()
        self.mm.flush_tlb(KERNEL_VMID, QUEUE_VMID)

    def boot_gc(self) -> None:
        """gfx_v11_0_gfxhub_enable"""
        self.gc.enable()
        # set_fault_enable_default: a fault of the command processor is an error, not a dead end
        self.device.regs.CP_DEBUG.update(cpg_utcl1_error_halt_disable=1)
        self.device.hdp.flush()
        self.gc.flush_tlb(KERNEL_VMID, QUEUE_VMID)

    def shutdown_gc(self) -> None:
        if self.gc.active:
            self.gc.disable()

    def shutdown(self) -> None:
        self.shutdown_gc()
        if self.mm.active:
            self.mm.disable()

    def close(self) -> None:
        """Release the dummy page; only when the card's DMA is off."""
        if self.dummy_page:
            self._dummy.close()
            self.dummy_page = 0

    def flush_tlb(self) -> None:
        """Forget translations on both hubs. The HDP must have been flushed before."""
        memory = self.device.require_memory()
        with memory.lock:           # one request at a time, and no table is unlinked between request and answer
            for hub in (self.mm, self.gc):
                if hub.active:
                    hub.flush_tlb(KERNEL_VMID, QUEUE_VMID)
            memory.tlbs_are_flushed()
