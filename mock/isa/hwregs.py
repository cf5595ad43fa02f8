"""Hardware registers of a wave: what ``s_getreg`` reads and ``s_setreg`` writes, and what messages return.

Numbers and fields are those of Linux 6.1, gc_11_0_0_offset.h and gc_11_0_0_sh_mask.h, SQ_WAVE_*; units that those do
not tell are taken from what cwsr_trap_handler_gfx10.asm does with them (``get_vgpr_size_bytes``,
``get_lds_size_bytes``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.isa.decode import Instruction, Operand
from mock.isa.dispatch import PRIV, TRAP_EN, Rsrc2, SqInterrupt
from mock.isa.operands import bits_of, fetch, put
from mock.isa.state import EXEC, M0, VCC, State
from mock.isa.waves import vgpr_count

if TYPE_CHECKING:
    from mock.isa.interpreter import Machine

__all__ = ["EXCEPTIONS", "HALT", "ILLEGAL_INST", "MEM_VIOL", "MODE", "MODE_BITS", "bind_getreg", "bind_message",
           "bind_rtn_message", "bind_setprio", "bind_setreg", "hwreg", "send_interrupt"]

Step = Callable[[State], None]
Exits = list[tuple[int, Any]]
U32, U64 = np.uint32, np.uint64

MODE, _STATUS, _TRAPSTS, _GPR_ALLOC, _LDS_ALLOC, _IB_STS, _SH_MEM_BASES = 1, 2, 3, 5, 6, 7, 15
_SNAPSHOT_PC_LO, _SNAPSHOT_PC_HI, _FLAT_SCR_LO, _FLAT_SCR_HI, _HW_ID1, _HW_ID2 = 18, 19, 20, 21, 23, 24
_POPS_PACKER, _SCHED_MODE, _SNAPSHOT_DATA, _IB_STS2, _SHADER_CYCLES = 25, 26, 27, 28, 29
_KNOWN = {MODE, _STATUS, _TRAPSTS, _GPR_ALLOC, _LDS_ALLOC, _IB_STS, _SH_MEM_BASES, _SNAPSHOT_PC_LO, _SNAPSHOT_PC_HI,
          _FLAT_SCR_LO, _FLAT_SCR_HI, _HW_ID1, _HW_ID2, _POPS_PACKER, _SCHED_MODE, _SNAPSHOT_DATA, _IB_STS2,
          _SHADER_CYCLES}

MODE_BITS = 0x08bf_ffff
"""FP_ROUND .. EXCP_EN (with its two upper bits), WAVE_END, FP16_OVFL, DISABLE_PERF: what a write of MODE can set."""
HALT = 1 << 13
_USER_PRIO, _IN_TG, _VALID, _SCRATCH_EN = 3 << 3, 1 << 11, 1 << 16, 1 << 29
_STATUS_KEPT = 3 << 1 | _USER_PRIO | HALT | 1 << 14 | 1 << 18 | 1 << 19
"""Bits of STATUS that a trap handler can write besides SCC: SPI_PRIO, USER_PRIO, HALT, TRAP, SKIP_EXPORT, PERF_EN."""
EXCEPTIONS = 0x1ff
MEM_VIOL, ILLEGAL_INST = 1 << 8, 1 << 11
_STICKY = 0x7f                  # of TRAPSTS: the arithmetic exceptions, which any program may clear
_VGPR_UNIT, _LDS_UNIT = 4, 256  # registers (minus one is kept), bytes

# Messages of s_sendmsg and s_sendmsg_rtn (LLVM, SIDefines.h, SendMsg::Id).
_INTERRUPT = 1
_GET_DOORBELL, _GET_DDID, _GET_TMA, _GET_REALTIME, _SAVE_WAVE, _GET_TBA, _GET_TBA_TO_PC = range(128, 135)


def hwreg(instruction: Instruction) -> tuple[int, int, int]:
    """Register number, lowest bit, width of an access."""
    simm = instruction.fields["simm16"]
    number, low = simm & 63, simm >> 6 & 31
    return number, low, min((simm >> 11 & 31) + 1, 32 - low)


def _check(instruction: Instruction) -> tuple[int, int, int]:
    number, low, width = hwreg(instruction)
    if number not in _KNOWN:
        raise ValueError(f"gfx11 has no hardware register {number}")
    return number, low, width


# -- reading --------------------------------------------------------------------------------------------------

def bind_getreg(instruction: Instruction, machine: Machine) -> Step:
    """``s_getreg_b32``. :raises ValueError: there is no such register."""
    number, low, width = _check(instruction)
    store = put(Operand("sdst", instruction.fields["sdst"]), "u32")

    def step(s: State) -> None:
        value = np.asarray(_read(number, s, machine)).astype(U64)
        field = value >> U64(low) & U64((1 << width) - 1)
        store(s, np.broadcast_to(field, (s.waves,)).astype(U32), None)
    return step


def _read(number: int, s: State, machine: Machine) -> Any:
    d = machine.dispatch
    if number == MODE:
        return s.mode & MODE_BITS
    if number == _STATUS:
        return _status(s, machine)
    if number == _TRAPSTS:
        return s.per_wave["trapsts"]
    if number == _GPR_ALLOC:
        return (vgpr_count(d) // _VGPR_UNIT - 1) << 12
    if number == _LDS_ALLOC:
        return -(-machine.lds.nbytes // _LDS_UNIT) << 12
    if number == _SHADER_CYCLES:
        return time.monotonic_ns() & 0xfffff
    if number in (_FLAT_SCR_LO, _FLAT_SCR_HI):
        return s.per_wave["scratch"] >> U64(32 if number == _FLAT_SCR_HI else 0) & U64(0xffffffff)
    if number == _SH_MEM_BASES:
        return (s.per_wave["private_base"] >> U64(48)) | (s.per_wave["shared_base"] >> U64(48)) << U64(16)
    if number == _HW_ID1:
        wave, simd, wgp, sa = _place(s)
        return wave | simd << U32(8) | wgp << U32(10) | sa << U32(16)
    if number == _HW_ID2:
        return d.hw_id2 & 0x0f00_f33f | (s.per_wave["workgroup"].astype(np.int64) & 31) << 16
    if number == _IB_STS2:
        # MEM_ORDER and FWD_PROGRESS are rsrc1's; WAVE64.
        return (d.rsrc1 >> 30 & 1) << 8 | (d.rsrc1 >> 31 & 1) << 10 | int(s.lanes == 64) << 11
    return 0        # IB_STS: the counters are at rest; no snapshot was taken; no ordered pixels


def _place(s: State) -> tuple[Any, Any, Any, Any]:
    """(wave slot, SIMD, WGP, shader array) that a wave is said to run on: neighbours share what they can."""
    wave = s.per_wave["id"].astype(U32)
    return wave >> U32(2) & U32(15), wave & U32(3), wave >> U32(6) & U32(3), wave >> U32(8) & U32(1)


def _status(s: State, machine: Machine) -> Any:
    d = machine.dispatch
    execz = (s.sgpr[EXEC:EXEC + s.lanes // 32] == 0).all(axis=0)
    vccz = (s.sgpr[VCC:VCC + s.lanes // 32] == 0).all(axis=0)
    fixed = _VALID | (1 << 5 if s.mode & PRIV else 0) | (1 << 6 if s.mode & TRAP_EN else 0)
    fixed |= _IN_TG if d.block[0] * d.block[1] * d.block[2] > s.lanes else 0
    fixed |= _SCRATCH_EN if Rsrc2(d.rsrc2).scratch_en else 0
    return s.scc.astype(U32) | execz.astype(U32) << U32(9) | vccz.astype(U32) << U32(10) | U32(fixed) \
        | s.per_wave["status"]


# -- writing --------------------------------------------------------------------------------------------------

def bind_setreg(instruction: Instruction, after: int, machine: Machine) -> Callable[[State], Exits]:
    """Writes of MODE end a block: the waves' vocabulary changes with it. :raises ValueError: no such register."""
    name = instruction.mnemonic
    if name == "s_round_mode":
        number, low, width = MODE, 0, 4
    elif name == "s_denorm_mode":
        number, low, width = MODE, 4, 4
    else:
        number, low, width = _check(instruction)
    mask = (1 << width) - 1 << low
    source = None
    if name == "s_setreg_b32":
        source = fetch(Operand("sdst", instruction.fields["sdst"]), "u32", None)
    constant = instruction.literal if name == "s_setreg_imm32_b32" else instruction.fields["simm16"]

    def setreg(s: State) -> Exits:
        wanted = np.full(s.waves, constant, U32) if source is None else np.broadcast_to(source(s), (s.waves,)).copy()
        if number != MODE:
            _write(number, s, wanted << U32(low), U32(mask & 0xffffffff))
            return [(after, None)]
        # Waves that set different modes part for good: a state has one mode.
        different = np.unique(wanted)
        exits: Exits = []
        for value in different:
            mode = s.mode & ~(mask & MODE_BITS) | int(value) << low & mask & MODE_BITS
            exits.append((after, ("mode", mode, None if len(different) == 1 else wanted == value)))
        return exits
    return setreg


