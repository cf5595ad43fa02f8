"""What a hub answers to a client whose translation failed: nothing, a retry, or the default page.

Facts: Linux 6.1, gfxhub_v3_0.c (gfxhub_v3_0_setup_vmid_config: RETRY_PERMISSION_OR_INVALID_PAGE_FAULT is set unless
amdgpu.noretry, and each kind's ENABLE_DEFAULT of CONTEXTn_CNTL; gfxhub_v3_0_set_fault_enable_default: the same kinds in
L2_PROTECTION_FAULT_CNTL; gfxhub_v3_0_init_system_aperture_regs: DEFAULT_ADDR is the bus address of the driver's dummy
page); gmc_v10_0.c, gmc_v10_0_process_interrupt (bits 5 and 7 of the entry's second word: a write, a retry fault).

In this order:

* RETRY_PERMISSION_OR_INVALID_PAGE_FAULT of the context, and the entry is invalid or lacks a permission: the client asks
  again and again until the entry allows it (where the TLB has it: after an invalidation), is stopped, or the card is
  reset. FAULT_CNTL2.ENABLE_RETRY_FAULT_INTERRUPT decides whether it is told. FAULT_CNTL.CRASH_ON_RETRY_FAULT stops
  the hub.
* The kind's ENABLE_DEFAULT in the context and in FAULT_CNTL, and memory behind DEFAULT_ADDR (of the host bus where
  L2_CNTL.ENABLE_DEFAULT_PAGE_OUT_TO_SYSTEM_MEMORY is set, in VRAM otherwise): reads come from that page and writes go
  to it; STATUS and interrupt tell of the fault, and the client goes on. CRASH_ON_NO_RETRY_FAULT wins.
* Otherwise the client gets no answer that it could use, and stops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mock.bus import BusError
from mock.faults import register

if TYPE_CHECKING:
    from mock.hub import Fault, Hub

__all__ = ["injected", "kinds", "redirect", "retry", "patience"]

PAGE_SHIFT = 12
RANGE_WALKER = 1
SLEEP_SECONDS = 100e-6

register("page-fault", "a translation fails as if nothing were mapped at the address", "hub", "vmid", "client", "write")


class _Patience(threading.local):
    """What a thread that waits for a translation asks now and then; it raises when the client was stopped."""

    check: Callable[[], None] | None = None


patience = _Patience()


def kinds(walker: int | None, permissions: int, bits: tuple[tuple[int, str], ...]) -> list[str]:
    """The kinds of a fault, as the names of fields begin."""
    found = []
    if walker == RANGE_WALKER or walker is None:
        found.append("RANGE")
    elif walker:
        found.append("PDE0")
    return found + [kind for bit, kind in bits if permissions & bit]


def injected(hub: Hub, vmid: int, pages: np.ndarray, write: bool, client: int) -> Fault | None:
    """The fault that a test ordered for this access."""
    faults = hub.board.faults
    where = {"hub": hub.name, "vmid": vmid, "client": client, "write": write}
    faults.event("access", **where)
    if faults.strike("page-fault", **where) is None:
        return None
    return hub.fault(vmid, int(pages[0]), write, "nothing is mapped there, says an injected fault", client, 0, 1)


def retry(hub: Hub, error: Fault) -> bool:
    """Is this a fault that makes the client ask again? Then it has waited a little.

    :raises Exception: what stops the client (see :data:`patience`).
    """
    context = f"VM_CONTEXT{error.vmid}_CNTL"
    if not error.permissions or not hub.field(context, "RETRY_PERMISSION_OR_INVALID_PAGE_FAULT") or hub.crashed:
        return False
    if hub.field("VM_L2_PROTECTION_FAULT_CNTL", "CRASH_ON_RETRY_FAULT"):
        hub.crashed = True
        return False
    if patience.check is None:
        hub.board.note("retry-fault", f"{error}: a retry fault of a client that cannot wait; it stops")
        return False
    patience.check()
    time.sleep(SLEEP_SECONDS)
    return True


def redirect(hub: Hub, error: Fault, names: list[str]) -> int | None:
    """Host pointer of the page that stands in for the one that faulted, or None."""
    if hub.crashed or not names or (error.walker is None and not error.permissions):
        return None
    context, everywhere = f"VM_CONTEXT{error.vmid}_CNTL", "VM_L2_PROTECTION_FAULT_CNTL"
    if not all(hub.field(name, f"{kind}_PROTECTION_FAULT_ENABLE_DEFAULT")
               for kind in names for name in (context, everywhere)):
        return None
    address = hub.wide("VM_L2_PROTECTION_FAULT_DEFAULT_ADDR") << PAGE_SHIFT
    if not address:
        return None
    if not hub.field("VM_L2_CNTL", "ENABLE_DEFAULT_PAGE_OUT_TO_SYSTEM_MEMORY"):
        vram = hub.board.vram
        return vram.base + address if address < vram.size else None
    try:
        return hub.board.dma(address, 1 << PAGE_SHIFT, write=error.write)
    except BusError:
        return None
