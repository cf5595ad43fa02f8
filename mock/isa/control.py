"""Scalar instructions that the semantics table does not hold: control flow, SMEM, indexed SGPRs.

A terminator takes the state and returns where its waves go: a list of (pc, which waves), ``None`` for all of them.
An empty list ends the waves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.isa.decode import Instruction, Operand
from mock.isa.dispatch import CACHE_INSTRUCTIONS, PRIV, TRAP_EN, IllegalInstruction, Trap
from mock.isa.hwregs import bind_getreg, bind_message, bind_rtn_message, bind_setprio, bind_setreg, send_interrupt
from mock.isa.operands import constant, fetch, is_constant, put
from mock.isa.relative import SGPRS_INDEXED
from mock.isa.state import EXEC, M0, NULL, VCC, State
from mock.isa.traps import enter, return_from_exception

if TYPE_CHECKING:
    from mock.isa.interpreter import Machine

__all__ = ["BARRIER", "bind_scalar", "bind_terminator"]

Step = Callable[[State], None]
Exits = list[tuple[int, Any]]
Terminator = Callable[[State], Exits]
U64 = np.uint64
BARRIER: Exits = [(-1, "barrier")]

_NOTHING = ("s_nop", "s_clause", "s_delay_alu", "s_waitcnt", "s_wait_idle", "s_wait_event", "s_sleep",
            "s_set_inst_prefetch", "s_incperflevel", "s_decperflevel", "s_ttracedata", "s_wakeup",
            "s_version", "s_setkill", "ds_nop",
            "s_atc_probe")


def bind_scalar(instruction: Instruction, machine: Machine) -> Step | None:
    """Steps of scalar instructions outside the semantics table."""
    name = instruction.mnemonic
    if name == "s_sendmsg_rtn_b32" or name == "s_sendmsg_rtn_b64":
        return bind_rtn_message(instruction, machine)
    if name == "s_sendmsg":
        return bind_message(instruction, machine)
    if name == "s_getreg_b32":
        return bind_getreg(instruction, machine)
    if name == "s_setprio":
        return bind_setprio(instruction)
    if name == "s_getpc_b64":
        return None
    if name.startswith(("s_load_", "s_buffer_load_")):
        return _scalar_load(instruction, machine)
    if name.startswith("s_movrel"):
        return _movrel(instruction)
    if name in CACHE_INSTRUCTIONS:
        return cache_instruction(name, machine)
    if name.startswith(_NOTHING):
        return lambda s: None
    return None


def cache_instruction(name: str, machine: Machine) -> Step:
    """The memory, where it has caches, forgets what one of them holds."""
    bits = CACHE_INSTRUCTIONS[name]

    def step(s: State) -> None:
        invalidate = getattr(machine.accessor.memory, "invalidate", None)
        if invalidate is not None:
            invalidate(bits)
    return step


def _fetch_anew(after: int, machine: Machine) -> Callable[[State], Exits]:
    forget = cache_instruction("s_icache_inv", machine)

    def step(s: State) -> Exits:
        forget(s)
        return [(after, None)]
    return step


def _scalar_load(instruction: Instruction, machine: Machine) -> Step:
    f = instruction.fields
    data = instruction.operand("sdata")
    assert data is not None
    count = data.width
    buffer = instruction.mnemonic.startswith("s_buffer")
    base = fetch(Operand("sbase", f["sbase"] * 2, 2), "u64", None)
    soffset = None if f["soffset"] == NULL else fetch(Operand("soffset", f["soffset"]), "u32", None)
    offset = f["offset"] - (1 << 21) if f["offset"] >> 20 else f["offset"]
    sbase = f["sbase"] * 2
    destination = data.code

    def step(s: State) -> None:
        # Each part of the address is without its two low bits (RDNA3 ISA, "Scalar memory addressing").
        extra: Any = U64(offset & 0xffff_ffff_ffff_fffc)
        if soffset is not None:
            extra = extra + (soffset(s).astype(U64) & ~U64(3))
        if buffer:
            # SRD: base 48 bits, stride 14 bits from bit 48, num_records; the address is checked against the size.
            records, stride = s.sgpr[sbase + 2].astype(U64), s.sgpr[sbase + 1] >> np.uint32(16) & np.uint32(0x3fff)
            size = np.where(stride == 0, records, records * stride.astype(U64))
            address = (base(s) & U64((1 << 48) - 4)) + extra
            inside = [(extra <= size) & (size - extra >= U64(4 * i + 4)) for i in range(count)]
            for i in range(count):
                row = np.zeros(s.waves, np.uint32)
                if inside[i].any():
                    row[inside[i]] = machine.scalars.load(np.broadcast_to(address, (s.waves,))[inside[i]] + U64(4 * i),
                                                           np.uint32, 1)[0]
                _write(s, destination + i, row)
            return
        address = np.broadcast_to((base(s) & ~U64(3)) + extra, (s.waves,))
        for i, value in enumerate(machine.scalars.load(address, np.uint32, count)):
            _write(s, destination + i, value)

    def _write(s: State, code: int, value: np.ndarray) -> None:
        if code != NULL:
            s.sgpr[code] = value
        if code in (EXEC, EXEC + 1):
            s.refresh_exec()
    return step


def _movrel(instruction: Instruction) -> Step:
    """SGPRs indexed by M0: rels reads, reld writes, relsd_2 both (low and high offsets in M0)."""
    destination, source = instruction.operands
    wide = source.width
    name = instruction.mnemonic

    def step(s: State) -> None:
        m0 = s.sgpr[M0].astype(np.int64)
        waves = np.arange(s.waves)
        read = m0 if "rels" in name else m0 * 0
        write = m0 if "reld" in name else m0 * 0
        if "relsd_2" in name:
            read, write = m0 & 0x3ff, m0 >> 16 & 0x3ff
        values = []
        for i in range(wide):
            if is_constant(source.code):
                whole = constant(source.code, "u32", instruction.literal)
                values.append(np.broadcast_to(whole, (s.waves,)).copy())
            else:
                values.append(s.sgpr[np.clip(source.code + i + read, 0, SGPRS_INDEXED - 1), waves])
        for i, value in enumerate(values):
            s.sgpr[np.clip(destination.code + i + write, 0, SGPRS_INDEXED - 1), waves] = value
    return step


def bind_terminator(instruction: Instruction, pc: int, machine: Machine) -> Terminator:
    """The last step of a block."""
    name = instruction.mnemonic
    after = pc + instruction.size
    simm = instruction.fields.get("simm16", 0)
    target = after + 4 * (simm - 0x10000 if simm & 0x8000 else simm)
    if name == "s_endpgm":
        return lambda s: []
    if name == "s_barrier":
        return lambda s: BARRIER
    if name == "s_branch":
        return lambda s: [(target, None)]
    if name.startswith("s_cbranch_cdbg"):
        return lambda s: [(after, None)]        # the debugger's conditions are never set
    if name.startswith("s_cbranch"):
        return _branch(name, target, after)
    if name in ("s_setpc_b64", "s_swappc_b64", "s_call_b64"):
        return _jump(instruction, target, after, machine)
    address = machine.dispatch.code_address + pc
    if name in ("s_setreg_b32", "s_setreg_imm32_b32", "s_round_mode", "s_denorm_mode"):
        return bind_setreg(instruction, after, machine)
    if name.startswith("s_subvector_loop"):
        return _subvector(instruction, target, after)
    if name == "s_icache_inv":
        return _fetch_anew(after, machine)
    if name == "s_sethalt" and not simm & 1:
        return lambda s: [(after, None)]
    if name in ("s_sethalt", "s_sendmsghalt"):
        return _halt(name, simm, address, machine)
    if name == "s_trap":
        return _trap(simm & 255, pc, address, machine)
    if name == "s_rfe_b64":
        return return_from_exception(instruction, machine.dispatch.code_address, address)
    why = f"{name} is not supported"
    if name == "s_code_end":
        why = "execution ran off the end of the kernel into its padding"

    def illegal(s: State) -> Exits:
        raise IllegalInstruction(address, instruction.bits, why)
    return illegal


def _halt(name: str, simm: int, address: int, machine: Machine) -> Terminator:
    def halt(s: State) -> Exits:
        if name == "s_sendmsghalt" and simm & 255 == 1:
            send_interrupt(s, machine)
        raise Trap(f"{name} {simm:#x} at pc {address:#x}: the wave halts, and nobody is there to wake it")
    return halt


def _trap(number: int, pc: int, address: int, machine: Machine) -> Terminator:
    cause = "an assertion or __builtin_trap of the kernel" if number == 2 else f"trap id {number}"

    def trap(s: State) -> Exits:
        if s.mode & TRAP_EN and not s.mode & PRIV:
            d = machine.dispatch
            return enter(s, d.code_address, d.tba, pc, trap_id=number)
        where = "inside the trap handler" if s.mode & PRIV else "with no trap handler"
        raise Trap(f"s_trap {number} at pc {address:#x} {where}: {cause}")
    return trap


def _branch(name: str, target: int, after: int) -> Terminator:
    register = VCC if "vcc" in name else EXEC

    def condition(s: State) -> np.ndarray:
        if "scc" in name:
            return s.scc if name.endswith("1") else ~s.scc
        zero = (s.sgpr[register:register + s.lanes // 32] == 0).all(axis=0)
        return ~zero if name.endswith("nz") else zero

    def branch(s: State) -> Exits:
        taken = condition(s)
        if taken.all():
            return [(target, None)]
        if not taken.any():
            return [(after, None)]
        return [(target, taken), (after, ~taken)]
    return branch


def _jump(instruction: Instruction, target: int, after: int, machine: Machine) -> Terminator:
    base = machine.dispatch.code_address
    link = Operand("sdst", instruction.fields["sdst"], 2)
    source = None
    if instruction.mnemonic != "s_call_b64":
        source = fetch(Operand("ssrc0", instruction.fields["ssrc0"], 2), "u64", None)
    saves = instruction.mnemonic in ("s_swappc_b64", "s_call_b64")

    def jump(s: State) -> Exits:
        where = None if source is None else np.broadcast_to(source(s), (s.waves,)).copy()
        if saves:
            put(link, "u64")(s, np.full(s.waves, base + after, U64), None)
        if where is None:
            return [(target, None)]
        targets = np.unique(where)
        if len(targets) == 1:
            return [(int(targets[0]) - base, None)]
        return [(int(t) - base, where == t) for t in targets]
    return jump


def _subvector(instruction: Instruction, target: int, after: int) -> Terminator:
    """Wave64 in two passes over EXEC's halves; a no-op for wave32 (RDNA3 ISA, S_SUBVECTOR_LOOP_BEGIN)."""
    register = instruction.fields["sdst"]
    begin = instruction.mnemonic.endswith("begin")

    def loop(s: State) -> Exits:
        low, high, saved = s.sgpr[EXEC].copy(), s.sgpr[EXEC + 1].copy(), s.sgpr[register].copy()
        if begin:
            none, only_high = (low == 0) & (high == 0), (low == 0) & (high != 0)
            both = ~none & ~only_high
            s.sgpr[register] = np.where(only_high, 0, np.where(both, high, saved))
            s.sgpr[EXEC + 1] = np.where(both, 0, high)
            taken = none
        else:
            second = high != 0
            again = ~second & (saved != 0)
            s.sgpr[EXEC] = np.where(second, saved, np.where(again, 0, low))
            s.sgpr[EXEC + 1] = np.where(again, saved, high)
            s.sgpr[register] = np.where(again, low, saved)
            taken = again
        s.refresh_exec()
        if taken.all():
            return [(target, None)]
        if not taken.any():
            return [(after, None)]
        return [(target, taken), (after, ~taken)]
    return loop
