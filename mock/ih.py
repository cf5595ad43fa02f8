"""The interrupt handler: ring 0 and ring 1, write-pointer writeback, overflow, the MSI and its re-arming.

A block says :meth:`Ih.post`; the entry goes to the ring (in GPU address space of the MM hub, or on the bus where
MC_SPACE says so), the write pointer and its copy in memory advance, and an MSI goes out. What a driver must do
(Linux 6.1, ih_v6_0.c), and what happens without it:

* RB_ENABLE: entries are dropped. ENABLE_INTR: entries come, MSIs do not.
* RPTR_REARM: one MSI, and never another. With it, moving the read pointer arms the MSI again, and sends one at once if
  entries are left.
* WPTR_WRITEBACK_ENABLE and IH_RB_WPTR_ADDR: the copy in memory stays old.
* WPTR_OVERFLOW_ENABLE: a full ring drops entries; with it, it wraps, and RB_OVERFLOW stays set until
  WPTR_OVERFLOW_CLEAR goes from 0 to 1.
* IH_DOORBELL_RPTR: the read pointer cannot be moved by doorbell.
* MC_SPACE 2 (bus addresses) without IH_CHICKEN.MC_SPACE_GPA_ENABLE: the ring is not reached.

Ring 1 takes the clients that IH_RING1_CLIENT_CFG names; it has no MSI, and announces itself by an entry in ring 0
(client IH, ring_id 1, its write pointer as first data word) while IH_CNTL2 says so.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING

from amdrv.facts import ih as facts
from mock.block import Block, on_write
from mock.bus import BusError
from mock.faults import Fault, register

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["ENTRY_BYTES", "Ih"]

ENTRY_BYTES = 32
MC_SPACE_BUS = 2
"""Physical addresses of the bus; 4 is a GPU address (Linux 6.1, ih_v6_0.c, ih_v6_0_rb_cntl)."""
RB_OVERFLOW = 1
STORM = (facts.SOC21_IH_CLIENTID_ROM_SMUIO, 0)
RING1_CLIENTS = 8       # entries of the IH_RING1_CLIENT_CFG table


class Ih(Block):
    ip = "OSSSYS"

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._lock = threading.RLock()
        self._armed = True
        self._storing = False
        self._clear = [0, 0]        # last written WPTR_OVERFLOW_CLEAR of both rings
        self._ring1_clients: dict[int, int] = {}

    def reset(self) -> None:
        self._armed = True
        self._clear = [0, 0]
        self._ring1_clients.clear()

    # ---- registers

    def _cntl(self, field: str, ring: int = 0) -> int:
        name = "IH_RB_CNTL" if ring == 0 else "IH_RB_CNTL_RING1"
        return self.board.regs.field(name, field)

    @on_write("IH_RB_CNTL", "IH_RB_CNTL_RING1")
    def cntl(self, value: int, name: str) -> None:
        ring = int(name.endswith("RING1"))
        clear = self._cntl("WPTR_OVERFLOW_CLEAR", ring)
        with self._lock:
            if clear and not self._clear[ring]:
                self.board.regs[self._pointer("WPTR", ring)] &= ~RB_OVERFLOW
                if self._cntl("RB_ENABLE", ring):       # before that, the address may be the last owner's (Linux 6.1,
                    self._write_back(ring)              # ih_v6_0.c, ih_v6_0_enable_ring: control first, then address)
            self._clear[ring] = clear
            if ring == 0:
                self._armed = True

    @on_write("IH_RB_RPTR", "IH_RB_RPTR_RING1")
    def rptr(self, value: int, name: str) -> None:
        if not name.endswith("RING1"):
            self._moved()

    def _moved(self) -> None:
        """Ring 0's read pointer moved: the MSI is armed again, or sent again when entries are left."""
        with self._lock:
            if not self._cntl("RPTR_REARM"):
                return
            left = (self.board.regs["IH_RB_WPTR"] ^ self.board.regs["IH_RB_RPTR"]) & ~RB_OVERFLOW & 0x3FFFC
            self._armed = not left
        if left and self._cntl("ENABLE_INTR"):
            self.board.raise_msi()

    @on_write("IH_RING1_CLIENT_CFG_DATA")
    def ring1_client(self, value: int) -> None:
        self._ring1_clients[self.board.regs["IH_RING1_CLIENT_CFG_INDEX"] % RING1_CLIENTS] = value

    def doorbell(self, dword: int, value: int) -> None:
        """A doorbell that NBIO led here: the read pointer of the ring whose IH_DOORBELL_RPTR names it."""
        regs = self.board.regs
        for ring, suffix in ((0, ""), (1, "_RING1")):
            name = "IH_DOORBELL_RPTR" + suffix
            if regs.field(name, "ENABLE") and regs.field(name, "OFFSET") == dword:
                regs["IH_RB_RPTR" + suffix] = value & 0x3FFFC
                if ring == 0:
                    self._moved()
                return
        self.board.note("ih-doorbell", f"doorbell {dword:#x} came to the interrupt handler, but no IH_DOORBELL_RPTR "
                                       "is enabled for it")

    # ---- entries

    @staticmethod
    def _pointer(which: str, ring: int) -> str:
        return f"IH_RB_{which}" + ("_RING1" if ring else "")

    def post(self, client: int, source: int, *, ring_id: int = 0, vmid: int = 0, vmid_src: int = 0,
             pasid: int | None = None, data: tuple[int, ...] = (0, 0, 0, 0)) -> bool:
        """Raise an interrupt, from any thread. ``data`` are up to four context words; True when an entry was written.

        ``vmid_src`` is 0 for GC's VMIDs and 1 for the MM hub's. The PASID is the one that the driver gave the VMID
        (IH_VMID_n_LUT, and _LUT_MM for the MM hub; Linux 6.1, gmc_v11_0_emit_pasid_mapping).
        """
        if self.board.faults.any:
            self.board.faults.event("interrupt", client=client, source=source)
        if pasid is None:
            pasid = self.board.regs[f"IH_VMID_{vmid & 0xF}_LUT{'_MM' if vmid_src else ''}"] & 0xFFFF
        ring = 1 if self._goes_to_ring1(client, source) else 0
        time = self.board.clock()
        words = (client & 0xFF | (source & 0xFF) << 8 | (ring_id & 0xFF) << 16 | (vmid & 0xF) << 24
                 | (vmid_src & 1) << 31,
                 time & 0xFFFFFFFF, time >> 32 & 0xFFFF, pasid & 0xFFFF,
                 *(word & 0xFFFFFFFF for word in (*data, 0, 0, 0, 0)[:4]))
        with self._lock:
            if self._storing:       # the ring's own address faulted: its fault cannot be told
                return False
            if not self._append(ring, struct.pack("<8I", *words)):
                return False
            if ring == 1:
                if self.board.regs.field("IH_CNTL2", "SELF_IV_FORCE_WPTR_UPDATE_ENABLE"):
                    return self.post(facts.SOC21_IH_CLIENTID_IH, 0, ring_id=1,
                                     data=(self.board.regs["IH_RB_WPTR_RING1"] & 0x3FFFC, 0, 0, 0))
                return True
            send = self._armed and bool(self._cntl("ENABLE_INTR"))
            if send:
                self._armed = False
        if send:
            self.board.raise_msi()
        return True

    def raise_(self, client: int, source: int, *, ring_id: int = 0, vmid: int = 0, vmid_src: int = 0,
               pasid: int | None = None, context: tuple[int, ...] = (0, 0, 0, 0)) -> bool:
        """:meth:`post` by its older name."""
        return self.post(client, source, ring_id=ring_id, vmid=vmid, vmid_src=vmid_src, pasid=pasid, data=context)

    def _goes_to_ring1(self, client: int, source: int) -> bool:
        if client == facts.SOC21_IH_CLIENTID_IH or not self._cntl("RB_ENABLE", 1):
            return False
        register = self.board.regs.register("IH_RING1_CLIENT_CFG_DATA")
        for value in self._ring1_clients.values():
            matches = not register.field("SOURCE_ID_MATCH_ENABLE").get(value) or \
                register.field("SOURCE_ID").get(value) == source
            if register.field("CLIENT_ID").get(value) == client and matches:
                return True
        return False

    def _append(self, ring: int, entry: bytes) -> bool:
        board = self.board
        if not self._cntl("RB_ENABLE", ring):
            board.note("ih-disabled", f"an interrupt of client {entry[0]:#x}, source {entry[1]:#x} was dropped: "
                                      f"RB_ENABLE of ring {ring} is off")
            return False
        size = 4 << self._cntl("RB_SIZE", ring)
        wptr = board.regs[self._pointer("WPTR", ring)]
        rptr = board.regs[self._pointer("RPTR", ring)] & 0x3FFFC
        at = wptr & 0x3FFFC
        overflow = wptr & RB_OVERFLOW
        if size < 2 * ENTRY_BYTES or at >= size:
            board.note("ih-ring", f"ring {ring} has {size} bytes and its write pointer is {at:#x}; entry dropped")
            return False
        following = (at + ENTRY_BYTES) % size
        if following == rptr:
            if not self._cntl("WPTR_OVERFLOW_ENABLE", ring):
                board.note("ih-full", f"ring {ring} is full at {at:#x} and may not overflow; entry dropped")
                return False
            overflow = RB_OVERFLOW
        suffix = "_RING1" if ring else ""
        base = (board.regs["IH_RB_BASE_HI" + suffix] & 0xFF) << 40 | board.regs["IH_RB_BASE" + suffix] << 8
        if not self._store(ring, base + at, entry):
            return False
        board.counters["interrupts"] += 1
        board.regs[self._pointer("WPTR", ring)] = following | overflow
        self._write_back(ring)
        return True

    def _write_back(self, ring: int) -> None:
        if ring or not self._cntl("WPTR_WRITEBACK_ENABLE"):
            return
        regs = self.board.regs
        address = (regs["IH_RB_WPTR_ADDR_HI"] & 0xFFFF) << 32 | regs["IH_RB_WPTR_ADDR_LO"] & ~3
        if address:
            self._store(0, address, struct.pack("<I", regs["IH_RB_WPTR"]))

    def _store(self, ring: int, address: int, data: bytes) -> bool:
        """Write where MC_SPACE says; False (and a note) where nothing is."""
        import ctypes
        board = self.board
        self._storing = True
        try:
            if self._cntl("MC_SPACE", ring) == MC_SPACE_BUS:
                if not board.regs.field("IH_CHICKEN", "MC_SPACE_GPA_ENABLE"):
                    board.note("ih-space", "MC_SPACE is bus addresses, but IH_CHICKEN.MC_SPACE_GPA_ENABLE is off")
                    return False
                ctypes.memmove(board.dma(address, len(data), write=True), data, len(data))
            else:
                from mock.gmc import Client
                board.memory.write("mm", self._cntl("MC_VMID", ring), address, data, client=Client.MM_OSSSYS)
        except BusError:
            return False
        except Exception as error:
            from mock.gmc import Fault
            if not isinstance(error, Fault):
                raise
            board.note("ih-fault", f"ring {ring}: write of {len(data)} bytes at {address:#x}: {error}")
            return False
        finally:
            self._storing = False
        return True


def _flood(board: Board, fault: Fault) -> None:
    """A storm of entries, of a client and source that nobody listens to."""
    for _ in range(fault.settings.get("entries", 1)):
        board.ih.post(fault.settings.get("client", STORM[0]), fault.settings.get("source", STORM[1]))


register("interrupt-storm", "so many entries come at once, of that client and source, as a broken block would send "
         "them: more than the ring holds make it overflow", "entries", "client", "source", at_once=_flood)
