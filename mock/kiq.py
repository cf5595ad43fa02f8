"""Packets that manage queues, for the queue that RLC_CP_SCHEDULERS names (the kernel's interface queue).

Facts: Linux 6.1, gfx_v11_0.c (gfx11_kiq_map_queues: engine 0 or 1 is compute, 4 graphics, 5 the scheduler, whose ME is
2 in the packet and 3 elsewhere; gfx11_kiq_unmap_queues, gfx11_kiq_query_status); nvd.h (PACKET3_MAP_QUEUES: engines 2
and 3 are SDMA 0 and 1; PACKET3_UNMAP_QUEUES: actions and selections).
"""

from __future__ import annotations

from typing import Any

from amdrv.facts import ih, pm4
from mock.packets import Decoded
from mock.pm4 import IllegalAccess, Pm4Executor

__all__ = ["KiqExecutor"]

E = pm4.ENUMS
ENGINE_SDMA, ENGINE_GFX, ENGINE_MES = (2, 3), 4, 5
DRAIN, RESET = 1, 2


class KiqExecutor(Pm4Executor):
    """A compute queue's packets, those of the KIQ included."""

    def _manager(self, packet: Decoded) -> None:
        if not self.queue.is_kiq:
            raise IllegalAccess(f"{packet.name} in a queue that RLC_CP_SCHEDULERS does not name")

    def op_set_resources(self, packet: Decoded) -> None:
        self._manager(packet)
        self.queue.mec.resources = packet

    def op_map_queues(self, packet: Decoded) -> None:
        self._manager(packet)
        if packet["NUM_QUEUES"] != 1:
            raise self._bad(packet, "NUM_QUEUES must be 1 (gfx_v11_0.c, gfx11_kiq_map_queues)")
        engine = packet["ENGINE_SEL"]
        if engine in ENGINE_SDMA:
            self._map_sdma(packet, engine - ENGINE_SDMA[0])
            return
        mec = self.queue.mec
        me = {ENGINE_GFX: 0, ENGINE_MES: 3}.get(engine, packet["ME"] or 1)
        queue = mec.find((me, packet["PIPE"], packet["QUEUE"])) if engine in (0, 1, ENGINE_GFX, ENGINE_MES) else None
        if queue is None:
            raise self._bad(packet, f"there is no queue {me}.{packet['PIPE']}.{packet['QUEUE']} of engine {engine}")
        if queue.active:
            raise self._bad(packet, f"{queue.name} is active already")
        queue.load_mqd(queue.read_mqd(packet["MQD_ADDR"], self.vmid))
        if queue.hqd_field("PQ_DOORBELL_CONTROL", "DOORBELL_OFFSET") != packet["DOORBELL_OFFSET"]:
            self.board.note("map-queues", f"{queue.name}: the packet's doorbell {packet['DOORBELL_OFFSET']:#x} is not "
                            f"the MQD's {queue.hqd_field('PQ_DOORBELL_CONTROL', 'DOORBELL_OFFSET'):#x}")
        queue.set_hqd("ACTIVE", 1)
        queue.activate()
        if packet["WPTR_ADDR"]:
            mec.poll(queue, packet["WPTR_ADDR"])

    def _map_sdma(self, packet: Decoded, engine: int) -> None:
        queues = self.board.sdma.queues[engine]
        queue = queues[packet["QUEUE"]] if packet["QUEUE"] < len(queues) else None
        if queue is None or queue.enabled:
            raise self._bad(packet, f"SDMA {engine} has no queue {packet['QUEUE']}, or it is enabled already")
        self.board.sdma.map_queue(queue, packet["MQD_ADDR"], packet["VMID"])

    def op_unmap_queues(self, packet: Decoded) -> None:
        self._manager(packet)
        mec, kinds, selections = self.queue.mec, E["UNMAP_ACTION"], E["UNMAP_QUEUE_SEL"]
        queues: list[Any]
        if packet["QUEUE_SEL"] == selections["SPECIFIED"]:
            queues = [mec.by_doorbell(packet[f"DOORBELL_OFFSET{i}"]) for i in range(min(packet["NUM_QUEUES"], 4))]
        else:
            queues = [queue for queue in mec.everyone() if queue.active and not queue.is_kiq and queue.me in (1, 2)]
            if packet["QUEUE_SEL"] == selections["PASID"]:
                pasid = packet["PASID"]
                queues = [queue for queue in queues if self.board.regs[f"IH_VMID_{queue.vmid}_LUT"] & 0xFFFF == pasid]
        for queue in queues:
            if queue is None:
                self.board.note("unmap-queues", f"{packet}: no active queue has that doorbell")
                continue
            queue.request_dequeue(RESET if packet["ACTION"] == kinds["RESET_QUEUES"] else DRAIN)
            self.queue.wait(lambda queue=queue: not queue.active)      # type: ignore[misc]
            if packet["ACTION"] == kinds["PREEMPT_QUEUES_NO_UNMAP"]:    # it goes on with what it was told to leave
                self.write(packet["FENCE_ADDR"] & ~3, packet["FENCE_SEQUENCE"], 4)
                queue.set_hqd("ACTIVE", 1)
                queue.activate()

    def op_query_status(self, packet: Decoded) -> None:
        self._manager(packet)
        command, kinds = packet["COMMAND"], E["QUERY_COMMAND"]
        if command != kinds["INTERRUPT_ONLY"]:
            self.write(packet["ADDR"] & ~7, packet["DATA"], 8)
        if command == kinds["INTERRUPT_ONLY"] or command == max(kinds.values()):
            self.queue.interrupt(ih.GFX_11_0_0__SRCID__CP_COMPUTE_QUERY_STATUS, "CMP_QUERY_STATUS_INT_ENABLE",
                                 packet["CONTEXT_ID"])
