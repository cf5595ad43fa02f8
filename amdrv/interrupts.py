"""What interrupts mean: entries of the IH ring are counted, dispatched, and faults are kept for :meth:`check`.

There is no thread of its own: whoever waits for something drains the ring, by sleeping on the MSI's descriptor or,
on a machine without MSI, by looking.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from amdrv.errors import GpuFault
from amdrv.facts import ih as facts
from amdrv.ip.ih import Entry

if TYPE_CHECKING:
    from amdrv.device import Device
    from amdrv.hal import Interrupt
    from amdrv.ip.gmc import Hub

__all__ = ["Interrupts", "describe_sq"]

POLL = 100e-6               # seconds between looks where there is no MSI
TELLING_TIME = 10e-3        # seconds in which a fault's entry must follow its status (ours: nobody publishes one)
KEPT_FAULTS = 16            # a storm of faults need not fill memory; they are counted on

GFX, GRBM_CP, VMC = facts.SOC21_IH_CLIENTID_GFX, facts.SOC21_IH_CLIENTID_GRBM_CP, facts.SOC21_IH_CLIENTID_VMC
BIF = facts.SOC21_IH_CLIENTID_BIF

# Sources that mean an engine stopped at something it could not do (names: facts.ih)
ENGINE_ERRORS = {
    facts.GFX_11_0_0__SRCID__CP_PM4_PKT_RSVD_BIT_ERROR: "a PM4 packet has reserved bits set",
    facts.GFX_11_0_0__SRCID__CP_BAD_OPCODE_ERROR: "a PM4 packet with an unknown opcode",
    facts.GFX_11_0_0__SRCID__CP_PRIV_REG_FAULT: "a PM4 packet touched a register that queues may not touch",
    facts.GFX_11_0_0__SRCID__CP_PRIV_INSTR_FAULT: "a privileged PM4 packet in an unprivileged queue",
    facts.GFX_11_0_0__SRCID__CP_ME_WAIT_REG_MEM_POLL_TIMEOUT: "a WAIT_REG_MEM packet timed out",
    facts.GFX_11_0_0__SRCID__CP_GPF: "a general protection fault of the command processor",
    facts.GFX_11_0_0__SRCID__CP_ECC_ERROR: "an ECC error in the command processor",
    facts.GFX_11_0_0__SRCID__SDMA_DOORBELL_INVALID: "an invalid doorbell of SDMA",
    facts.GFX_11_0_0__SRCID__SDMA_QUEUE_HANG: "an SDMA queue hangs",
    facts.GFX_11_0_0__SRCID__SDMA_ATOMIC_TIMEOUT: "an SDMA atomic timed out",
    facts.GFX_11_0_0__SRCID__SDMA_POLL_TIMEOUT: "an SDMA poll timed out",
    facts.GFX_11_0_0__SRCID__SDMA_PAGE_TIMEOUT: "SDMA waited too long for a page",
    facts.GFX_11_0_0__SRCID__SDMA_PAGE_NULL: "SDMA met a null page",
    facts.GFX_11_0_0__SRCID__SDMA_PAGE_FAULT: "a page fault of SDMA",
    facts.GFX_11_0_0__SRCID__SDMA_VM_HOLE: "SDMA addressed the hole between the halves of the address space",
    facts.GFX_11_0_0__SRCID__SDMA_ECC: "an ECC error in SDMA",
    facts.GFX_11_0_0__SRCID__SDMA_SRAM_ECC: "an ECC error in SDMA's memory",
}

# SQ_INTERRUPT_WORD_ERROR_CTXID (Linux 6.1, kfd_int_process_v11.c)
SQ_ENCODING_ERROR = 2
SQ_ENCODING_INSTRUCTION = 1
SQ_ERRORS = ("uncorrectable error", "illegal instruction", "memory violation", "detected error")


def describe_sq(entry: Entry) -> str | None:
    """An SQ interrupt in words, or None where it is a message of a shader and no error."""
    first, second = entry.context[0], entry.context[1]
    encoding = second >> 6 & 3
    if encoding != SQ_ENCODING_ERROR:
        return None
    kind = first >> 21 & 0xF
    what = SQ_ERRORS[kind] if kind < len(SQ_ERRORS) else f"error {kind}"
    return (f"{what} in a shader (wave {first >> 27}, SIMD {second & 3}, WGP {second >> 2 & 0xF}, "
            f"SA {first >> 25 & 1}, detail {first & 0x1FFFFF:#x})")


class Interrupts:
    """The card's interrupts. Safe to use from several threads."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.counts: Counter[str] = Counter()                   # entries by kind
        self._handlers: dict[tuple[int, int], list[Callable[[Entry], None]]] = {}
        self._faults: list[str] = []
        self._dropped = 0
        self.memory_is_lost = False             # an uncorrectable error: only a reset of the card ends it
        self._untold: deque[tuple[str, int]] = deque(maxlen=KEPT_FAULTS)    # (hub, page) found before their interrupts
        self._lock = threading.RLock()
        self._msi: Interrupt | None = device.pci.interrupt()

    @property
    def has_msi(self) -> bool:
        return self._msi is not None

    def fileno(self) -> int | None:
        """The MSI's descriptor, for ``select``; None where this machine has none."""
        return self._msi.fileno() if self._msi is not None else None

    def subscribe(self, client: int, source: int, handler: Callable[[Entry], None]) -> None:
        """Call ``handler`` for every such entry, on whichever thread drains."""
        self._handlers.setdefault((client, source), []).append(handler)

    @property
    def suspicious(self) -> bool:
        """Are there entries of errors that nobody has taken, or faults that nobody has raised? No register is read."""
        return bool(self._faults) or self.device.ih.suspicious

    def drain(self) -> int:
        """Take what has arrived, dispatch it; returns the number of entries."""
        with self._lock:
            before = self.device.ih.overflows
            entries = self.device.ih.take()
            self.device.statistics["interrupts"] += len(entries)
            for entry in entries:
                self._dispatch(entry)
            if self.device.ih.overflows != before:
                self._after_overflow()
            return len(entries)

    def _after_overflow(self) -> None:
        """Entries were lost. What matters most of them stands in the hubs' registers, too: a page fault."""
        self.counts["overflow"] += 1
        for hub in self._faulted_hubs():
            self._untold_fault(hub, "that was lost when the interrupt ring overflowed")

    def _faulted_hubs(self) -> list[Hub]:
        """The hubs whose registers hold a page fault that nobody has taken."""
        return [hub for hub in (self.device.gmc.gc, self.device.gmc.mm) if hub.faulted()]

    def _untold_fault(self, hub: Hub, why: str) -> None:
        address, vmid = hub.fault_address(), hub.fault_vmid()
        self._untold.append((hub.name, address))
        self._fault(self._page_fault_text(hub, address, vmid) + f"; it was told by an interrupt {why}")

    def _look_for_untold_faults(self) -> None:
        """A fault whose interrupt never came: the entry is written through the MM hub, and may itself have faulted.

        PCIe lets no read of a register overtake the card's earlier stores, so an entry that was written is there
        once the status was read; TELLING_TIME is for one that the IH has not written yet.
        """
        deadline = time.monotonic() + TELLING_TIME
        while self._faulted_hubs():
            self.drain()
            if time.monotonic() > deadline:
                for hub in self._faulted_hubs():
                    self._untold_fault(hub, "that never came")
                return
            time.sleep(0)

    def wait(self, timeout: float) -> int:
        """Return when entries were dispatched, or after ``timeout`` seconds; how many it were."""
        deadline = time.monotonic() + timeout
        while not (count := self.drain()):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if self._msi is None:
                time.sleep(min(POLL, left))
            elif self._msi.wait(left) and (count := self.drain()):
                break
            else:
                self.device.ih.rearm()      # it woke for nothing, or was lost: it must not have been the last
        return count

    def poll(self) -> int:
        """For ``select`` and ``asyncio``, when the descriptor is readable: take the interrupt and what came with it.
        Never sleeps; returns the number of entries."""
        if self._msi is not None:
            self._msi.wait(0)
        if not (count := self.drain()) and self._msi is not None:
            self.device.ih.rearm()
        return count

    def check(self) -> None:
        """Raise what the card reported since the last call.

        :raises GpuFault: with every fault, its address, hub, VMID and the buffer nearest to it.
        """
        if faults := self.reported():
            with self._lock:
                self._faults, self._dropped = [], 0
            raise GpuFault(f"{self.device.name}: " + "\n".join(faults))

    def reported(self) -> list[str]:
        """What the card reported since :meth:`check` last raised, in words; it stays to be raised."""
        self.drain()
        self._look_for_untold_faults()
        with self._lock:
            return [*self._faults, *([f"... and {self._dropped} more"] if self._dropped else [])]

    def _dispatch(self, entry: Entry) -> None:
        gfx = entry.client in (GFX, GRBM_CP)
        if entry.client == VMC or (entry.client == GFX and entry.source == facts.GFX_11_0_0__SRCID__UTCL2_FAULT):
            self.counts["page fault"] += 1
            self._page_fault(entry)
        elif entry.client == GRBM_CP and entry.source == facts.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT:
            self.counts["end of pipe"] += 1
        elif gfx and entry.source == facts.GFX_11_0_0__SRCID__SDMA_TRAP:
            self.counts["SDMA trap"] += 1
        elif gfx and entry.source == facts.GFX_11_0_0__SRCID__SQ_INTERRUPT_ID:
            self.counts["shader"] += 1
            if (what := describe_sq(entry)) is not None:
                self._fault(f"{what}, VMID {entry.vmid}")
        elif gfx and entry.source in ENGINE_ERRORS:
            self.counts["engine error"] += 1
            self._engine_error(entry)
        elif entry.client == BIF and entry.source in (facts.NBIF_7_4__SRCID__ERREVENT_ATHUB_INTERRUPT,
                                                      facts.NBIF_7_4__SRCID__RAS_CONTROLLER_INTERRUPT):
            self._memory_error(fatal=entry.source == facts.NBIF_7_4__SRCID__ERREVENT_ATHUB_INTERRUPT)
        else:
            self.counts["other"] += 1
        for handler in self._handlers.get((entry.client, entry.source), ()):
            handler(entry)

    def _page_fault(self, entry: Entry) -> None:
        """gmc_v11_0_process_interrupt: the address is in the entry, the cause in the hub's registers."""
        gmc = self.device.gmc
        hub = gmc.mm if entry.hub else gmc.gc
        address = entry.context[0] << 12 | (entry.context[1] & 0xF) << 44
        if (hub.name, address) in self._untold:         # it came late: the fault is known from the registers
            self._untold.remove((hub.name, address))
        else:
            self._fault(self._page_fault_text(hub, address, entry.vmid))

    def _page_fault_text(self, hub: Hub, address: int, vmid: int) -> str:
        cause = hub.take_fault()
        return (f"page fault at {address:#x}: {cause} (VMID {vmid}, {hub.name} hub); "
                f"this is {self.device.require_memory().nearest(address)}")

    def _engine_error(self, entry: Entry) -> None:
        ring = self.device.ring_of(entry)
        where = f"{ring.name}, {ring.describe_stuck()}" if ring is not None else str(entry)
        self._fault(f"{ENGINE_ERRORS[entry.source]}: {where}")

    def _memory_error(self, *, fatal: bool) -> None:
        """A RAS event (Linux 6.6, nbio_v4_3.c, nbio_v4_3_handle_ras_err_event_athub_intr_no_bifring): the status is the
        driver's to clear. Corrected errors only count."""
        self.counts["uncorrectable memory error" if fatal else "corrected memory error"] += 1
        name = "ras_athub_err_event_interrupt_clear" if fatal else "ras_cntlr_interrupt_clear"
        self.device.regs.BIF_BX0_BIF_DOORBELL_INT_CNTL.update(**{name: 1})
        if fatal:
            self.memory_is_lost = True
            self._fault("an uncorrectable error of the card's memory (ECC): bytes in VRAM are lost, and which is not "
                        "known; reset the card before its results are trusted again")

    def _fault(self, text: str) -> None:
        if len(self._faults) < KEPT_FAULTS:
            self._faults.append(text)
        else:
            self._dropped += 1

    def forget(self) -> None:
        """Drop what was reported and not raised: the work that it is about is gone."""
        with self._lock:
            self.drain()
            for hub in self._faulted_hubs():
                hub.take_fault()
            self._faults, self._dropped, self.memory_is_lost = [], 0, False

    def renew(self) -> None:
        """The card was reset and has forgotten its MSI."""
        if self._msi is not None:
            self._msi.renew()

    def close(self) -> None:
        if self._msi is not None:
            self._msi.close()
            self._msi = None