def _write(number: int, s: State, value: np.ndarray, mask: Any) -> None:
    """Registers, or their fields, that a wave may not write keep what they have."""
    priv = bool(s.mode & PRIV)
    if number == _TRAPSTS:
        mask = mask if priv else mask & U32(_STICKY)
        s.per_wave["trapsts"] = s.per_wave["trapsts"] & ~mask | value & mask
    elif number == _STATUS and priv:
        if mask & U32(1):
            s.scc = (value & U32(1)).astype(np.bool_)
        mask = mask & U32(_STATUS_KEPT)
        s.per_wave["status"] = s.per_wave["status"] & ~mask | value & mask
    elif number in (_FLAT_SCR_LO, _FLAT_SCR_HI) and priv:
        shift = U64(32 if number == _FLAT_SCR_HI else 0)
        wide = U64(mask) << shift
        s.per_wave["scratch"] = s.per_wave["scratch"] & ~wide | value.astype(U64) << shift & wide


def bind_setprio(instruction: Instruction) -> Step:
    priority = U32((instruction.fields["simm16"] & 3) << 3)

    def step(s: State) -> None:
        s.per_wave["status"] = s.per_wave["status"] & U32(~_USER_PRIO & 0xffffffff) | priority
    return step


# -- messages -------------------------------------------------------------------------------------------------

