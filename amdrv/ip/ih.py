"""IH: the interrupt ring. The card writes 32-byte entries to host memory and then raises an MSI.

This file sets the ring up and takes entries out of it; what they mean is in ``amdrv.interrupts``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amdrv.facts import ih as facts
from amdrv.ip.nbio import DOORBELL_IH

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["Entry", "Ih"]

RING_BYTES = 256 << 10      # ih_v6_0_sw_init
WORDS = facts.IV_ENTRY_BYTES // 4
MC_SPACE_GPU = 4            # ih_v6_0_rb_cntl: the ring is at a GPU address, not a bus address
SELF_WPTR_TIMEOUT = 8       # ih_v6_0_irq_init, force_update_wptr_for_self_int
MSI_STORM_DELAY = 3         # ih_v6_0_irq_init: page faults in a row raise one MSI

KIND_MASK = 0xFFFF          # of an entry's first word: client in bits 7:0, source in bits 15:8
ENDS_OF_WORK = frozenset(client | source << 8 for client, source in (
    (facts.SOC21_IH_CLIENTID_GRBM_CP, facts.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT),
    (facts.SOC21_IH_CLIENTID_GRBM_CP, facts.GFX_11_0_0__SRCID__SDMA_TRAP),
    (facts.SOC21_IH_CLIENTID_GFX, facts.GFX_11_0_0__SRCID__SDMA_TRAP)))
CLIENTS = {number: name.removeprefix("SOC21_IH_CLIENTID_") for name, number in facts.ENUMS["client"].items()}
GFX_SOURCES = {number: name.removeprefix("GFX_11_0_0__SRCID__") for name, number in facts.ENUMS["gfx"].items()}


@dataclass(frozen=True)
class Entry:
    """One interrupt, decoded (Linux 6.1, amdgpu_ih.c, amdgpu_ih_decode_iv_helper)."""

    client: int
    source: int
    ring_id: int
    vmid: int
    hub: int                        # 0: GC, 1: MM
    timestamp: int
    pasid: int
    context: tuple[int, int, int, int]

    @classmethod
    def decode(cls, words: np.ndarray) -> Entry:
        """:param words: uint32[8]"""
        w = words.tolist()
        return cls(w[0] & 0xFF, w[0] >> 8 & 0xFF, w[0] >> 16 & 0xFF, w[0] >> 24 & 0xF, w[0] >> 31,
                   w[1] | (w[2] & 0xFFFF) << 32, w[3] & 0xFFFF, (w[4], w[5], w[6], w[7]))

    def __str__(self) -> str:
        client = CLIENTS.get(self.client, str(self.client))
        gfx = self.client in (facts.SOC21_IH_CLIENTID_GFX, facts.SOC21_IH_CLIENTID_GRBM_CP)
        source = GFX_SOURCES.get(self.source, str(self.source)) if gfx else str(self.source)
        context = " ".join(f"{word:#x}" for word in self.context)
        return (f"{client} {source} ring {self.ring_id:#x} vmid {self.vmid} ({'MM' if self.hub else 'GC'} hub) "
                f"context {context} at {self.timestamp}")


class Ih:
    def __init__(self, device: Device) -> None:
        self.device, self.regs = device, device.regs
        self.booted = False
        self.overflows = 0
        self._rptr = 0                                  # bytes
        self._seen = 0                                  # up to here nobody need look

    def boot(self) -> None:
        """ih_v6_0_irq_init"""
        memory = self.device.require_memory()
        self._ring = memory.alloc(RING_BYTES, kind="system", name="IH ring")
        self._status = memory.alloc(4096, kind="system", name="IH write pointer")
        assert self._ring.view is not None and self._status.view is not None
        self._entries = self._ring.view.view(np.uint32).reshape(-1, WORDS)
        self._wptr_word = self._status.view[:4].view(np.uint32)
        self._disable_ring()
        self.device.nbio.control_interrupts(self.device.gmc.dummy_page)
        self._place_ring()
        self.device.nbio.route_ih_doorbell(2 * DOORBELL_IH)
        self.regs.IH_STORM_CLIENT_LIST_CNTL.update(client18_is_storm_client=1)
        self.regs.IH_INT_FLOOD_CNTL.update(flood_cntl_enable=1)
        self.regs.IH_MSI_STORM_CTRL.update(delay=MSI_STORM_DELAY)
        self._enable_ring()
        self.regs.IH_CNTL2.update(self_iv_force_wptr_update_timeout=SELF_WPTR_TIMEOUT,
                                  self_iv_force_wptr_update_enable=1)
        self.booted = True

    def _disable_ring(self) -> None:
        """ih_v6_0_toggle_ring_interrupts, off"""
        self.regs.IH_RB_CNTL.update(rb_enable=0, enable_intr=0)
        self.regs.IH_RB_RPTR.write(0)
        self.regs.IH_RB_WPTR.write(0)

    def _place_ring(self) -> None:
        """ih_v6_0_enable_ring"""
        self._rptr = self._seen = 0
        self.regs.IH_RB_BASE.write(self._ring.address >> 8 & 0xFFFF_FFFF)
        self.regs.IH_RB_BASE_HI.write(self._ring.address >> 40 & 0xFF)
        self.regs.IH_RB_CNTL.update(mc_space=MC_SPACE_GPU, wptr_overflow_clear=1, wptr_overflow_enable=1,
                                    rb_size=(RING_BYTES // 4).bit_length() - 1, wptr_writeback_enable=1, mc_snoop=1,
                                    mc_ro=0, mc_vmid=0, rptr_rearm=int(self.device.interrupts.has_msi))
        self.regs.IH_RB_WPTR_ADDR_LO.write(self._status.address & 0xFFFF_FFFF)
        self.regs.IH_RB_WPTR_ADDR_HI.write(self._status.address >> 32 & 0xFFFF)
        self.regs.IH_RB_WPTR.write(0)
        self.regs.IH_RB_RPTR.write(0)
        self.regs.IH_DOORBELL_RPTR.write(offset=2 * DOORBELL_IH, enable=1)

    def _enable_ring(self) -> None:
        """ih_v6_0_toggle_ring_interrupts, on: a rising CLEAR_OVERFLOW forgets old overflows."""
        value = self.regs.IH_RB_CNTL.update(rb_enable=1, wptr_overflow_clear=0)
        self.regs.IH_RB_CNTL.write(int(value), wptr_overflow_clear=1)
        self.regs.IH_RB_CNTL.write(int(value), wptr_overflow_clear=0, enable_intr=1)

    def shutdown(self) -> None:
        """ih_v6_0_irq_disable"""
        if self.booted:
            self.booted = False
            self.regs.IH_CNTL2.update(self_iv_force_wptr_update_enable=0)
            self._disable_ring()
            self.device.nbio.close_ih_doorbell()

    def take(self) -> list[Entry]:
        """The entries that have arrived, oldest first; the ring's room is given back."""
        if not self.booted:
            return []
        found: list[Entry] = []
        while (wptr := self._wptr()) != self._rptr:
            first, last = self._rptr // facts.IV_ENTRY_BYTES, wptr // facts.IV_ENTRY_BYTES
            count = (last - first) % len(self._entries)
            for i in range(first, first + count):
                found.append(Entry.decode(self._entries[i % len(self._entries)]))
            self._rptr = wptr
            # ih_v6_0_set_rptr; with RPTR_REARM this write also arms the next MSI
            self.device.pci.fence()
            self.device.doorbells.write32(4 * 2 * DOORBELL_IH, wptr)
        return found

    @property
    def suspicious(self) -> bool:
        """Are there entries beside the ends of work, or has the ring run over? As far as host memory says; nothing is
        taken."""
        wptr = int(self._wptr_word[0]) if self.booted else self._seen
        if wptr == self._seen:
            return False
        if wptr >= RING_BYTES:                          # RB_OVERFLOW
            return True
        first, last = self._rptr // facts.IV_ENTRY_BYTES, wptr // facts.IV_ENTRY_BYTES
        kinds = self._entries[first:last, 0] if first <= last else \
            np.concatenate((self._entries[first:, 0], self._entries[:last, 0]))
        if not ENDS_OF_WORK.issuperset((kinds & KIND_MASK).tolist()):
            return True
        self._seen = wptr
        return False

    def rearm(self) -> None:
        """Tell the card again how far we have read: an MSI that found nothing must not be the last one."""
        if self.booted:
            self.device.doorbells.write32(4 * 2 * DOORBELL_IH, self._rptr)

    def _wptr(self) -> int:
        """ih_v6_0_get_wptr: from memory; after an overflow, resume at the oldest entry that still stands."""
        wptr = int(self._wptr_word[0])
        if wptr & self.regs.IH_RB_WPTR.register["RB_OVERFLOW"].mask:
            value = self.regs.IH_RB_WPTR.read()
            if value.rb_overflow:
                wptr = int(value) & (RING_BYTES - 1) & ~(facts.IV_ENTRY_BYTES - 1)
                self._rptr = (wptr + facts.IV_ENTRY_BYTES) & (RING_BYTES - 1)
                self.overflows += 1
                control = self.regs.IH_RB_CNTL.update(wptr_overflow_clear=1)
                self.regs.IH_RB_CNTL.write(int(control), wptr_overflow_clear=0)
        return wptr & (RING_BYTES - 1) & ~(facts.IV_ENTRY_BYTES - 1)
