"""SQ: the shader sequencers' window on waves: SQ_IND_INDEX chooses a wave and what of it, SQ_IND_DATA reads it.

GRBM_GFX_INDEX chooses shader engine, array and, as its instance, WGP and SIMD (four times the one plus the other);
SQ_IND_INDEX the wave's slot on that SIMD, the lane and the index: SQ_WAVE_* registers, SGPRs from 0x200, VGPRs from
0x400 (Linux 6.1, gfx_v11_0.c, wave_read_ind, gfx_v11_0_read_wave_data, SQIND_WAVE_*_OFFSET).

A wave is seen here when it was halted: by an illegal instruction, a memory violation or ``s_trap`` that no trap handler
took; and while it runs, once in a while, when it looks up from its work. Executors attach a :class:`Stopped` to the
error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from amdrv.regs import table
from mock import isa
from mock.block import Block, on_read, on_write
from mock.isa.dispatch import Stopped, violates_memory
from mock.isa.state import EXEC

if TYPE_CHECKING:
    from mock.board import Board
    from mock.mec import ComputeQueue

__all__ = ["MOST_WAVES", "Sq"]

SGPRS, TTMPS, VGPRS = 0x200, 0x26C, 0x400
M0, EXEC_LO, EXEC_HI = 0x27D, 0x27E, 0x27F          # ixSQ_WAVE_M0, _EXEC_LO, _EXEC_HI (gc_11_0_0_offset.h)
M0_OPERAND = 125
SIMDS, SLOTS = 4, 16                                # of a WGP; of a SIMD (gc_num_max_waves_per_simd)
MOST_WAVES = 64
"""Waves of one stopped launch that are kept: the registers of all of a large one would be gigabytes."""
FRESH = 0.25            # seconds that what a running wave told stays good
PATIENCE = 0.1          # that a reader waits for a running wave to tell
FIRST_PATIENCE = 1.0    # the first time: its code may still be made
MEM_VIOL, ILLEGAL_INST = 1 << 8, 1 << 11            # of SQ_WAVE_TRAPSTS
Wave = dict[str, Any]


class Sq(Block):
    ip = "GC"

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.held: dict[str, list[Wave]] = {}
        """{queue: its stopped waves}: plain values, so that snapshots keep them."""
        self._running: dict[str, ComputeQueue] = {}
        self._told: dict[str, tuple[float, list[Wave]]] = {}
        self._wanted: set[str] = set()
        self._answered = threading.Event()
        self._index = 0
        registers = table("gc_11_0_0")
        self._at = {registers[name].offset: name for name in registers.names()
                    if name.startswith("SQ_WAVE_") and registers[name].base_idx is None}
        self._registers = registers
        self._fields = board.regs.register("SQ_IND_INDEX")

    def reset(self) -> None:
        self.held.clear()
        self._running.clear()
        self._told.clear()
        self._index = 0

    # ---- what executors tell

    def hold(self, queue: ComputeQueue, dispatch: isa.Dispatch, error: BaseException) -> None:
        """The launch ended in an error: its waves stand where they were."""
        stopped = getattr(error, "stopped", None)
        if stopped is None:
            return
        cause = MEM_VIOL if violates_memory(error) else ILLEGAL_INST if isinstance(error, isa.IllegalInstruction) else 0
        self.held[queue.name] = _waves(queue, stopped, self._shape(), halted=True, cause=cause)

    def observer(self, queue: ComputeQueue) -> Callable[[Callable[[], Stopped]], None]:
        """What the launch's memory offers to executors: called now and then, it looks only if somebody asked."""
        self._running[queue.name] = queue

        def observe(state: Callable[[], Stopped]) -> None:
            if queue.name in self._wanted:
                self._told[queue.name] = time.monotonic(), _waves(queue, state(), self._shape(), halted=False, cause=0)
                self._wanted.discard(queue.name)
                self._answered.set()
        return observe

    def left(self, queue: ComputeQueue) -> None:
        """The launch has ended, or the queue was taken off."""
        self._running.pop(queue.name, None)
        self._told.pop(queue.name, None)

    def begin(self, queue: ComputeQueue) -> None:
        """A new launch: what an earlier one left standing is gone."""
        self.held.pop(queue.name, None)

    def _shape(self) -> tuple[int, int, int]:
        arch = self.board.arch
        return arch.shader_engines, arch.arrays_per_engine, arch.wgps_per_array

    # ---- the window

    @on_write("SQ_IND_INDEX")
    def index(self, value: int) -> None:
        self._index = value

    @on_read("SQ_IND_DATA")
    def data(self) -> int:
        fields = self._fields.unpack(self._index)
        value = self._read(fields["WAVE_ID"], fields["WORKITEM_ID"], fields["INDEX"])
        if fields["AUTO_INCR"]:
            self._index = self._fields.replace(self._index, INDEX=(fields["INDEX"] + 1) & 0xFFFF)
        return value

    def _read(self, slot: int, lane: int, index: int) -> int:
        """0 where no wave is: SQ_WAVE_STATUS.VALID says so."""
        chosen = self.board.regs.selection
        for wave in self._present():
            if (wave["slot"] == slot and chosen.se in (None, wave["se"]) and chosen.sa in (None, wave["sa"])
                    and chosen.instance in (None, SIMDS * wave["wgp"] + wave["simd"])):
                return self._of(wave, lane, index)
        return 0

    def _present(self) -> list[Wave]:
        self._ask()
        queues = {queue.name: queue for queue in self.board.mec.everyone()}
        found = [wave for name, waves in self.held.items() if name in queues and queues[name].active
                 and queues[name].hung is not None for wave in waves]
        return found + [wave for _, waves in self._told.values() for wave in waves]

    def _ask(self) -> None:
        """Running launches are asked to tell again, if what they told is old; one that does not in time is not seen."""
        now = time.monotonic()
        stale = {name for name in self._running if now - self._told.get(name, (0.0, []))[0] > FRESH}
        if not stale:
            return
        first = any(name not in self._told for name in stale)
        for name in stale:
            self._told[name] = now, self._told.get(name, (0.0, []))[1]
        self._answered.clear()
        self._wanted |= stale
        self._answered.wait(FIRST_PATIENCE if first else PATIENCE)

    def _of(self, wave: Wave, lane: int, index: int) -> int:
        if index >= VGPRS:
            data, at = wave["vgprs"], 4 * ((index - VGPRS) * wave["lanes"] + lane)
            return int.from_bytes(data[at:at + 4], "little") if lane < wave["lanes"] else 0
        sgprs = wave["sgprs"]
        special = {M0: M0_OPERAND, EXEC_LO: EXEC, EXEC_HI: EXEC + 1}.get(index)
        if special is None and SGPRS <= index < SGPRS + 128:
            special = index - SGPRS
        if special is not None:
            return int.from_bytes(sgprs[4 * special:4 * special + 4], "little")
        return int(wave["registers"].get(self._at.get(index, ""), 0))


