"""One card of the simulated kernel: booted by this driver, its hardware slots given to queues.

The card's own queues (compute slot 0 of pipe 0, queue 0 of each copy engine) stay the kernel's, as amdgpu's do.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from amdrv.device import Device
from amdrv.errors import WaitTimeout
from amdrv.facts import ih, mqd_v11
from amdrv.facts import kfd as facts
from amdrv.ip.gfx import MQD_BYTES, MQD_HEADER, SHADER_ENGINES_IN_MQD, STATIC_THREAD_MGMT
from amdrv.ip.gmc import QUEUE_VMID
from amdrv.ip.ih import Entry
from amdrv.ip.nbio import DOORBELL_SDMA_ENGINE0, DOORBELL_SDMA_STRIDE
from amdrv.kfd.simulated.files import sizes
from amdrv.kfd.simulated.memory import PAGE, fail
from amdrv.regs import BoundRegister
from amdrv.wait import wait_until

if TYPE_CHECKING:
    from amdrv.kfd.simulated.memory import Handle

__all__ = ["Gpu", "HardwareQueue"]

COMPUTE_SLOTS = [(1, pipe, queue) for queue in range(4) for pipe in range(4) if (pipe, queue) != (0, 0)]
FIRST_DOORBELL = 0x20               # 64-bit ones, of the process's slice: behind the card's own
SDMA_SLOTS = range(1, 8)
STOP_TIMEOUT = 2.0                  # amdgpu_amdkfd_gfx_v11.c: hqd_destroy_v11, hqd_sdma_load_v11
DEQUEUE_DRAIN, DEQUEUE_RESET = 1, 2
# kfd_mqd_manager_v11.c, init_mqd and update_mqd
RPTR_BLOCK_SIZE, MIN_IB_AVAIL, PRELOAD_SIZE, LARGEST_EOP = 5, 3, 0x55, 0xA
SLOT_BASED_WPTR = 2
PIPE_PRIORITY = (0,) * 7 + (1,) * 4 + (2,) * 5          # kfd_mqd_manager.c, pipe_priority_map
RPTR_WRITEBACK_TIMER = 6            # update_mqd_sdma
DEBUG_BYTES_PER_WAVE, DEBUG_ALIGN, WAVES_PER_CU = 32, 64, 32
EOP_BYTES = 4096
COMPUTE, SDMA, AQL, BY_ENGINE = (getattr(facts, f"KFD_IOC_QUEUE_TYPE_{name}") for name in (
    "COMPUTE", "SDMA", "COMPUTE_AQL", "SDMA_BY_ENG_ID"))


class HardwareQueue:
    """What the kernel keeps of a queue: its properties, its slot, its doorbell."""

    def __init__(self, gpu: Gpu, arguments: facts.kfd_ioctl_create_queue_args) -> None:
        self.gpu, self.arguments = gpu, arguments
        self.compute = arguments.queue_type in (COMPUTE, AQL)
        self.buffers: list[Handle] = []
        self.slot: tuple[int, int, int] = (0, 0, 0)     # (ME, pipe, queue), or (0, engine, queue)
        self.doorbell = 0                               # dwords in BAR 2
        self.on = False
        self.mqd = 0                                    # offset in VRAM
        self.units: dict[int, int] = {}                 # shader engine -> its CUs, where they were chosen

        self.read = 0                                   # where it stopped when it left the hardware

    def written(self) -> int:
        """The write pointer in the process's memory: what was submitted meanwhile (read_user_wptr)."""
        start = self.arguments.write_pointer_address % PAGE
        return int.from_bytes(self.buffers[0].bo.view()[start:start + 8].tobytes(), "little")

    @property
    def offset(self) -> int:
        """Of the doorbell, in the process's slice: bytes."""
        return 4 * self.doorbell


