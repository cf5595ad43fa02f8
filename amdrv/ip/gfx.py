"""GFX: the graphics core's compute side. MEC firmware, shader memory windows, and compute queues (HQDs).

The RLC has loaded the firmware by now; this file tells the MEC where it starts, opens the doorbells and activates
queues by their registers (Linux 6.1, gfx_v11_0.c, gfx_v11_0_hw_init; queues as in amdgpu_amdkfd_gfx_v11.c,
hqd_load_v11). The graphics pipe is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from amdrv.errors import BootError, PacketError, WaitTimeout
from amdrv.facts import mqd_v11
from amdrv.ip.gmc import KERNEL_VMID, QUEUE_VMID
from amdrv.ip.nbio import DOORBELL_KIQ, DOORBELL_MEC_RING0, DOORBELL_USERQUEUE_END
from amdrv.regs import BoundRegister
from amdrv.wait import wait_until

if TYPE_CHECKING:
    from amdrv.device import Device
    from amdrv.ip.ih import Entry
    from amdrv.memory import Allocation
    from amdrv.ring import Ring, RingKind

__all__ = ["Gfx", "PRIVATE_APERTURE", "SHARED_APERTURE", "STATIC_THREAD_MGMT"]

AUTOLOAD_TIMEOUT = 5.0
DEQUEUE_TIMEOUT = 2.0
DEQUEUE_RESET_WAVES = 2                 # newer kernels' mes_v11_0.c, mes_v11_0_reset_queue_mmio
MEC_PIPES = 4

# Where flat addresses mean LDS and scratch (gmc_v11_0_early_init, shared_aperture_start and private_aperture_start)
SHARED_APERTURE = 0x2000_0000_0000_0000
PRIVATE_APERTURE = 0x1000_0000_0000_0000

# DEFAULT_SH_MEM_CONFIG (gfx_v11_0.c), with the enums of soc21_enum.h
SH_MEM_ADDRESS_MODE_64 = 0
SH_MEM_ALIGNMENT_MODE_UNALIGNED = 3
INITIAL_INST_PREFETCH = 3

GRBM_READ_TIMEOUT = 0xFF                # gfx_v11_0_constants_init
TCP_CNTL_GOLDEN = 0x2000_0000           # golden_settings_gc_11_0: mask and value
RPTR_BLOCK_BYTES = 4096                 # gfx_v11_0_compute_mqd_init
EOP_BYTES = 2048                        # GFX11_MEC_HPD_SIZE
PRELOAD_SIZE = 0x55                     # gfx_v11_0_compute_mqd_init
MIN_IB_AVAIL_SIZE = 3
MQD_HEADER = 0xC031_0800                # gfx_v11_0_compute_mqd_init
MQD_MISC = 0x7                          # compute_misc_reserved there
MQD_BYTES = 4096
STATIC_THREAD_MGMT = 0xFFFF_FFFF        # every WGP of a shader engine; for COMPUTE_STATIC_THREAD_MGMT_SE0..7
SHADER_ENGINES_IN_MQD = 8
RING_WORDS = 1 << 16
AQL_SLOTS = 1 << 13                     # packets of an AQL ring
SLOT_BASED_WPTR_AQL = 2                 # Linux 6.1, kfd_mqd_manager_v11.c, update_mqd

MEC1 = 1                                # ME number of the first compute micro engine
QUEUES = ((MEC1, 0, 0),)                # (ME, pipe, queue) of the compute rings that every boot sets up
MORE_QUEUES = tuple((MEC1, pipe, queue) for queue in range(2) for pipe in range(4))[1:]     # those that may follow
# Linux 6.1, kfd_mqd_manager.c, pipe_priority_map: CS_LOW, CS_MEDIUM, CS_HIGH, and KFD's queue priorities of 0 to 15
PRIORITIES = {"low": (0, 0), "normal": (1, 7), "high": (2, 15)}


class Gfx:
    def __init__(self, device: Device) -> None:
        self.device, self.regs = device, device.regs
        self.rings: list[Ring] = []
        self._places: list[tuple[Allocation, int]] = []     # of each ring: EOP buffer, the MQD's offset in VRAM
        self._priorities: dict[int, tuple[int, int]] = {}   # of the rings that were added: pipe's, queue's
        self.queues = list(QUEUES)                          # (ME, pipe, queue) of each ring
        self.wgp_masks: dict[tuple[int, int], int] = {}     # (shader engine, array) -> active WGPs
        self.powered = False

    def boot(self) -> None:
        self._wait_for_autoload()
        self.powered = True
        self._start_addresses()
        self.device.gmc.boot_gc()
        self._golden_registers()
        self._read_shape()
        self._shader_memory()
        self.device.nbio.route_gc_doorbells()
        self._doorbell_range()
        self._enable_mec()
        for used in sorted({pipe for _, pipe, _ in QUEUES}):
            self.enable_interrupts(used)
        for number, (me, pipe, queue) in enumerate(QUEUES):
            self.rings.append(self._make_ring(number, me, pipe, queue))
        for priority, aql in self.device.added_queues:       # after a reset of the whole card
            self._add(priority, aql)

    # -- firmware ----------------------------------------------------------------------------------------------------

    def _wait_for_autoload(self) -> None:
        """gfx_v11_0_wait_for_rlc_autoload_complete"""
        status = self.regs.RLC_RLCS_BOOTLOAD_STATUS
        try:
            wait_until(lambda: not self.regs.CP_STAT.read() and status.read().bootload_complete, AUTOLOAD_TIMEOUT,
                       "RLC to load the graphics core's firmware (RLC_RLCS_BOOTLOAD_STATUS.BOOTLOAD_COMPLETE)",
                       seen=lambda: f"{status.read()!r}, CP_STAT {int(self.regs.CP_STAT.read()):#x}")
        except WaitTimeout as error:
            raise BootError(f"{error}; one of the gc_*.bin firmware files does not belong to this card") from error

    def _start_addresses(self) -> None:
        """gfx_v11_0_config_gfx_rs64, its MEC part: every pipe starts where the image says, after a reset."""
        mec = self.device.firmware.image("RS64_MEC")
        if mec.start_address is None:
            raise BootError(f"{mec.file} names no start address of the MEC's code")
        start = mec.start_address >> 2
        for pipe in range(MEC_PIPES):
            with self.select(MEC1, pipe):
                self.regs.CP_MEC_RS64_PRGRM_CNTR_START.write(start & 0xFFFF_FFFF)
                self.regs.CP_MEC_RS64_PRGRM_CNTR_START_HI.write(start >> 32)
        pipes = [f"mec_pipe{pipe}_reset" for pipe in range(MEC_PIPES)]
        self.regs.CP_MEC_RS64_CNTL.update(**dict.fromkeys(pipes, 1))
        self.regs.CP_MEC_RS64_CNTL.update(**dict.fromkeys(pipes, 0))

    def _enable_mec(self, on: bool = True) -> None:
        """gfx_v11_0_cp_compute_enable"""
        pipes = range(MEC_PIPES)
        self.regs.CP_MEC_RS64_CNTL.update(
            mec_invalidate_icache=int(not on), mec_halt=int(not on),
            **{f"mec_pipe{pipe}_reset": int(not on) for pipe in pipes},
            **{f"mec_pipe{pipe}_active": int(on) for pipe in pipes})

    # -- the core's set-up ---------------------------------------------------------------------------------------------

    def _golden_registers(self) -> None:
        """gfx_v11_0_init_golden_registers, and the head of gfx_v11_0_constants_init"""
        self.regs.TCP_CNTL.write(int(self.regs.TCP_CNTL.read()) | TCP_CNTL_GOLDEN)
        self.regs.GRBM_CNTL.update(read_timeout=GRBM_READ_TIMEOUT)

    def _read_shape(self) -> None:
        """gfx_v11_0_get_cu_info: which WGPs are there, after fuses and after what firmware switched off."""
        gc = self.device.discovery.gc
        all_wgps = (1 << gc.wgps_per_array) - 1
        disabled = (self.regs.CC_GC_SA_UNIT_DISABLE.read().sa_disable
                    | self.regs.GC_USER_SA_UNIT_DISABLE.read().sa_disable)
        for engine in range(gc.shader_engines):
            for array in range(gc.arrays_per_engine):
                if disabled >> (engine * gc.arrays_per_engine + array) & 1:
                    self.wgp_masks[engine, array] = 0
                    continue
                self.regs.GRBM_GFX_INDEX.write(se_index=engine, sa_index=array, instance_broadcast_writes=1)
                gone = (self.regs.CC_GC_SHADER_ARRAY_CONFIG.read().inactive_wgps
                        | self.regs.GC_USER_SHADER_ARRAY_CONFIG.read().inactive_wgps)
                self.wgp_masks[engine, array] = all_wgps & ~gone
        self.regs.GRBM_GFX_INDEX.write(se_broadcast_writes=1, sa_broadcast_writes=1, instance_broadcast_writes=1)
        if not any(self.wgp_masks.values()):
            raise BootError("every WGP is switched off; CC_GC_SHADER_ARRAY_CONFIG reads as harvested")

    def _shader_memory(self) -> None:
        """gfx_v11_0_constants_init: address mode and apertures, for each VMID that is used."""
        for vmid in (KERNEL_VMID, QUEUE_VMID):
            with self.select(vmid=vmid):
                self.regs.SH_MEM_CONFIG.write(address_mode=SH_MEM_ADDRESS_MODE_64,
                                              alignment_mode=SH_MEM_ALIGNMENT_MODE_UNALIGNED,
                                              initial_inst_prefetch=INITIAL_INST_PREFETCH)
                if vmid != KERNEL_VMID:
                    self.regs.SH_MEM_BASES.write(private_base=PRIVATE_APERTURE >> 48, shared_base=SHARED_APERTURE >> 48)

    def _doorbell_range(self) -> None:
        """gfx_v11_0_cp_set_doorbell_range, in bytes of the doorbell BAR"""
        self.regs.CP_MEC_DOORBELL_RANGE_LOWER.write(DOORBELL_KIQ * 2 << 2)
        self.regs.CP_MEC_DOORBELL_RANGE_UPPER.write(DOORBELL_USERQUEUE_END * 2 << 2)

    def enable_interrupts(self, pipe: int) -> None:
        """gfx_v11_0_set_compute_eop_interrupt_state and the error interrupts, of a pipe that has a ring"""
        self.regs[f"CP_ME1_PIPE{pipe}_INT_CNTL"].update(
            time_stamp_int_enable=1, generic0_int_enable=1, priv_reg_int_enable=1, opcode_error_int_enable=1,
            reserved_bit_error_int_enable=1)

    @contextmanager
    def select(self, me: int = 0, pipe: int = 0, queue: int = 0, vmid: int = 0) -> Iterator[None]:
        """soc21_grbm_select: registers that exist once a queue or once a VMID now mean this one."""
        self.regs.GRBM_GFX_CNTL.write(pipeid=pipe, meid=me, vmid=vmid, queueid=queue)
        try:
            yield
        finally:
            self.regs.GRBM_GFX_CNTL.write(0)

    # -- queues --------------------------------------------------------------------------------------------------------

    def _make_ring(self, number: int, me: int, pipe: int, queue: int, aql: bool = False) -> Ring:
        kind: RingKind = "aql" if aql else "compute"
        name = f"{self.device.name} {kind} {sum(ring.kind == kind for ring in self.rings)}"
        ring = self.device.make_ring(name, kind, words=AQL_SLOTS if aql else RING_WORDS, unit=4,
                                     doorbell=2 * (DOORBELL_MEC_RING0 + number))
        memory = self.device.require_memory()
        eop = memory.alloc(EOP_BYTES, name=f"{ring.name} EOP")
        offset = memory.boot_pages.allocate(MQD_BYTES, contiguous=True)[0][0]
        self._places.append((eop, offset))
        self._start(ring, (me, pipe, queue), eop, offset)
        return ring

    def add_ring(self, priority: str, *, aql: bool = False) -> Ring:
        """One more compute queue, on a pipe of its own as long as there is one.

        :param aql: its packets are AQL's, not PM4's.
        :raises PacketError: there are no more, or no such priority.
        """
        number = len(self.rings)
        if number > len(MORE_QUEUES):
            raise PacketError(f"{self.device.name} has {number} compute queues; there are no more")
        if priority not in PRIORITIES:
            raise PacketError(f"a queue's priority is {', '.join(PRIORITIES)}, not {priority!r}")
        ring = self._add(priority, aql)
        self.device.added_queues.append((priority, aql))
        return ring

    def _add(self, priority: str, aql: bool) -> Ring:
        number = len(self.rings)
        place = MORE_QUEUES[number - 1]
        self.enable_interrupts(place[1])
        self.queues.append(place)
        self._priorities[number] = PRIORITIES[priority]
        self.rings.append(self._make_ring(number, *place, aql))
        return self.rings[-1]

    def _start(self, ring: Ring, place: tuple[int, int, int], eop: Allocation, offset: int) -> None:
        """:param offset: of the MQD in VRAM."""
        memory = self.device.require_memory()
        if eop.view is not None:
            eop.view[:] = 0
        with self.select(*place):
            added = place not in QUEUES
            mqd = self._mqd(ring, eop.address, self.device.gmc.fb_start + offset, added=added)
            if place in self.queues and (priority := self._priorities.get(self.queues.index(place))):
                mqd.cp_hqd_pipe_priority, mqd.cp_hqd_queue_priority = priority
                self.regs.CP_HQD_PIPE_PRIORITY.write(priority[0])
                self.regs.CP_HQD_QUEUE_PRIORITY.write(priority[1])
            memory.view(offset, len(bytes(mqd)))[:] = np.frombuffer(bytes(mqd), np.uint8)
            self.device.hdp.flush()
            self._activate(mqd, added=added)

    # -- a queue that stands still -------------------------------------------------------------------------------------

    def busy(self, ring: Ring) -> bool:
        """Has the queue packets that it has not finished?"""
        if ring.kind == "aql":                  # its indices are in memory
            return bool(ring.pending)
        with self.select(*self.queues[self.rings.index(ring)]):
            regs = self.regs
            behind = int(regs.CP_HQD_PQ_WPTR_LO.read()) - int(regs.CP_HQD_PQ_RPTR.read())
            return bool(regs.CP_HQD_ACTIVE.read().active) and behind % ring.words != 0

    def program_of(self, ring: Ring) -> int:
        """GPU address of the code that the queue's last launch began with."""
        with self.select(*self.queues[self.rings.index(ring)]):
            return (int(self.regs.COMPUTE_PGM_LO.read()) | int(self.regs.COMPUTE_PGM_HI.read()) << 32) << 8

    def reset_queue(self, ring: Ring) -> None:
        """Kill the queue's waves, take it off the hardware, and start it anew, empty (newer kernels' mes_v11_0.c,
        mes_v11_0_reset_queue_mmio, and gfx_v11_0.c, gfx_v11_0_reset_kcq).

        :raises WaitTimeout: the queue does not leave.
        """
        number = self.rings.index(ring)
        with self.select(*self.queues[number]):
            active = self.regs.CP_HQD_ACTIVE
            self.regs.CP_HQD_DEQUEUE_REQUEST.write(dequeue_req=DEQUEUE_RESET_WAVES)
            self.regs.SPI_COMPUTE_QUEUE_RESET.write(reset=1)
            wait_until(lambda: not active.read().active, DEQUEUE_TIMEOUT,
                       f"{ring.name} to leave the hardware (CP_HQD_ACTIVE)", seen=lambda: repr(active.read()))
            self.regs.CP_HQD_DEQUEUE_REQUEST.write(0)
        self._start_again(number)

    def reset_mec(self) -> None:
        """Halt the micro engine, pulse the reset of its pipes, and start it and every queue anew, empty (newer kernels'
        gfx_v11_0.c, gfx_v11_0_reset_compute_pipe)."""
        self._enable_mec(False)
        for place in self.queues:
            with self.select(*place):       # what the pipe's reset left in a queue's registers must not run
                self.regs.CP_HQD_ACTIVE.write(0)
                self.regs.CP_HQD_DEQUEUE_REQUEST.write(0)
        self._start_addresses()
        self._enable_mec()
        for number in range(len(self.rings)):
            self._start_again(number)

    def _start_again(self, number: int) -> None:
        self.rings[number].restart()
        self._start(self.rings[number], self.queues[number], *self._places[number])

    def _mqd(self, ring: Ring, eop: int, address: int, *, added: bool) -> mqd_v11.v11_compute_mqd:
        """gfx_v11_0_compute_mqd_init, for a queue in a VMID of its own and without privileges, as KFD's are.

        :param address: of the MQD itself, as VMID 0 sees it.
        :param added: the queue is not one of the boot's: it may be AQL, and its place may have held another kind.
        """
        regs, mqd = self.regs, mqd_v11.v11_compute_mqd()
        mqd.header, mqd.compute_pipelinestat_enable, mqd.compute_misc_reserved = MQD_HEADER, 1, MQD_MISC
        for engine in range(SHADER_ENGINES_IN_MQD):
            setattr(mqd, f"compute_static_thread_mgmt_se{engine}", STATIC_THREAD_MGMT)
        mqd.cp_mqd_base_addr_lo, mqd.cp_mqd_base_addr_hi = address & 0xFFFF_FFFC, address >> 32
        mqd.cp_mqd_control = _changed(regs.CP_MQD_CONTROL, vmid=KERNEL_VMID)
        mqd.cp_hqd_vmid = QUEUE_VMID
        mqd.cp_hqd_persistent_state = _changed(regs.CP_HQD_PERSISTENT_STATE, preload_size=PRELOAD_SIZE)
        mqd.cp_hqd_pq_base_lo, mqd.cp_hqd_pq_base_hi = _halves(ring.buffer.address >> 8)
        mqd.cp_hqd_pq_rptr_report_addr_lo, mqd.cp_hqd_pq_rptr_report_addr_hi = _halves(ring.rptr_address)
        mqd.cp_hqd_pq_wptr_poll_addr_lo, mqd.cp_hqd_pq_wptr_poll_addr_hi = _halves(ring.wptr_address)
        mqd.cp_hqd_pq_doorbell_control = _changed(regs.CP_HQD_PQ_DOORBELL_CONTROL,
            doorbell_offset=ring.doorbell, doorbell_en=1, doorbell_source=0, doorbell_hit=0)
        mqd.cp_hqd_pq_control = _changed(regs.CP_HQD_PQ_CONTROL,
            queue_size=ring.words.bit_length() - 2, rptr_block_size=(RPTR_BLOCK_BYTES // 4).bit_length() - 2,
            unord_dispatch=0, tunnel_dispatch=0, priv_state=0, kmd_queue=0)
        if added:           # Linux 6.1, kfd_mqd_manager_v11.c, init_mqd and update_mqd; what was here before may remain
            aql = int(ring.kind == "aql")
            mqd.cp_hqd_aql_control = regs.CP_HQD_AQL_CONTROL.register.pack(CONTROL0=aql)
            mqd.cp_hqd_pq_control = regs.CP_HQD_PQ_CONTROL.register.replace(
                mqd.cp_hqd_pq_control, NO_UPDATE_RPTR=aql, SLOT_BASED_WPTR=aql * SLOT_BASED_WPTR_AQL, QUEUE_FULL_EN=aql)
            mqd.cp_hqd_pq_doorbell_control = regs.CP_HQD_PQ_DOORBELL_CONTROL.register.replace(
                mqd.cp_hqd_pq_doorbell_control, DOORBELL_BIF_DROP=aql)
        mqd.cp_hqd_ib_control = _changed(regs.CP_HQD_IB_CONTROL, min_ib_avail_size=MIN_IB_AVAIL_SIZE)
        mqd.cp_hqd_eop_base_addr_lo, mqd.cp_hqd_eop_base_addr_hi = _halves(eop >> 8)
        mqd.cp_hqd_eop_control = _changed(regs.CP_HQD_EOP_CONTROL, eop_size=(EOP_BYTES // 4).bit_length() - 2)
        mqd.cp_hqd_active = 1
        return mqd

    def _activate(self, mqd: mqd_v11.v11_compute_mqd, *, added: bool) -> None:
        """gfx_v11_0_kiq_init_register: the MQD goes into the selected queue's registers, ACTIVE last."""
        regs = self.regs
        self._dequeue("an earlier queue")
        if added:
            regs.CP_HQD_AQL_CONTROL.write(mqd.cp_hqd_aql_control)
        regs.CP_PQ_WPTR_POLL_CNTL.update(en=0)
        regs.CP_HQD_EOP_BASE_ADDR.write(mqd.cp_hqd_eop_base_addr_lo)
        regs.CP_HQD_EOP_BASE_ADDR_HI.write(mqd.cp_hqd_eop_base_addr_hi)
        regs.CP_HQD_EOP_CONTROL.write(mqd.cp_hqd_eop_control)
        regs.CP_MQD_BASE_ADDR.write(mqd.cp_mqd_base_addr_lo)
        regs.CP_MQD_BASE_ADDR_HI.write(mqd.cp_mqd_base_addr_hi)
        regs.CP_MQD_CONTROL.write(mqd.cp_mqd_control)
        regs.CP_HQD_PQ_BASE.write(mqd.cp_hqd_pq_base_lo)
        regs.CP_HQD_PQ_BASE_HI.write(mqd.cp_hqd_pq_base_hi)
        regs.CP_HQD_PQ_CONTROL.write(mqd.cp_hqd_pq_control)
        regs.CP_HQD_IB_CONTROL.write(mqd.cp_hqd_ib_control)
        regs.CP_HQD_PQ_RPTR_REPORT_ADDR.write(mqd.cp_hqd_pq_rptr_report_addr_lo)
        regs.CP_HQD_PQ_RPTR_REPORT_ADDR_HI.write(mqd.cp_hqd_pq_rptr_report_addr_hi)
        regs.CP_HQD_PQ_WPTR_POLL_ADDR.write(mqd.cp_hqd_pq_wptr_poll_addr_lo)
        regs.CP_HQD_PQ_WPTR_POLL_ADDR_HI.write(mqd.cp_hqd_pq_wptr_poll_addr_hi)
        regs.CP_HQD_PQ_DOORBELL_CONTROL.write(mqd.cp_hqd_pq_doorbell_control)
        regs.CP_HQD_PQ_RPTR.write(0)
        regs.CP_HQD_PQ_WPTR_LO.write(mqd.cp_hqd_pq_wptr_lo)
        regs.CP_HQD_PQ_WPTR_HI.write(mqd.cp_hqd_pq_wptr_hi)
        regs.CP_HQD_VMID.write(mqd.cp_hqd_vmid)
        regs.CP_HQD_PERSISTENT_STATE.write(mqd.cp_hqd_persistent_state)
        regs.CP_HQD_ACTIVE.write(mqd.cp_hqd_active)
        regs.CP_PQ_STATUS.update(doorbell_enable=1)

    def ring_of(self, entry: Entry) -> Ring | None:
        """By an interrupt's ring id (gfx_v11_0_eop_irq): bits 1:0 pipe, 3:2 ME, 6:4 queue."""
        place = entry.ring_id >> 2 & 3, entry.ring_id & 3, entry.ring_id >> 4 & 7
        return dict(zip(self.queues, self.rings, strict=False)).get(place)

    def _dequeue(self, what: str) -> None:
        """Take the selected queue off the hardware, if it is on it."""
        active = self.regs.CP_HQD_ACTIVE
        if not active.read().active:
            return
        self.regs.CP_HQD_DEQUEUE_REQUEST.write(dequeue_req=1)
        wait_until(lambda: not active.read().active, DEQUEUE_TIMEOUT, f"{what} to leave the hardware (CP_HQD_ACTIVE)",
                   seen=lambda: repr(active.read()))
        self.regs.CP_HQD_DEQUEUE_REQUEST.write(0)

    def shutdown(self) -> None:
        """gfx_v11_0_hw_fini"""
        if not self.powered:
            return
        self.powered = False
        try:
            for ring, (me, pipe, queue) in zip(self.rings, self.queues, strict=False):
                with self.select(me, pipe, queue):
                    self._dequeue(ring.name)
        finally:
            self.rings = []
            self._enable_mec(False)
            self.device.gmc.shutdown_gc()


def _changed(register: BoundRegister, **fields: int) -> int:
    """The register's value with some fields changed; nothing is written."""
    return register.register.replace(int(register.read()), **fields)


def _halves(value: int) -> tuple[int, int]:
    return value & 0xFFFF_FFFF, value >> 32
