"""How one card's engines reach another's memory: through the other's BAR 0, or the host memory that it uses.

Each pair of cards maps once, at first use: the whole of the other's VRAM window, and each piece of host memory
(signals) that is asked for. The HAL decides whether that can be (:class:`amdrv.errors.MappingError` where not: another
machine, iommufd's refusal of BARs).

What a peer stores through BAR 0 passes the receiver's host data path and is not in its GL2; what
:meth:`PeerSide.peer_arrival` adds makes it visible there.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from amdrv import pm4
from amdrv.errors import MappingError
from hcq.backend import Memory

if TYPE_CHECKING:
    from amdrv.device import Allocation, Device

__all__ = ["PeerSide", "Peers"]

VRAM_BAR = 0
# Linux 6.1, nbio_v4_3.c: nbio_v4_3_hdp_flush_reg, ref_and_mask_cp2; gfx_v11_0_ring_emit_hdp_flush shifts it by the
# compute queue's pipe
HDP_FLUSH_CP2 = 0x4
HDP_FLUSH_POLL = 0x20


class Peers:
    """What one card has mapped of the others."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._windows: dict[int, tuple[Device, Allocation]] = {}            # id(other) -> its VRAM
        # (id(other), address): host memory, as the other and as this card have it. The view keeps it alive: engines of
        # this card may still look at it when the other was closed.
        self._pieces: dict[tuple[int, int], tuple[Allocation, Allocation, np.ndarray]] = {}

    def ranges(self, other: Device, allocation: Allocation, offset: int, nbytes: int) -> list[tuple[int, int]]:
        """(address on this card, bytes) of a part of the other's allocation, in order.

        :raises MappingError: this HAL, or the machine, cannot show one card to the other.
        """
        if other is self.device:
            return [(allocation.address + offset, nbytes)]
        if allocation.kind == "system":
            return [(self._host(other, allocation).address + offset, nbytes)]
        base = self._window(other).address
        found, start = [], 0
        for piece, size in allocation.segments:
            first, last = max(offset, start), min(offset + nbytes, start + size)
            if first < last:
                found.append((base + piece + first - start, last - first))
            start += size
        return found

    def _window(self, other: Device) -> Allocation:
        known = self._windows.get(id(other))
        if known is not None and known[0] is other:
            return known[1]
        mapping = self.device.pci.map_peer(other.pci.bar(VRAM_BAR))
        try:
            window = self.device.map(mapping)
        except BaseException:
            mapping.close()
            raise
        window.mapping, window.owned = mapping, True
        self._windows[id(other)] = other, window
        return window

    def _host(self, other: Device, allocation: Allocation) -> Allocation:
        known = self._pieces.get((id(other), allocation.address))
        if known is not None:
            if known[0] is allocation:
                return known[1]
            self.device.free(known[1])          # the other freed what was there, and has something else there now
            del self._pieces[id(other), allocation.address]
        if allocation.view is None:
            raise MappingError(f"{allocation} of {other.name} is not in one piece for the CPU; a peer cannot map it")
        view = allocation.view
        mapping = self.device.pci.map_dma(int(view.ctypes.data), allocation.size)
        try:
            piece = self.device.map(mapping)
        except BaseException:
            mapping.close()
            raise
        piece.mapping, piece.owned = mapping, True
        self._pieces[id(other), allocation.address] = allocation, piece, view
        return piece

    def forget(self, other: Device) -> None:
        """The other card is about to be closed: its window and its host memory go away. The engines are done."""
        window = self._windows.pop(id(other), None)
        if window is not None:
            self.device.free(window[1])
        for key in [key for key in self._pieces if key[0] == id(other)]:
            self.device.free(self._pieces.pop(key)[1])


class PeerSide:
    """What ``hcq.peer`` asks of a backend; a part of :class:`amdrv.backend.AmBackend`."""

    device: Device

    def _register(self, name: str) -> int:
        """A register's dword address."""
        return self.device.regs[name].address

    @cached_property
    def peers(self) -> Peers:
        return Peers(self.device)

    @cached_property
    def _arrival(self) -> list[int]:
        mask = HDP_FLUSH_CP2            # pipe 0 of MEC 1: amdrv.ip.gfx.QUEUES
        request, done = (self._register(f"BIF_BX_PF0_GPU_HDP_FLUSH_{name}") for name in ("REQ", "DONE"))
        return pm4.build("WAIT_REG_MEM", FUNCTION="EQUAL", MEM_SPACE="REGISTER", OPERATION="WR_WAIT_WR_REG",
                         ADDRESS=request | done << 32, REFERENCE=mask, MASK=mask, POLL_INTERVAL=HDP_FLUSH_POLL)

    def peer_ranges(self, owner: Any, memory: Memory, offset: int, nbytes: int) -> list[tuple[int, int]] | str:
        """Where this card's engines reach a part of another backend's memory: (address, bytes) in order; or, in words,
        why they do not."""
        if not isinstance(owner, PeerSide):
            return f"{type(owner).__name__} is no card of this driver"
        try:
            return self.peers.ranges(owner.device, memory.handle, offset, nbytes)   # type: ignore[arg-type]
        except MappingError as error:
            return str(error)

    def peer_arrival(self, words: list[int]) -> None:
        """For a compute queue: what peers stored through BAR 0 is in memory (gfx_v11_0_ring_emit_hdp_flush)."""
        words += self._arrival

    def forget_peer(self, owner: Any) -> None:
        """The other backend is about to be closed; the engines are done with its memory."""
        if isinstance(owner, PeerSide):
            self.peers.forget(owner.device)
