"""The ``AM`` backend of hcq: memory, queues and their encoders, on a card that ``amdrv.device`` booted.

Commands become PM4 (``amdrv.pm4.encoder``), SDMA 6 (``amdrv.sdma.encoder``) or AQL packets (``amdrv.aql.encoder``).

Two limits come from the hardware. PM4 and SDMA wait on 32-bit words, so signals hold 32 bits here
(``Properties.signal_bits``; hcq starts a new signal before a timeline runs over), and no wait ever sees half of a
store. And the scratch slots of the waves share one buffer a queue (``amdrv.scratch``).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from amdrv.aql.encoder import AqlEncoder
from amdrv.aql.ring import AqlRing
from amdrv.errors import PacketError
from amdrv.hal import Hal
from amdrv.moving import MovingSide
from amdrv.pm4.encoder import ComputeEncoder
from amdrv.queues import Queue
from amdrv.scratch import Scratch, slots
from amdrv.sdma.encoder import COPY_LARGEST as SDMA_LARGEST
from amdrv.sdma.encoder import CopyEncoder
from hcq.backend import Memory, Properties, QueueKind

if TYPE_CHECKING:
    from amdrv.device import Allocation, Device
    from amdrv.recovery import Recovery
    from amdrv.ring import Ring

__all__ = ["AmBackend", "AqlEncoder", "ComputeEncoder", "CopyEncoder", "SDMA_LARGEST", "Scratch", "open_backend"]

# LLVM, AMDGPUBaseInfo.cpp, of gfx1100: getEUsPerCU, getMaxWavesPerEU, getTotalNumVGPRs, getVGPRAllocGranule
SIMDS_PER_CU, WAVES_PER_SIMD, VGPRS_PER_SIMD, VGPR_GRANULE = 2, 16, 1536, 24
MAX_WORKGROUP = 1024
LDS_BYTES = 65536                       # of a workgroup


class AmBackend(MovingSide):
    """One booted card behind hcq's contract (:class:`hcq.backend.Backend`). Owns ``device``."""

    kind = "AM"

    def __init__(self, device: Device, index: int = 0) -> None:
        self.device = device
        self.name = f"{self.kind}:{index}"
        self.properties = Properties(
            arch=device.arch, name=device.marketing_name, compute_units=device.compute_units, wave_sizes=(32, 64),
            max_workgroup=MAX_WORKGROUP, lds_bytes=LDS_BYTES, vram_bytes=device.vram_size,
            timestamp_hz=float(device.clock_hz), signal_bits=32,
            shared_aperture=device.shared_aperture, private_aperture=device.private_aperture,
            simds_per_cu=SIMDS_PER_CU, waves_per_simd=WAVES_PER_SIMD, vgprs_per_simd=VGPRS_PER_SIMD,
            vgpr_granule=VGPR_GRANULE)
        self.compute, self.copy = self._compute_encoder(), self._copy_encoder()
        self._queues: dict[str, list[Queue]] = {
            "compute": [Queue(ring, "compute", f"{self.name} compute {number}", device.statistics)
                        for number, ring in enumerate(device.compute_rings)],
            "copy": [Queue(ring, "copy", f"{self.name} copy {number}", device.statistics)
                     for number, ring in enumerate(device.sdma_rings)],
            "aql": []}                                  # made when they are asked for
        self._starts: list[int] = []                    # of live allocations, in order
        self._live: dict[int, Allocation] = {}
        self._scratches: list[Memory] = []              # older launches may still use all but the last
        for queue in self._queues["compute"]:
            queue.submit(np.array(self.compute.preamble(), np.uint32))

    def _compute_encoder(self, grow: Callable[[Scratch, int], Scratch] | None = None) -> ComputeEncoder:
        return ComputeEncoder(self._register, self.device.gfx.wgp_masks, grow)

    def _copy_encoder(self) -> CopyEncoder:
        return CopyEncoder()

    # --- memory

    def alloc(self, nbytes: int, *, host: bool = False) -> Memory:
        return self._alloc(nbytes, host, "")

    def _alloc(self, nbytes: int, host: bool, name: str) -> Memory:
        """:param name: for the message of a fault nearby."""
        allocation = self.device.alloc(nbytes, kind="system" if host else "vram", name=name)
        bisect.insort(self._starts, allocation.address)
        self._live[allocation.address] = allocation
        return Memory(allocation.address, nbytes, allocation.view if host else None, host, allocation)

    def register(self, array: np.ndarray) -> Memory:
        registered = self.device.register(array)
        allocation = registered.allocation
        bisect.insort(self._starts, allocation.address)
        self._live[allocation.address] = allocation
        return Memory(registered.address, registered.nbytes, registered.view, True, allocation)

    def free(self, memory: Memory) -> None:
        handle: Any = memory.handle
        allocation: Allocation = self._live.pop(handle.address)
        self._starts.pop(bisect.bisect_left(self._starts, allocation.address))
        self.device.free(allocation)

    def upload(self, address: int, data: np.ndarray) -> None:
        index = bisect.bisect_right(self._starts, address) - 1
        allocation = self._live[self._starts[index]] if index >= 0 else None
        if allocation is None or address + len(data) > allocation.address + allocation.nbytes:
            raise PacketError(f"upload of {len(data)} bytes to {address:#x}: no allocation holds them")
        offset = address - allocation.address
        if allocation.view is not None:
            allocation.view[offset:offset + len(data)] = data
        else:
            self._upload_pieces(allocation, offset, data)
        self.device.flush_hdp()

    def _upload_pieces(self, allocation: Allocation, offset: int, data: np.ndarray) -> None:
        """Into VRAM that lies in several pieces, through the BAR."""
        start = 0                                       # of the piece, in the allocation
        for piece, size in allocation.segments:
            first, last = max(offset, start), min(offset + len(data), start + size)
            if first < last:
                window = self.device.require_memory().view(piece + first - start, last - first)
                window[:] = data[first - offset:last - offset]
            start += size

    def ensure_scratch(self, bytes_per_wave: int) -> None:
        if bytes_per_wave > self.compute.scratch.wave_bytes:
            self.compute.scratch = self._more_scratch(self.compute.scratch, bytes_per_wave)

    def _more_scratch(self, scratch: Scratch, bytes_per_wave: int) -> Scratch:
        engines = self.device.shader_engines
        wave_bytes, waves = slots(scratch, bytes_per_wave, self.device.compute_units, engines)
        memory = self._alloc(wave_bytes * waves * engines, False, "scratch")
        self._scratches.append(memory)
        return Scratch(memory.address, wave_bytes, waves)

    # --- the rest

    def queues(self, kind: QueueKind) -> Sequence[Queue]:
        return self._queues[kind]

    def add_queue(self, kind: QueueKind, priority: str) -> Queue | str:
        """One more hardware queue, or, in words, why there is none.

        A compute queue has scratch of its own, since its waves run beside the others'.
        """
        number = len(self._queues[kind])
        if kind == "copy":
            return f"{self.name} has {number} copy engines, with one queue each; queue {number} is not one of them"
        try:
            ring = self.device.gfx.add_ring(priority, aql=kind == "aql")
        except PacketError as error:
            return str(error)
        return self._added(ring, kind, number)

    def _added(self, ring: Ring, kind: QueueKind, number: int) -> Queue:
        queue = Queue(ring, kind, f"{self.name} {kind} {number}", self.device.statistics)
        if isinstance(ring, AqlRing):
            ring.more_scratch = self._more_scratch
            queue.encoder = AqlEncoder(self.compute, ring, self._more_scratch)
        else:
            queue.encoder = self._compute_encoder(self._more_scratch)
            queue.submit(np.array(self.compute.preamble(), np.uint32))
        self._queues[kind].append(queue)
        return queue

    def sleep(self, timeout: float) -> None:
        self.device.interrupts.wait(timeout)

    def check(self) -> None:
        self._count()
        self.device.interrupts.drain()
        self.device.check()

    def suspicious(self) -> bool:
        """Has the card told anything that nobody has looked at? By host memory alone."""
        return self.device.interrupts.suspicious or any(ring.told() for ring in self.device.gfx.rings)

    def fileno(self) -> int | None:
        """Readable when the card has interrupted."""
        return self.device.interrupts.fileno()

    def poll(self) -> None:
        self.device.interrupts.poll()

    def diagnose(self) -> str:
        """What stands still, and at what."""
        return str(self.device.diagnose())

    def recover(self, queues: Sequence[Queue]) -> Recovery:
        """Reset what stands still; the work of ``queues`` is given up."""
        done = self.device.recover([queue.ring for queue in queues])
        for queue in self._queues["compute"]:           # what a queue keeps between launches may be gone
            queue.submit(np.array(self.compute.preamble(), np.uint32))
        return done

    def _count(self) -> None:
        for queues in self._queues.values():
            for queue in queues:
                queue.count()

    def close(self) -> None:
        self._count()
        self._live.clear()
        self._starts.clear()
        self.device.close()


def open_backend(index: int = 0, *, hal: Hal | None = None) -> AmBackend:
    """Boot card number ``index`` of the HAL that ``AMDRV_HAL`` names and serve hcq with it."""
    from amdrv.device import Device
    device = Device.open(hal, index=index)
    try:
        return AmBackend(device, index)
    except BaseException:
        device.close()
        raise