def bind_message(instruction: Instruction, machine: Machine) -> Step:
    """``s_sendmsg``: an interrupt goes to the dispatch's callback; the others speak to graphics stages."""
    if instruction.fields["simm16"] & 0xff != _INTERRUPT:
        return lambda s: None
    return lambda s: send_interrupt(s, machine)


def send_interrupt(s: State, machine: Machine) -> None:
    """One interrupt a wave, with M0's low 24 bits."""
    interrupt = machine.dispatch.interrupt
    if interrupt is None:
        return
    places = [np.broadcast_to(x, (s.waves,)) for x in _place(s)]
    for wave in range(s.waves):
        slot, simd, wgp, array = (int(x[wave]) for x in places)
        interrupt(SqInterrupt(int(s.sgpr[M0, wave]) & 0xffffff, bool(s.mode & PRIV), slot, simd, wgp, array))


def bind_rtn_message(instruction: Instruction, machine: Machine) -> Step:
    """``s_sendmsg_rtn_*``. :raises ValueError: for the message of a context save, which nobody here asks for."""
    message = instruction.fields["ssrc0"]
    kind = "u" + instruction.mnemonic[-2:]
    store = put(instruction.operands[0], kind)
    if message == _SAVE_WAVE:
        raise ValueError("MSG_RTN_SAVE_WAVE: no context save was asked for")

    def step(s: State) -> None:
        d = machine.dispatch
        values = {_GET_DOORBELL: d.doorbell, _GET_DDID: d.ddid, _GET_TMA: d.tma >> 8, _GET_TBA: d.tba >> 8,
                  _GET_TBA_TO_PC: d.tba}
        # 100 MHz. Messages that are none return zero.
        value = time.monotonic_ns() // 10 if message == _GET_REALTIME else values.get(message, 0)
        unsigned: Any = U64(value) if bits_of(kind) == 64 else U32(value & 0xffffffff)
        store(s, np.full(s.waves, unsigned), None)
    return step
