"""Queues of one card: the kernel makes them of memory that this side provides (CREATE_QUEUE).

A compute queue needs a ring, a page of pointers, a buffer for end-of-pipe events, and an area that its waves are saved
to when the kernel takes the queue off the hardware. The kernel asks for each of them as a buffer of exactly the size
that it expects (Linux 7.3, kfd_queue.c, kfd_queue_acquire_buffers).
"""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amdrv.aql.ring import AqlRing
from amdrv.errors import AmdrvError, PacketError
from amdrv.facts import kfd
from amdrv.hal import Region
from amdrv.kfd.process import DOORBELL_BYTES, ENGINE_ID, refusal
from amdrv.kfd.topology import Node
from amdrv.ring import Ring, RingKind

if TYPE_CHECKING:
    from amdrv.kfd.device import KfdDevice
    from amdrv.kfd.memory import Buffer

__all__ = ["PRIORITIES", "KernelQueue", "Queue", "SaveArea"]

RING_WORDS = 1 << 16
AQL_SLOTS = 1 << 12                 # packets of an AQL ring
TYPES = {"compute": kfd.KFD_IOC_QUEUE_TYPE_COMPUTE, "copy": kfd.KFD_IOC_QUEUE_TYPE_SDMA,
         "aql": kfd.KFD_IOC_QUEUE_TYPE_COMPUTE_AQL}
EOP_BYTES = 4096                    # kfd_queue_ctx_save_restore_size: eop_buffer_size
PRIORITIES = {"low": 0, "normal": 7, "high": 15}    # kfd_mqd_manager.c, pipe_priority_map: low, medium, high
PERCENT = 100                       # a queue of 0 % is not on the hardware

# kfd_queue.c, of gfx11 (Linux 7.3): what a CU's waves are saved into, and what they need on the control stack
VGPR_BYTES = {(11, 0, 0): 0x60000, (11, 0, 1): 0x60000}     # others: VGPR_BYTES_ELSE
VGPR_BYTES_ELSE, SGPR_BYTES, LDS_BYTES, HWREG_BYTES = 0x40000, 0x4000, 0x10000, 0x1000
WAVES_PER_CU, CONTROL_STACK_BYTES_PER_WAVE, DEBUG_BYTES_PER_WAVE, DEBUG_ALIGN = 32, 12, 32, 64
PAGE = 4096
# pqm_create_queue: no slot of the process's; allocate_sdma_queue; allocate_doorbell
NO_MORE = (errno.ENOMEM, errno.EPERM, errno.EBUSY, errno.EAGAIN)
PROCESS_QUEUES = 1024               # kfd_priv.h, KFD_MAX_NUM_OF_QUEUES_PER_PROCESS


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(frozen=True)
class SaveArea:
    """Sizes in bytes of what a compute queue's waves are saved to."""

    control_stack: int
    whole: int                  # the control stack and the waves' state
    debug: int                  # behind it, for a debugger

    @classmethod
    def of(cls, node: Node) -> SaveArea:
        """As the kernel says, or, from an older one, as it and ROCm's thunk reckon (kfd_queue_ctx_save_restore_size)"""
        units = node.compute_units // max(node["num_xcc"], 1)
        waves = units * WAVES_PER_CU
        header = ctypes.sizeof(kfd.kfd_context_save_area_header)
        stack = _up(header + waves * CONTROL_STACK_BYTES_PER_WAVE + 8, PAGE)
        per_unit = VGPR_BYTES.get(node.target, VGPR_BYTES_ELSE) + SGPR_BYTES + LDS_BYTES + HWREG_BYTES
        whole = _up(stack + _up(units * per_unit, PAGE), PAGE)
        return cls(node["ctl_stack_size"] or stack, node["cwsr_size"] or whole,
                   _up(waves * DEBUG_BYTES_PER_WAVE, DEBUG_ALIGN))

    @property
    def nbytes(self) -> int:
        return _up(self.whole + self.debug, PAGE)

    def prepare(self, view: np.ndarray) -> None:
        """The header that a debugger and the trap handler look at."""
        header = kfd.kfd_context_save_area_header(debug_offset=self.whole, debug_size=self.debug)
        view[:ctypes.sizeof(header)] = np.frombuffer(bytes(header), np.uint8)