class Gpu:
    def __init__(self, device: Device, number: int, signal: Callable[[Gpu, int, int], None],
                 fault: Callable[[Gpu, Entry], None]) -> None:
        """:param signal: (card, number that an interrupt carries, bits of it). :param fault: takes a page fault."""
        self.device, self.number = device, number
        self.gpu_id = 0xA300 + 0x11 * number            # kfd_generate_gpu_id: any number but 0
        major, minor, step = device.discovery.require("GC").version
        self.target = 10000 * major + 100 * minor + step
        self.compute_queues, self.copy_queues = len(COMPUTE_SLOTS), len(SDMA_SLOTS)
        self.scratch_address = 0
        self.vm: int | None = None                      # the render node's descriptor whose VM the process has
        self.queues: list[HardwareQueue] = []
        pages = device.require_memory().boot_pages
        self._mqds = [pages.allocate(MQD_BYTES, contiguous=True)[0][0] for _ in COMPUTE_SLOTS]
        self._lock = threading.RLock()                  # registers are selected by GRBM_GFX_CNTL
        self.evicted = False                            # after a fault: the process's queues stay off the card
        self.remap_page = 4 * device.regs.REMAP_HDP_MEM_FLUSH.address & -PAGE
        interrupts = device.interrupts
        interrupts.subscribe(ih.SOC21_IH_CLIENTID_GRBM_CP, ih.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT,
                             lambda entry: signal(self, entry.context[0], 32))
        for client in (ih.SOC21_IH_CLIENTID_GFX, ih.SOC21_IH_CLIENTID_GRBM_CP):
            interrupts.subscribe(client, ih.GFX_11_0_0__SRCID__SDMA_TRAP,
                                 lambda entry: signal(self, entry.context[0] & 0xFFF_FFFF, 28))
            interrupts.subscribe(client, ih.GFX_11_0_0__SRCID__SQ_INTERRUPT_ID,
                                 lambda entry: signal(self, entry.context[0] & 0xFF_FFFF, 24))
        interrupts.subscribe(ih.SOC21_IH_CLIENTID_GFX, ih.GFX_11_0_0__SRCID__UTCL2_FAULT,
                             lambda entry: fault(self, entry))
        for source in range(256):
            interrupts.subscribe(ih.SOC21_IH_CLIENTID_VMC, source, lambda entry: fault(self, entry))

    def flush(self) -> None:
        """What changed in page tables is what the card sees (kfd_flush_tlb)."""
        self.device.flush_hdp()
        self.device.flush_tlb()

    # -- what a queue is made of (kfd_queue.c, kfd_queue_acquire_buffers) ---------------------------------------------

    def acquire(self, queue: HardwareQueue, find: Callable[[int], Handle | None]) -> None:
        """:param find: the buffer that is mapped from an address on. :raises OSError: one is not as it must be."""
        arguments = queue.arguments
        pointer_pages = (arguments.write_pointer_address & -PAGE, arguments.read_pointer_address & -PAGE)
        wanted = [(page, PAGE) for page in pointer_pages]
        wanted.append((arguments.ring_base_address, -(-arguments.ring_size // PAGE) * PAGE))
        if queue.compute:
            units = self.device.compute_units
            saved, stack = sizes(units)
            debug = -(-units * WAVES_PER_CU * DEBUG_BYTES_PER_WAVE // DEBUG_ALIGN) * DEBUG_ALIGN
            if arguments.eop_buffer_address:
                if arguments.eop_buffer_size < EOP_BYTES:
                    raise fail(errno.EINVAL)
                wanted.append((arguments.eop_buffer_address, -(-arguments.eop_buffer_size // PAGE) * PAGE))
            if arguments.ctl_stack_size != stack or arguments.ctx_save_restore_size < saved:
                raise fail(errno.EINVAL)
            wanted.append((arguments.ctx_save_restore_address,
                           -(-(arguments.ctx_save_restore_size + debug) // PAGE) * PAGE))
        for address, size in wanted:
            handle = find(address)
            if handle is None or handle.bo.size != size or self not in handle.mapped:
                raise fail(errno.EINVAL)
            queue.buffers.append(handle)
        for handle in queue.buffers:
            handle.queues += 1

    def remove(self, queue: HardwareQueue) -> None:
        self.unload(queue)
        self.queues.remove(queue)
        if queue.compute:
            self._mqds.append(queue.mqd)

    def place(self, queue: HardwareQueue) -> None:
        """A free slot, its doorbell, and memory for its state. :raises OSError: there is none."""
        taken = {other.slot for other in self.queues}
        if queue.compute:
            free = [slot for slot in COMPUTE_SLOTS if slot not in taken]
            if not free:
                raise fail(errno.ENOMEM)
            queue.slot = free[0]
            queue.doorbell = 2 * (FIRST_DOORBELL + COMPUTE_SLOTS.index(queue.slot))
            queue.mqd = self._mqds.pop()
        else:
            engines = range(len(self.device.sdma_rings))
            if queue.arguments.queue_type == BY_ENGINE:
                if queue.arguments.sdma_engine_id not in engines:
                    raise fail(errno.EINVAL)
                engines = range(queue.arguments.sdma_engine_id, queue.arguments.sdma_engine_id + 1)
            slots = [(0, engine, number) for number in SDMA_SLOTS for engine in engines]
            free = [slot for slot in slots if slot not in taken]
            if not free:
                raise fail(errno.ENOMEM)
            queue.slot = free[0]
            _, engine, number = queue.slot
            queue.doorbell = 2 * (DOORBELL_SDMA_ENGINE0 + DOORBELL_SDMA_STRIDE * engine + number)
        self.queues.append(queue)

    # -- on and off the hardware --------------------------------------------------------------------------------------

    def load(self, queue: HardwareQueue) -> None:
        with self._lock:
            if not self.evicted and not queue.on and queue.arguments.queue_percentage & 0xFF:
                (self._load_compute if queue.compute else self._load_copy)(queue)
                queue.on = True

    def unload(self, queue: HardwareQueue) -> None:
        with self._lock:
            if queue.on:
                queue.on = False
                (self._unload_compute if queue.compute else self._unload_copy)(queue)

    def use_units(self, queue: HardwareQueue, mask: int, count: int) -> None:
        """mqd_symmetrically_map_cu_mask, where WGPs are chosen whole: bits go to the first WGP of each shader engine's
        first array, then to those of the second arrays, then to the second WGPs."""
        gc, active, bit = self.device.discovery.gc, self.device.gfx.wgp_masks, 0
        queue.units = dict.fromkeys(range(gc.shader_engines), 0)
        for unit in range(0, 16, 2):
            for array in range(gc.arrays_per_engine):
                for engine in range(gc.shader_engines):
                    if bit < count and 2 * active[engine, array].bit_count() > unit:
                        if mask >> bit & 0b11:
                            queue.units[engine] |= 0b11 << unit + 16 * array
                        bit += 2
        self.unload(queue)
        self.load(queue)

    def evict(self) -> None:
        """kfd_evict_process_device: every queue leaves the card, for good."""
        with self._lock:
            self.evicted = True
            for queue in self.queues:
                with suppress(OSError):
                    self.unload(queue)

    def _load_compute(self, queue: HardwareQueue) -> None:
        """hqd_load_v11, of what init_mqd and update_mqd put into the MQD."""
        regs, arguments = self.device.regs, queue.arguments
        aql = arguments.queue_type == AQL
        self.device.gfx.enable_interrupts(queue.slot[1])
        self._write_mqd(queue)
        with self.device.gfx.select(*queue.slot):
            regs.CP_HQD_PIPE_PRIORITY.write(PIPE_PRIORITY[arguments.queue_priority])
            regs.CP_HQD_QUEUE_PRIORITY.write(arguments.queue_priority)
            _pair(regs.CP_MQD_BASE_ADDR, regs.CP_MQD_BASE_ADDR_HI, self.device.gmc.fb_start + queue.mqd)
            regs.CP_MQD_CONTROL.write(priv_state=1)
            regs.CP_HQD_VMID.write(QUEUE_VMID)
            regs.CP_HQD_PERSISTENT_STATE.write(preload_req=1, preload_size=PRELOAD_SIZE)
            _pair(regs.CP_HQD_PQ_BASE, regs.CP_HQD_PQ_BASE_HI, arguments.ring_base_address >> 8)
            _pair(regs.CP_HQD_PQ_RPTR_REPORT_ADDR, regs.CP_HQD_PQ_RPTR_REPORT_ADDR_HI, arguments.read_pointer_address)
            _pair(regs.CP_HQD_PQ_WPTR_POLL_ADDR, regs.CP_HQD_PQ_WPTR_POLL_ADDR_HI, arguments.write_pointer_address)
            regs.CP_HQD_PQ_CONTROL.write(
                queue_size=(arguments.ring_size // 4).bit_length() - 2, rptr_block_size=RPTR_BLOCK_SIZE,
                unord_dispatch=1, no_update_rptr=int(aql), slot_based_wptr=SLOT_BASED_WPTR if aql else 0,
                queue_full_en=int(aql))
            regs.CP_HQD_AQL_CONTROL.write(control0=int(aql))
            regs.CP_HQD_IB_CONTROL.write(min_ib_avail_size=MIN_IB_AVAIL)
            _pair(regs.CP_HQD_EOP_BASE_ADDR, regs.CP_HQD_EOP_BASE_ADDR_HI, arguments.eop_buffer_address >> 8)
            eop = (arguments.eop_buffer_size // 16 & -(arguments.eop_buffer_size // 16)).bit_length()
            regs.CP_HQD_EOP_CONTROL.write(eop_size=min(LARGEST_EOP, eop))
            regs.CP_HQD_PQ_RPTR.write(queue.read)
            _pair(regs.CP_HQD_PQ_WPTR_LO, regs.CP_HQD_PQ_WPTR_HI, 0 if aql else queue.written())
            regs.CP_HQD_PQ_DOORBELL_CONTROL.write(doorbell_offset=queue.doorbell, doorbell_en=1,
                                                  doorbell_bif_drop=int(aql))
            regs.CP_HQD_ACTIVE.write(active=1)
        regs.CP_PQ_STATUS.update(doorbell_enable=1)

    def _write_mqd(self, queue: HardwareQueue) -> None:
        """What the micro engine takes from memory when the queue becomes active: the compute state (init_mqd)."""
        mqd = mqd_v11.v11_compute_mqd(header=MQD_HEADER, compute_pipelinestat_enable=1)
        for engine in range(SHADER_ENGINES_IN_MQD):
            setattr(mqd, f"compute_static_thread_mgmt_se{engine}", queue.units.get(engine, STATIC_THREAD_MGMT))
        content = np.frombuffer(bytes(mqd), np.uint8)
        self.device.require_memory().view(queue.mqd, len(content))[:] = content
        self.device.flush_hdp()

    def _unload_compute(self, queue: HardwareQueue) -> None:
        """hqd_destroy_v11; a queue that does not drain loses its waves."""
        regs = self.device.regs
        active = regs.CP_HQD_ACTIVE
        with self.device.gfx.select(*queue.slot):
            for how in (DEQUEUE_DRAIN, DEQUEUE_RESET):
                if not active.read().active:
                    break
                regs.CP_HQD_DEQUEUE_REQUEST.write(dequeue_req=how)
                if how == DEQUEUE_RESET:
                    regs.SPI_COMPUTE_QUEUE_RESET.write(reset=1)
                try:
                    wait_until(lambda: not active.read().active, STOP_TIMEOUT, "a queue to leave the hardware")
                except WaitTimeout:
                    if how == DEQUEUE_RESET:
                        raise fail(errno.ETIME) from None
            regs.CP_HQD_DEQUEUE_REQUEST.write(0)
            queue.read = int(regs.CP_HQD_PQ_RPTR.read())

    def _sdma(self, queue: HardwareQueue, name: str) -> BoundRegister:
        return self.device.regs[f"SDMA{queue.slot[1]}_QUEUE{queue.slot[2]}_{name}"]

    def _load_copy(self, queue: HardwareQueue) -> None:
        """hqd_sdma_load_v11"""
        arguments = queue.arguments

        def reg(name: str) -> BoundRegister:
            return self._sdma(queue, name)

        reg("RB_CNTL").write(rb_enable=0)
        reg("DOORBELL_OFFSET").write(offset=queue.doorbell)
        reg("DOORBELL").write(enable=1)
        _pair(reg("RB_RPTR"), reg("RB_RPTR_HI"), queue.read)
        reg("MINOR_PTR_UPDATE").write(enable=1)
        _pair(reg("RB_WPTR"), reg("RB_WPTR_HI"), queue.written())
        reg("MINOR_PTR_UPDATE").write(enable=0)
        _pair(reg("RB_BASE"), reg("RB_BASE_HI"), arguments.ring_base_address >> 8)
        _pair(reg("RB_RPTR_ADDR_LO"), reg("RB_RPTR_ADDR_HI"), arguments.read_pointer_address)
        _pair(reg("RB_WPTR_POLL_ADDR_LO"), reg("RB_WPTR_POLL_ADDR_HI"), arguments.write_pointer_address)
        reg("RB_CNTL").write(
            rb_size=(arguments.ring_size // 4).bit_length() - 1, rb_vmid=QUEUE_VMID, rptr_writeback_enable=1,
            rptr_writeback_timer=RPTR_WRITEBACK_TIMER, f32_wptr_poll_enable=1, rb_enable=1)
        reg("IB_CNTL").update(ib_enable=1)

    def _unload_copy(self, queue: HardwareQueue) -> None:
        """hqd_sdma_destroy_v11"""
        status = self._sdma(queue, "CONTEXT_STATUS")
        self._sdma(queue, "RB_CNTL").update(rb_enable=0)
        try:
            wait_until(lambda: status.read().idle, STOP_TIMEOUT, "a copy queue to leave its engine")
        except WaitTimeout:
            raise fail(errno.ETIME) from None
        queue.read = int(self._sdma(queue, "RB_RPTR").read()) | int(self._sdma(queue, "RB_RPTR_HI").read()) << 32
        self._sdma(queue, "DOORBELL").write(0)


def _pair(low: BoundRegister, high: BoundRegister, value: int) -> None:
    low.write(value & 0xFFFF_FFFF)
    high.write(value >> 32)
