"""SDMA: the copy engines. One queue each, activated by registers (Linux 6.1, sdma_v6_0.c, sdma_v6_0_gfx_resume)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from amdrv.ip.gmc import QUEUE_VMID
from amdrv.ip.nbio import DOORBELL_SDMA_ENGINE0, DOORBELL_SDMA_RANGE, DOORBELL_SDMA_STRIDE
from amdrv.regs import BoundRegister
from amdrv.wait import wait_until

if TYPE_CHECKING:
    from amdrv.device import Device
    from amdrv.ip.ih import Entry
    from amdrv.ring import Ring

__all__ = ["Sdma"]

RING_WORDS = 1 << 16
ENGINES = 4                     # names in the discovery table: SDMA0 .. SDMA3

STOP_TIMEOUT = 0.5              # seconds for a queue to leave its engine
SOFT_RESET_TIME = 50e-6         # sdma_v6_0_soft_reset

UTCL1_RESP_MODE = 3             # sdma_v6_0_gfx_resume: "non-copy addresses"
UTCL1_REDO_DELAY = 9
CACHE_POLICY_DEFAULT = (2, 3)   # sdma_common.h: CACHE_READ_POLICY_L2__DEFAULT, CACHE_WRITE_POLICY_L2__DEFAULT


class Sdma:
    def __init__(self, device: Device) -> None:
        self.device, self.regs = device, device.regs
        self.rings: list[Ring] = []
        self.count = sum(device.discovery.find(f"SDMA{number}") is not None for number in range(ENGINES))
        self._started = 0

    def _reg(self, engine: int, name: str) -> BoundRegister:
        return self.regs[f"SDMA{engine}_{name}"]

    def boot(self) -> None:
        doorbell = 2 * DOORBELL_SDMA_ENGINE0
        self.device.nbio.route_sdma_doorbells(doorbell, DOORBELL_SDMA_RANGE * self.count)
        for engine in range(self.count):
            ring = self.device.make_ring(f"{self.device.name} SDMA {engine}", "copy", words=RING_WORDS, unit=1,
                                         doorbell=doorbell + 2 * DOORBELL_SDMA_STRIDE * engine)
            self._started = engine + 1
            self._start(engine, ring)
            self.rings.append(ring)

    def _start(self, engine: int, ring: Ring) -> None:
        def queue(name: str) -> BoundRegister:
            return self._reg(engine, f"QUEUE0_{name}")

        self._reg(engine, "SEM_WAIT_FAIL_TIMER_CNTL").write(0)
        control = queue("RB_CNTL").update(rb_enable=0, rb_size=ring.words.bit_length() - 1, rb_priv=0,
                                          rb_vmid=QUEUE_VMID)
        for pointer in ("RB_RPTR", "RB_RPTR_HI", "RB_WPTR", "RB_WPTR_HI"):
            queue(pointer).write(0)
        queue("RB_WPTR_POLL_ADDR_LO").write(ring.wptr_address & 0xFFFF_FFFF)
        queue("RB_WPTR_POLL_ADDR_HI").write(ring.wptr_address >> 32)
        queue("RB_RPTR_ADDR_HI").write(ring.rptr_address >> 32)
        queue("RB_RPTR_ADDR_LO").write(ring.rptr_address & 0xFFFF_FFFC)
        queue("RB_BASE").write(ring.buffer.address >> 8 & 0xFFFF_FFFF)
        queue("RB_BASE_HI").write(ring.buffer.address >> 40)
        # a write pointer may only fall while MINOR_PTR_UPDATE is set
        queue("MINOR_PTR_UPDATE").write(enable=1)
        queue("RB_WPTR").write(0)
        queue("RB_WPTR_HI").write(0)
        queue("DOORBELL").update(enable=1)
        queue("DOORBELL_OFFSET").update(offset=ring.doorbell)
        queue("MINOR_PTR_UPDATE").write(enable=0)

        self._reg(engine, "UTCL1_CNTL").update(resp_mode=UTCL1_RESP_MODE, redo_delay=UTCL1_REDO_DELAY)
        read_policy, write_policy = CACHE_POLICY_DEFAULT
        self._reg(engine, "UTCL1_PAGE").update(rd_l2_policy=read_policy, wr_l2_policy=write_policy, llc_noalloc=1)
        # sdma_v6_0_set_trap_irq_state
        self._reg(engine, "CNTL").update(trap_enable=1)
        self._reg(engine, "F32_CNTL").update(halt=0, th1_reset=0)
        queue("RB_CNTL").write(int(control), rptr_writeback_enable=1, wptr_poll_enable=0, f32_wptr_poll_enable=1,
                               rb_enable=1)
        queue("IB_CNTL").update(ib_enable=1)

    # -- one engine that stands still ---------------------------------------------------------------------------------

    def busy(self, ring: Ring) -> bool:
        """Is the engine at work, or stuck in it? (sdma_v6_0_is_idle)"""
        return not self._reg(self.rings.index(ring), "STATUS_REG").read().idle

    def reset_queue(self, ring: Ring) -> None:
        """Take the queue off the engine, whatever it is at, and start it anew, empty (sdma_v6_0_gfx_stop).

        :raises WaitTimeout: the engine does not let go of it.
        """
        engine = self.rings.index(ring)
        self._reg(engine, "QUEUE0_RB_CNTL").update(rb_enable=0)
        self._reg(engine, "QUEUE0_IB_CNTL").update(ib_enable=0)
        status = self._reg(engine, "STATUS_REG")
        wait_until(lambda: status.read().idle, STOP_TIMEOUT, f"{ring.name} to stop (SDMA{engine}_STATUS_REG.IDLE)",
                   seen=lambda: repr(status.read()))
        ring.restart()
        self._start(engine, ring)

    def reset_engine(self, ring: Ring) -> None:
        """sdma_v6_0_soft_reset: the engine loses all that it knows, and its queue starts anew."""
        engine = self.rings.index(ring)
        self._reg(engine, "FREEZE").update(freeze=1)
        self._reg(engine, "F32_CNTL").update(halt=1, th1_reset=1)
        self.regs.GRBM_SOFT_RESET.update(**{f"soft_reset_sdma{engine}": 1})
        self.regs.GRBM_SOFT_RESET.read()
        time.sleep(SOFT_RESET_TIME)
        self.regs.GRBM_SOFT_RESET.update(**{f"soft_reset_sdma{engine}": 0})
        self.regs.GRBM_SOFT_RESET.read()
        self._reg(engine, "FREEZE").update(freeze=0)
        ring.restart()
        self._start(engine, ring)

    def ring_of(self, entry: Entry) -> Ring | None:
        """By an interrupt's ring id (sdma_v6_0_process_trap_irq): bits 3:0 queue, 7:4 engine."""
        engine, queue = entry.ring_id >> 4, entry.ring_id & 0xF
        return self.rings[engine] if queue == 0 and engine < len(self.rings) else None

    def shutdown(self) -> None:
        """sdma_v6_0_gfx_stop, then sdma_v6_0_enable off"""
        for engine in range(self._started):
            self._reg(engine, "QUEUE0_RB_CNTL").update(rb_enable=0)
            self._reg(engine, "QUEUE0_IB_CNTL").update(ib_enable=0)
            self._reg(engine, "F32_CNTL").update(halt=1)
        if self._started:
            self.device.nbio.close_sdma_doorbells()
        self._started = 0
        self.rings = []