def _waves(queue: ComputeQueue, stopped: Stopped, shape: tuple[int, int, int], *, halted: bool,
           cause: int) -> list[Wave]:
    """Plain values of the waves; they are put on SIMDs one after the other, as an empty card would take them."""
    state, registers = stopped.state, table("gc_11_0_0")
    engines, arrays, wgps = shape
    found = []
    for number in range(min(state.waves, MOST_WAVES)):
        se, rest = number % engines, number // engines
        simd, rest = rest % SIMDS, rest // SIMDS
        sa, rest = rest % arrays, rest // arrays
        wgp, slot = rest % wgps, rest // wgps
        sgprs = np.ascontiguousarray(state.sgpr[:128, number])
        execz = not any(int(word) for word in sgprs[EXEC:EXEC + state.lanes // 32])
        status = registers["SQ_WAVE_STATUS"].merge(int(state.per_wave["status"][number]), {
            "VALID": 1, "HALT": int(halted), "FATAL_HALT": int(halted and bool(cause)), "SCC": int(state.scc[number]),
            "EXECZ": int(execz)})
        pc = stopped.pc
        found.append({
            "se": se, "sa": sa, "wgp": wgp, "simd": simd, "slot": slot, "lanes": state.lanes,
            "sgprs": sgprs.astype("<u4").tobytes(),
            "vgprs": np.ascontiguousarray(state.vgpr[:, :, number]).astype("<u4").tobytes(),
            "registers": {
                "SQ_WAVE_STATUS": status, "SQ_WAVE_PC_LO": pc & 0xFFFF_FFFF, "SQ_WAVE_PC_HI": pc >> 32 & 0xFFFF,
                "SQ_WAVE_TRAPSTS": int(state.per_wave["trapsts"][number]) | cause,
                "SQ_WAVE_GPR_ALLOC": registers["SQ_WAVE_GPR_ALLOC"].pack(
                    VGPR_SIZE=max(-(-len(state.vgpr) // 8) - 1, 0)),
                "SQ_WAVE_HW_ID1": registers["SQ_WAVE_HW_ID1"].pack(WAVE_ID=slot, SIMD_ID=simd, WGP_ID=wgp, SA_ID=sa,
                                                                   SE_ID=se),
                "SQ_WAVE_HW_ID2": registers["SQ_WAVE_HW_ID2"].pack(QUEUE_ID=queue.queue, PIPE_ID=queue.pipe,
                                                                   ME_ID=queue.me, VM_ID=queue.wave_vmid),
                "SQ_WAVE_IB_STS2": registers["SQ_WAVE_IB_STS2"].pack(WAVE64=int(state.lanes == 64))}})
    return found