class KernelQueue:
    """A queue as the kernel knows it: made of addresses, gone when destroyed."""

    def __init__(self, device: KfdDevice, kind: int, name: str, *, ring: Buffer, read_pointer: int, write_pointer: int,
                 priority: str = "normal", engine: int = 0, compute: bool = True) -> None:
        """:param kind: KFD_IOC_QUEUE_TYPE_*. :raises PacketError: no such priority, or the kernel has no queue left."""
        if priority not in PRIORITIES:
            raise PacketError(f"a queue's priority is {', '.join(PRIORITIES)}, not {priority!r}")
        self.device, self.name, self._kind = device, name, kind
        self.ring, self.read_pointer, self.write_pointer = ring, read_pointer, write_pointer
        self.priority, self._engine = priority, engine
        self._owned: list[Buffer] = []
        self._more: dict[str, int] = {}
        self.number = -1                # the kernel's; -1: not there
        self.doorbell_offset = 0        # bytes, within the process's doorbells of this card
        self.doorbells: Region
        memory = device.require_memory()
        try:
            if compute:
                area = SaveArea.of(device.card.node)
                eop = memory.alloc(EOP_BYTES, name=f"{name} EOP")
                self._owned.append(eop)
                save = memory.alloc(area.nbytes, kind="system", name=f"{name} save area")
                self._owned.append(save)
                assert save.view is not None
                area.prepare(save.view)
                self._more = {"eop_buffer_address": eop.address, "eop_buffer_size": EOP_BYTES,
                              "ctx_save_restore_address": save.address, "ctx_save_restore_size": area.whole,
                              "ctl_stack_size": area.control_stack}
            self.create()
        except BaseException:
            self.free()
            raise

    def create(self) -> None:
        """Ask the kernel for it; again, after :meth:`destroy`."""
        process = self.device.card.process
        try:
            made = process.call(
                "CREATE_QUEUE", f"the queue {self.name}", ring_base_address=self.ring.address, ring_size=self.ring.size,
                read_pointer_address=self.read_pointer, write_pointer_address=self.write_pointer,
                gpu_id=self.device.card.gpu_id, queue_type=self._kind, queue_percentage=PERCENT,
                queue_priority=PRIORITIES[self.priority], sdma_engine_id=self._engine, **self._more)
        except AmdrvError as error:
            self._explain(error)
            raise
        self.number, self.doorbell_offset = made.queue_id, made.doorbell_offset % DOORBELL_BYTES
        self.doorbells = self.device.map_doorbells(made.doorbell_offset)

    def _explain(self, error: AmdrvError) -> None:
        """:raises PacketError: the kernel has no more queues. Else the error gets a note on what to do."""
        number, node = refusal(error), self.device.card.node
        if number in NO_MORE:
            raise PacketError(
                f"{self.name}: the kernel has no queue or no doorbell left for it (a card has {node['num_cp_queues']} "
                f"compute queues, {node['num_sdma_queues_per_engine']} on each copy engine, for all processes; a "
                f"process has {PROCESS_QUEUES} queues): close what is not used. {error}") from error.__cause__
        if number == errno.EINVAL:
            error.add_note(f"one of its buffers is not of the size that this kernel expects; they were {self._more}, "
                           f"{SaveArea.of(node)}. kfd's debug messages in dmesg say which (dyndbg='module amdgpu +p')")
        elif number in (errno.ETIME, errno.EIO):
            error.add_note("the card's scheduler does not answer; dmesg says more, and only a reset of the card helps")

    def update(self, percent: int, priority: str) -> None:
        """Change its share (0: off the hardware) and priority while it runs."""
        self.device.card.process.call(
            "UPDATE_QUEUE", f"to change {self.name}", queue_id=self.number, ring_base_address=self.ring.address,
            ring_size=self.ring.size, queue_percentage=percent, queue_priority=PRIORITIES[priority])
        self.priority = priority

    def use_units(self, mask: int) -> None:
        """Run waves on these CUs only, a bit each (SET_CU_MASK).

        :raises HalError: the kernel takes no such mask; on gfx11 both CUs of a WGP go together.
        """
        words = -(-max(mask.bit_length(), 1) // 32)
        array = (ctypes.c_uint32 * words)(*(mask >> 32 * word & 0xFFFF_FFFF for word in range(words)))
        self.device.card.process.call("SET_CU_MASK", f"a mask of CUs for {self.name}", queue_id=self.number,
                                      num_cu_mask=32 * words, cu_mask_ptr=ctypes.addressof(array))

    def destroy(self) -> None:
        """Take it off the card; the kernel kills its waves. Idempotent."""
        if self.number >= 0:
            number, self.number = self.number, -1
            self.device.card.process.call("DESTROY_QUEUE", f"to end {self.name}", queue_id=number)

    def free(self) -> None:
        """:meth:`destroy`, and free what the queue needed beside its ring."""
        try:
            self.destroy()
        finally:
            owned, self._owned = self._owned, []
            for buffer in owned:
                self.device.require_memory().free(buffer)


class Queue:
    """A queue of packets that hcq fills: a ring and the kernel's queue for it."""

    def __init__(self, device: KfdDevice, kind: RingKind, name: str, *, priority: str = "normal",
                 engine: int | None = None) -> None:
        """:param engine: of a copy queue: on which copy engine, where the kernel lets us choose."""
        self.kind: RingKind = kind
        compute = kind != "copy"
        number = TYPES[kind]
        if kind == "aql":
            self.ring: Ring = AqlRing(device, name, slots=AQL_SLOTS, doorbell=0)
        else:
            self.ring = Ring(device, name, kind, words=RING_WORDS, unit=4 if compute else 1, doorbell=0)
        if kind == "copy" and engine is not None and device.card.process.version >= ENGINE_ID:
            number = kfd.KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID
        try:
            self.queue = KernelQueue(device, number, name, ring=self.ring.buffer, read_pointer=self.ring.rptr_address,
                                     write_pointer=self.ring.wptr_address, priority=priority, engine=engine or 0,
                                     compute=compute)
        except BaseException:
            self._free_ring(device)
            raise
        self._connect()

    def _connect(self) -> None:
        self.ring.connect(self.queue.doorbells, self.queue.doorbell_offset // 4)

    def restart(self) -> None:
        """End it, whatever it is at, and begin anew, empty."""
        self.queue.destroy()
        self.ring.restart()
        self.queue.create()
        self._connect()

    def close(self) -> None:
        self.queue.free()
        self._free_ring(self.queue.device)

    def _free_ring(self, device: KfdDevice) -> None:
        for buffer in self.ring.memory:
            device.require_memory().free(buffer)
