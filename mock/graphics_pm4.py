"""What each PM4 packet does on the graphics pipe: bring-up, fences, state, compute launches; no drawing.

Facts: Linux 7.3, gfx_v11_0.c (gfx_v11_0_ring_emit_*: an INDIRECT_BUFFER of the kernel has no VALID bit here, a frame is
COND_EXEC, PIPELINE_SYNC, VM flush, CONTEXT_CONTROL, buffers, RELEASE_MEM; gfx_v11_0_cp_gfx_start); Mesa 25.0,
radv_queue.c and radv_cmd_buffer.c (preambles; DISPATCH_INDIRECT counts from SET_BASE; predication).

Context, SH and UCONFIG registers are storage: nothing but COMPUTE_* is looked at again. A draw hangs the queue with an
opcode error, once, and the log says that there is no graphics pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amdrv.facts import pm4
from mock.graphics_packets import DRAWS
from mock.packets import Decoded
from mock.pm4 import Pm4Executor

if TYPE_CHECKING:
    from mock.gfxring import GfxQueue

__all__ = ["GfxExecutor"]

E = pm4.ENUMS
BOOL64, BOOL32, CLEAR = 3, 4, 0         # sid.h, PREDICATION_OP_*
STORAGE = ("INDEX_BASE", "INDEX_BUFFER_SIZE", "INDEX_TYPE", "NUM_INSTANCES", "DRAW_PREAMBLE", "INCREMENT_DE_COUNTER",
           "INCREMENT_CE_COUNTER", "WAIT_ON_CE_COUNTER", "LOAD_CONTEXT_REG", "LOAD_UCONFIG_REG", "LOAD_SH_REG",
           "LOAD_CONTEXT_REG_INDEX", "LOAD_SH_REG_INDEX", "DISPATCH_TASK_STATE_INIT", "STRMOUT_BUFFER_UPDATE",
           "EVENT_WRITE_ZPASS", "GFX_CNTX_UPDATE", "BLK_CNTX_UPDATE", "INCR_UPDT_STATE", "OCCLUSION_QUERY",
           "INDEX_ATTRIBUTES_INDIRECT", "DRAW_MULTI_PREAMBLE", "PRED_EXEC")
"""State of a pipeline that does not exist: taken and forgotten."""


class GfxExecutor(Pm4Executor):
    """PM4 on the graphics pipe."""

    graphics = True
    needs_valid = False
    queue: GfxQueue     # type: ignore[assignment]

    def method(self, packet: Decoded) -> str:
        if packet.name in STORAGE:
            return "op_nop"
        return "op_draw" if packet.name in DRAWS else super().method(packet)

    def op_draw(self, packet: Decoded) -> None:
        raise self._bad(packet, "this card has no graphics pipeline: it computes and copies, it does not draw")

    # ---- state

    def write_register(self, dword: int, value: int, *, free: bool = False) -> None:
        low, high = pm4.REGISTER_SPACES["SET_CONTEXT_REG"]
        if free and low <= dword < high:        # the context's, of which drivers clear also those that have no name
            self.board.gfxring.context[dword] = value
        else:
            super().write_register(dword, value, free=free)

    def read_register(self, dword: int) -> int:
        context: dict[int, int] = self.board.gfxring.context
        return context[dword] if dword in context else super().read_register(dword)

    def op_set_context_reg(self, packet: Decoded) -> None:
        self._set_registers(packet, "SET_CONTEXT_REG")

    op_set_context_reg_index = op_set_context_reg

    def op_context_reg_rmw(self, packet: Decoded) -> None:
        low, high = pm4.REGISTER_SPACES["SET_CONTEXT_REG"]
        dword = low + packet["REG_OFFSET"]
        if dword >= high:
            raise self._bad(packet, f"a register beyond the end of the space ({high:#x})")
        mask = packet["MASK"]
        self.write_register(dword, self.read_register(dword) & ~mask | packet["DATA"] & mask, free=True)

    def op_set_context_reg_pairs(self, packet: Decoded) -> None:
        self._set_pairs(packet, "SET_CONTEXT_REG")

    def op_set_context_reg_pairs_packed(self, packet: Decoded) -> None:
        self._set_packed_pairs(packet, "SET_CONTEXT_REG")

    def op_clear_state(self, packet: Decoded) -> None:
        """Context registers to their defaults, which nothing here reads."""

    op_context_control = op_preamble_cntl = op_switch_buffer = op_clear_state

    def op_set_q_preemption_mode(self, packet: Decoded) -> None:
        """Where state is shadowed that a preempted queue comes back with; nothing here is lost by preemption."""

    # ---- launches

    def op_dispatch_indirect(self, packet: Decoded) -> None:
        self._dispatch_from(self.queue.indirect_base + packet["DATA_OFFSET"], packet)

    # ---- predication

    def op_set_predication(self, packet: Decoded) -> None:
        operation = packet["OPERATION"]
        if operation == CLEAR:
            self.queue.predicate = None
        elif operation in (BOOL64, BOOL32):
            value = self.read(packet["ADDRESS"], 8 if operation == BOOL64 else 4)
            self.queue.predicate = bool(value) == bool(packet["VISIBLE"])
        else:
            raise self._bad(packet, f"predication by operation {operation} needs a graphics pipeline")

    def skipped(self, packet: Decoded) -> bool:
        return self.queue.predicate is False and bool(packet.fields.get("PREDICATE"))
