"""A kernel as one LLVM function: ``i32 wave(context, state)`` runs a wave from its resume point to where it must stop.

Basic blocks are found by following branches. There are two ways to translate: *quickly*, with the registers left in the
wave's state between blocks and each block compiled once; and for speed (``optimise``), with registers that LLVM
promotes and each block compiled twice, for an EXEC known to be full, where vector writes need no mask, and for any.
MODE is known at every block (its writes are constants, or end the compiled part), so a
block's identity is (PC, MODE, full); :data:`~mock.isa.jit.segments.CAREFUL` in its MODE makes it a careful one.
What is not compiled stops the wave with a status, and Python resumes it at one of
the function's *resume points*; a jump to a PC that is none makes the kernel be compiled anew with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from llvmlite import ir

from mock.isa.decode import Instruction, Operand
from mock.isa.dispatch import CACHE_INSTRUCTIONS, TRAP_EN
from mock.isa.encoding import LITERAL
from mock.isa.exceptions import enabled as exceptions_enabled
from mock.isa.exceptions import watched
from mock.isa.hwregs import MODE_BITS
from mock.isa.jit.alu import Alu
from mock.isa.jit.buffers import BufferLowering
from mock.isa.jit.context import BARRIER, DONE, FAULT, FIELDS, INTERPRET, REPEAT, TERMINATOR, YIELD
from mock.isa.jit.matrices import multiply
from mock.isa.jit.registers import VGPR, Layout, Registers
from mock.isa.jit.schedule import on_demand
from mock.isa.jit.segments import CAREFUL, floating, repeatable, writes_exec
from mock.isa.jit.special import Special
from mock.isa.jit.values import I8, I32, I64, PTR, Unsupported, Words
from mock.isa.program import Code, is_terminator
from mock.isa.semantics import Atomic, Entry, Load, Store, table
from mock.isa.state import EXEC, NULL, VCC
from mock.isa.traps import uses_ttmp
from mock.isa.vocabulary import Mode

__all__ = ["Flow", "Point", "Translation", "called", "discover", "translate"]

HOST_VECTORS = 48
"""Vectors of the host up to which VGPRs are kept in its registers between blocks."""
TWICE_LIMIT = 1500
"""Kernels of more instructions than this are compiled for any EXEC only."""

_NOTHING = ("s_nop", "s_clause", "s_delay_alu", "s_waitcnt", "s_wait_idle", "s_wait_event", "s_sleep",
            "s_set_inst_prefetch", "s_incperflevel", "s_decperflevel", "s_ttracedata", "s_wakeup", "s_version",
            "s_setkill", "ds_nop", "s_atc_probe")

_MSG_INTERRUPT = 1
_USER_PRIO = 3 << 3             # of STATUS

Point = tuple[int, int]     # PC, MODE


@dataclass
class Flow:
    """The instructions that can be reached from some PCs, and where blocks begin."""

    instructions: dict[int, Instruction] = field(default_factory=dict)
    leaders: set[int] = field(default_factory=set)
    illegal: set[int] = field(default_factory=set)

    def ranges(self) -> list[tuple[int, int]]:
        """[begin, end) of the code bytes, merged."""
        merged: list[tuple[int, int]] = []
        for pc in sorted(self.instructions):
            end = pc + self.instructions[pc].size
            if merged and merged[-1][1] == pc:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((pc, end))
        return merged


def _target(instruction: Instruction, pc: int) -> int:
    simm = instruction.fields.get("simm16", 0)
    return pc + instruction.size + 4 * (simm - 0x10000 if simm & 0x8000 else simm)


def _successors(instruction: Instruction, pc: int) -> list[int]:
    """PCs that may follow a terminator, as far as they are known."""
    name, after = instruction.mnemonic, pc + instruction.size
    if name == "s_branch":
        return [_target(instruction, pc)]
    if name.startswith("s_cbranch"):
        return [_target(instruction, pc), after]
    if name == "s_call_b64":
        return [_target(instruction, pc), after]
    if name in ("s_endpgm", "s_setpc_b64", "s_rfe_b64", "s_trap", "s_code_end"):
        return []
    if name.startswith("s_subvector_loop"):
        return [_target(instruction, pc), after]
    return [after]


def discover(code: Code, entries: Iterable[int]) -> Flow:
    """Follow the code from the entries. What cannot be decoded is remembered, and met when a wave gets there."""
    flow, open_ = Flow(), list(entries)
    while open_:
        pc = open_.pop()
        if pc in flow.leaders:
            continue
        flow.leaders.add(pc)
        while pc not in flow.instructions:
            instruction = code.known(pc)
            if instruction is None:
                flow.illegal.add(pc)
                break
            flow.instructions[pc] = instruction
            if is_terminator(instruction.mnemonic):
                open_ += _successors(instruction, pc)
                break
            pc += instruction.size
    return flow


INLINE_INTEGERS = {128 + value: value for value in range(65)} | {192 + n: (1 << 32) - n for n in range(1, 17)}
"""Operand codes of small integers, as 32 bits."""
_CALL_DISTANCE = 16     # instructions from s_getpc_b64 to the call, others among them


def called(flow: Flow) -> set[int]:
    """Where calls go whose target is made just before them, as LLVM does: ``s_getpc_b64``, ``s_add_u32``,
    ``s_addc_u32`` of constants, ``s_swappc_b64``."""
    before = {pc + instruction.size: pc for pc, instruction in flow.instructions.items()}
    found = (_call_target(flow, before, pc) for pc, instruction in flow.instructions.items()
             if instruction.mnemonic == "s_swappc_b64")
    return {target for target in found if target is not None}


def _call_target(flow: Flow, before: dict[int, int], pc: int) -> int | None:
    register = flow.instructions[pc].operands[-1].code
    chain, distance = ["s_getpc_b64", "s_add_u32", "s_addc_u32"], 0
    for _ in range(_CALL_DISTANCE):
        if pc not in before or is_terminator(flow.instructions[before[pc]].mnemonic):
            return None
        pc = before[pc]
        instruction = flow.instructions[pc]
        if not any(o.code < register + 2 and register < o.code + o.width for o in instruction.operands):
            continue
        if instruction.mnemonic != chain.pop():
            return None
        if not chain:
            if instruction.operands[0].code != register:
                return None
            target = pc + instruction.size + distance
            return (target + (1 << 63)) % (1 << 64) - (1 << 63)
        destination, first, second = instruction.operands
        wanted = register + (instruction.mnemonic == "s_addc_u32")
        value = instruction.literal if second.code == LITERAL else INLINE_INTEGERS.get(second.code)
        if (destination.code, first.code) != (wanted, wanted) or value is None:
            return None
        distance += value << 32 if instruction.mnemonic == "s_addc_u32" else value
    return None


def _vgprs(flow: Flow) -> int:
    """How many VGPRs the code names."""
    halves = (half for i in flow.instructions.values() for half in i.pair or (i,))
    return len({code for i in halves for o in i.operands if o.code >= VGPR
                for code in range(o.code, o.code + o.width)})


@dataclass
class Translation:
    """The module, and the number of each resume point in the function's switch."""

    module: ir.Module
    points: dict[Point, int]
    interpreted: list[str]      # mnemonics left to the interpreter
    shared: list[str]           # functions of the library that are called


class _Translator:
    def __init__(self, flow: Flow, points: Iterable[Point], lanes: int, chunk: int, vgprs: int,
                 optimise: bool) -> None:
        self.flow, self.lanes, self.chunk, self.vgprs = flow, lanes, chunk, vgprs
        self.module = ir.Module("kernel")
        self.function = ir.Function(self.module, ir.FunctionType(I32, [PTR, PTR]), "wave")
        self.context, self.state = self.function.args
        self.entry = self.function.append_basic_block("entry")
        self.b = ir.IRBuilder(self.entry)
        self.registers = Registers(self.b, self.state, lanes, chunk, vgprs, promote=optimise,
                                   vectors=_vgprs(flow) * lanes // min(chunk, lanes) <= HOST_VECTORS)
        self.count = self.b.alloca(I64)
        self.fuel = self.b.alloca(I32)
        self.status, self.resume, self.at = self.b.alloca(I32), self.b.alloca(I32), self.b.alloca(I64)
        self.begin = self.function.append_basic_block("begin")
        self.leave = self.function.append_basic_block("leave")
        self.end = self.function.append_basic_block("end")
        self.points: dict[Point, int] = {}
        self.doors: dict[Point, ir.Block] = {}
        self.blocks: dict[tuple[int, int, bool], ir.Block] = {}
        self.open: list[tuple[int, int, bool]] = []
        self.twice = optimise and len(flow.instructions) <= TWICE_LIMIT
        self.optimise = optimise
        self.shared: dict[str, None] = {}
        self.words: dict[int, Words] = {}
        self.atomics: dict[tuple[int, str, int], ir.Function] = {}
        self.buffers: dict[tuple[str, int, str], ir.Value] = {}
        self.interpreted: list[str] = []
        self.wanted = list(points)
        self.registers.field = lambda name: self.b.load(self._field(name), typ=I64)
        self.registers.overwriting = lambda: self._segment(self.pc) if self.began is not None else None
        self.mode = 0           # of the block being written
        self.pc = 0             # of the instruction
        self.number = 0         # instructions of the block that are not counted yet
        self.began: Point | None = None     # the open segment
        self.putting_off = True             # in this block
        self.careful = any(mode & CAREFUL for _, mode in self.wanted)

    def run(self) -> Translation:
        for point in self.wanted:
            self.point(*point)
        while self.open:
            pc, mode, full = key = self.open.pop()
            self.b.position_at_end(self.blocks[key])
            self._block(pc, mode, full)
        self._frame()
        if self.optimise:
            on_demand(self.function)
        return Translation(self.module, self.points, self.interpreted, list(self.shared))

    def _frame(self) -> None:
        """Entry and exits, once it is known which registers there are."""
        b, r = self.b, self.registers
        sgprs, vgprs = r.used_sgprs, r.used_vgprs
        b.position_at_end(self.begin)
        b.store(ir.Constant(I64, 0), self.count)
        b.store(b.trunc(b.load(self._field("fuel"), typ=I64), I32), self.fuel)
        r.load_all(sgprs, vgprs)
        where = b.load(b.gep(self.state, [ir.Constant(I32, Layout.RESUME)], source_etype=I32), typ=I32)
        nowhere = self.function.append_basic_block("nowhere")
        switch = b.switch(where, nowhere)
        for point, number in self.points.items():
            switch.add_case(ir.Constant(I32, number), self.doors[point])
        b.position_at_end(nowhere)
        b.unreachable()
        b.position_at_end(self.leave)
        r.store_all(sgprs, vgprs)
        b.store(b.load(self.resume, typ=I32), b.gep(self.state, [ir.Constant(I32, Layout.RESUME)], source_etype=I32))
        self._field_store("pc", b.load(self.at, typ=I64))
        b.branch(self.end)
        b.position_at_end(self.end)
        total = self._field("instructions")
        b.store(b.add(b.load(total, typ=I64), b.load(self.count, typ=I64)), total)
        b.ret(b.load(self.status, typ=I32))
        b.position_at_end(self.entry)
        b.branch(self.begin)

    def _field(self, name: str) -> ir.Value:
        return self.b.gep(self.context, [ir.Constant(I64, FIELDS[name])], source_etype=I8)

    def _field_store(self, name: str, value: ir.Value) -> None:
        self.b.store(value, self._field(name))

    # ---- where control goes

    def point(self, pc: int, mode: int) -> int:
        """The number of a resume point; made when it is new."""
        key = (pc, mode)
        if key not in self.points:
            self.points[key] = len(self.points)
            door = self.doors[key] = self.function.append_basic_block(f"door_{pc:x}_{mode:x}")
            saved, kept = self.b.block, self.registers.keep()
            self.b.position_at_end(door)
            self.registers.fresh()
            self.registers.full = False
            self._by_exec(pc, mode)
            self.b.position_at_end(saved)
            self.registers.back(kept)
        return self.points[key]

    def _target_block(self, pc: int, mode: int, full: bool) -> ir.Block:
        key = (pc, mode, full and self.twice)
        if key not in self.blocks:
            self.blocks[key] = self.function.append_basic_block(f"b_{pc:x}_{mode:x}_{'full' if key[2] else 'any'}")
            self.open.append(key)
        return self.blocks[key]

    def _by_exec(self, pc: int, mode: int) -> None:
        """Go on in the full variant when every lane is active."""
        if not self.twice:
            self.b.branch(self._target_block(pc, mode, False))
            return
        ones = ir.Constant(self.registers.mask_type, (1 << self.lanes) - 1)
        self.registers.full = False
        bits = self.registers.exec_bits()
        is_full = self.b.icmp_unsigned("==", bits, ones)
        self.b.cbranch(is_full, self._target_block(pc, mode, True), self._target_block(pc, mode, False))

    def _go(self, pc: int, mode: int, state: tuple[bool, bool], came_from: int) -> None:
        """End the block towards ``pc``. ``state``: is EXEC known full, was it written here."""
        full, written = state
        self.registers.flush()
        if pc <= came_from:
            left = self.b.sub(self.b.load(self.fuel, typ=I32), ir.Constant(I32, 1))
            self.b.store(left, self.fuel)
            on, tired = self.function.append_basic_block("on"), self.function.append_basic_block("tired")
            self.b.cbranch(self.b.icmp_unsigned("==", left, ir.Constant(I32, 0)), tired, on)
            self.b.position_at_end(tired)
            self.registers.full = False
            self._stop(YIELD, pc, (pc, mode))
            self.b.position_at_end(on)
        if full:
            self.b.branch(self._target_block(pc, mode, True))
        elif written:
            self._by_exec(pc, mode)
        else:
            self.b.branch(self._target_block(pc, mode, False))

    def _stop(self, status: int, at: int, resume: Point | None = None) -> None:
        """Leave the function because of the instruction at ``at``; without a resume point Python chooses one."""
        if status != FAULT or self.mode & TRAP_EN:      # a fault's wave is not seen again, but by a trap handler
            self.registers.flush()
        self.b.store(ir.Constant(I32, status), self.status)
        self.b.store(ir.Constant(I32, self.mode), self.b.gep(self.state, [ir.Constant(I32, Layout.MODE)],
                                                             source_etype=I32))
        self.b.store(ir.Constant(I32, self.point(*resume) if resume else 0), self.resume)
        self.b.store(ir.Constant(I64, at), self.at)
        self.b.branch(self.leave)

    # ---- blocks

    def _vocabulary(self, mode: int) -> Words:
        if mode not in self.words:
            self.words[mode] = Words(self.b, self.lanes, self.chunk, Mode(mode), self.registers.active)
        return self.words[mode]

    def _block(self, start: int, mode: int, full: bool) -> None:
        r = self.registers
        careful, mode = bool(mode & CAREFUL), mode & ~CAREFUL
        self.mode = mode
        r.full, r.words = full, self._vocabulary(mode)
        r.fresh()
        r.read.clear()
        self.putting_off = not careful
        self.began = None if careful else (start, mode)
        written = False
        pc = start
        self.number = 0
        while True:
            instruction = self.flow.instructions.get(pc)
            self.pc = pc
            if instruction is None or (pc != start and pc in self.flow.leaders):
                self._settle()
                self._counted()
                if instruction is None:
                    self._stop(TERMINATOR, pc)
                else:
                    self._go(pc, mode, (r.full, written), pc - 1)
                return
            after = pc + instruction.size
            if is_terminator(instruction.mnemonic):
                if instruction.mnemonic != "s_endpgm":      # nobody sees the registers
                    self._settle()
                self.number += 1
                self._counted()
                self._terminate(instruction, pc, mode, written)
                return
            was = r.full
            again = repeatable(instruction)
            if not again:
                self._settle()
            elif self.began is None and floating(instruction):
                self._segment(pc)
            r.words.pending = None if self.began is None else r.words.pending or {}
            try:
                self._instruction(instruction, pc, mode)
            except Unsupported as reason:
                self.interpreted.append(f"{instruction.mnemonic}: {reason}")
                self._settle()
                self.number += 1
                self._counted()
                self._stop(INTERPRET, pc, (after, mode))
                return
            if not again:
                self.began = None
            self.number += 1
            written = written or (was and not r.full) or (not was and writes_exec(instruction))
            pc = after

    def _counted(self) -> None:
        """Add the instructions since the last time to the wave's count."""
        if self.number:
            self.b.store(self.b.add(self.b.load(self.count, typ=I64), ir.Constant(I64, self.number)), self.count)
        self.number = 0

    # ---- segments

    def _segment(self, pc: int) -> None:
        """One begins at ``pc``: what was written before is stored, so that it can be repeated."""
        if not self.putting_off:        # a careful block
            return
        r = self.registers
        self._settle()
        r.flush()
        self._counted()
        r.read.clear()
        self.began, r.words.pending = (pc, self.mode), {}

    def _settle(self) -> None:
        """The segment ends: look whether what was put off has to be done."""
        r = self.registers
        if r.words.pending:
            ok = r.words.settled(r.write_mask_of())
            on, bad = self.function.append_basic_block("on"), self.function.append_basic_block("nan")
            self.b.cbranch(ok, on, bad).set_weights([1000, 1])
            self.b.position_at_end(bad)
            self._repeat()
            self.b.position_at_end(on)
        self.began = None

    def _repeat(self) -> None:
        """Go back to the segment's beginning, in careful code: here, or made when the host is asked for it."""
        assert self.began is not None
        pc, mode = self.began
        if self.careful:
            self.b.branch(self._target_block(pc, mode | CAREFUL, self.registers.full))
            return
        self.b.store(ir.Constant(I32, REPEAT), self.status)
        self.b.store(ir.Constant(I32, self.mode), self.b.gep(self.state, [ir.Constant(I32, Layout.MODE)],
                                                             source_etype=I32))
        self.b.store(ir.Constant(I32, 0), self.resume)
        self.b.store(ir.Constant(I64, pc), self.at)
        self.b.branch(self.leave)

    def _instruction(self, instruction: Instruction, pc: int, mode: int) -> None:
        name = instruction.mnemonic
        if instruction.pair is not None:
            halves = [self._alu(half, self._entry(half)) for half in instruction.pair]
            for alu in halves:
                alu.compute()
            for alu in halves:
                alu.commit()
            return
        if uses_ttmp(instruction):
            raise Unsupported("registers of a trap handler")
        if exceptions_enabled(mode) and watched(instruction):
            raise Unsupported("exceptions for a trap handler")
        if name == "s_sendmsg" and instruction.fields["simm16"] & 255 == _MSG_INTERRUPT:
            raise Unsupported("an interrupt for the host")
        if name == "s_setprio":
            self._set_priority(instruction)
            return
        if name.startswith(_NOTHING) or name == "s_sendmsg":
            return
        if name in CACHE_INSTRUCTIONS:
            self._lowering(instruction, pc, mode).cache_instruction(CACHE_INSTRUCTIONS[name])
            return
        entry = table().get(name)
        if name.startswith("v_wmma"):
            multiply(instruction, self.registers, self._lowering(instruction, pc, mode).buffer, self.shared)
            return
        if isinstance(entry, Entry):
            self._alu(instruction, entry).run()
            return
        if name == "s_getpc_b64":
            base = self.b.load(self._field("code"), typ=I64)
            self.registers.write_sgpr64(instruction.operands[0].code,
                                        self.b.add(base, ir.Constant(I64, pc + instruction.size)))
            return
        if Special(self.registers, self.registers.words, mode, self.registers.field,
                   lambda bad: self._refuse(bad, pc, (pc + instruction.size, mode))).run(instruction):
            return
        memory = self._lowering(instruction, pc, mode)
        if name.startswith("s_buffer_load_"):
            memory.scalar_buffer_load(instruction)
        elif name.startswith("s_load_"):
            memory.scalar_load(instruction)
        elif instruction.encoding in ("MUBUF", "MTBUF"):
            memory.run(instruction)
        elif name in ("ds_swizzle_b32", "ds_bpermute_b32"):
            memory.between_lanes(instruction)
        elif isinstance(entry, (Load, Store)):
            memory.load_store(instruction, entry)
        elif isinstance(entry, Atomic):
            memory.atomic(instruction, entry)
        else:
            raise Unsupported("no semantics entry")

    def _set_priority(self, instruction: Instruction) -> None:
        b = self.b
        place = b.gep(self.state, [ir.Constant(I32, Layout.HW_STATUS)], source_etype=I32)
        rest = b.and_(b.load(place, typ=I32), ir.Constant(I32, ~_USER_PRIO & 0xffffffff))
        b.store(b.or_(rest, ir.Constant(I32, (instruction.fields["simm16"] & 3) << 3)), place)

    def _lowering(self, instruction: Instruction, pc: int, mode: int) -> BufferLowering:
        return BufferLowering(self.registers, self.registers.words, self.context, FIELDS,
                              lambda ok: self._fault(ok, pc),
                              lambda bad: self._refuse(bad, pc, (pc + instruction.size, mode)),
                              self.atomics, self.buffers)

    def _alu(self, instruction: Instruction, entry: Entry) -> Alu:
        return Alu(instruction, entry, self.registers, self.registers.words, self.shared, self.optimise)

    @staticmethod
    def _entry(instruction: Instruction) -> Entry:
        entry = table().get(instruction.mnemonic)
        if not isinstance(entry, Entry):
            raise Unsupported("no semantics entry")
        return entry

    def _fault(self, ok: ir.Value, pc: int) -> None:
        on, bad = self.function.append_basic_block("on"), self.function.append_basic_block("fault")
        self.b.cbranch(ok, on, bad)
        self._leave_aside(bad, FAULT, pc, None)
        self.b.position_at_end(on)

    def _refuse(self, refused: ir.Value, pc: int, resume: Point) -> None:
        """Where the bit is set the host executes the instruction: it says what is wrong with it."""
        on, bad = self.function.append_basic_block("on"), self.function.append_basic_block("refused")
        self.b.cbranch(refused, bad, on)
        self._leave_aside(bad, INTERPRET, pc, resume)
        self.b.position_at_end(on)

    def _leave_aside(self, block: ir.Block, status: int, pc: int, resume: Point | None) -> None:
        """Stop in a block of its own; what is known goes on elsewhere."""
        self.b.position_at_end(block)
        if self.registers.words.pending:        # what was put off may have led here
            self._repeat()
            return
        kept, dirty = self.registers.keep(), set(self.registers._dirty)
        self._stop(status, pc, resume)
        self.registers.back(kept)
        self.registers._dirty.update(dirty)

    # ---- terminators

    def _terminate(self, instruction: Instruction, pc: int, mode: int, written: bool) -> None:
        name, after, r, b = instruction.mnemonic, pc + instruction.size, self.registers, self.b
        state = (r.full, written)
        if name == "s_endpgm":
            b.store(ir.Constant(I32, DONE), self.status)
            b.branch(self.end)
        elif name == "s_barrier":
            self._stop(BARRIER, pc, (after, mode))
        elif name == "s_branch":
            self._go(_target(instruction, pc), mode, state, pc)
        elif uses_ttmp(instruction):
            self._stop(TERMINATOR, pc)
        elif name == "s_icache_inv":
            self._lowering(instruction, pc, mode).cache_instruction(CACHE_INSTRUCTIONS[name])
            self._go(after, mode, state, pc)
        elif name.startswith("s_cbranch_cdbg") or (name == "s_sethalt" and not instruction.fields["simm16"] & 1):
            self._go(after, mode, state, pc)
        elif name.startswith("s_cbranch"):
            taken, not_taken = self.function.append_basic_block("taken"), self.function.append_basic_block("next")
            condition = self._condition(name)
            r.flush()
            b.cbranch(condition, taken, not_taken)
            for block, target in ((taken, _target(instruction, pc)), (not_taken, after)):
                b.position_at_end(block)
                r.fresh()
                r.full = state[0]
                self._go(target, mode, state, pc)
        elif name in ("s_setpc_b64", "s_swappc_b64", "s_call_b64"):
            self._jump(instruction, pc, mode, state)
        elif name in ("s_setreg_imm32_b32", "s_round_mode", "s_denorm_mode", "s_setreg_b32"):
            self._set_mode(instruction, pc, mode, state)
        elif name.startswith("s_subvector_loop"):
            self._subvector(instruction, pc, mode)
        else:
            self.interpreted.append(f"{name}: an event for the host")
            self._stop(TERMINATOR, pc)

    def _condition(self, name: str) -> ir.Value:
        b, r = self.b, self.registers
        if "scc" in name:
            bit = r.read_scc()
            return bit if name.endswith("1") else b.not_(bit)
        bits = r.mask_bits(VCC) if "vcc" in name else r.exec_bits()
        return b.icmp_unsigned("!=" if name.endswith("nz") else "==", bits, ir.Constant(bits.type, 0))

    def _jump(self, instruction: Instruction, pc: int, mode: int, state: tuple[bool, bool]) -> None:
        b, r, after = self.b, self.registers, pc + instruction.size
        base = b.load(self._field("code"), typ=I64)
        where = None
        if instruction.mnemonic != "s_call_b64":
            where = r.fetch(Operand("ssrc0", instruction.fields["ssrc0"], 2), "u64", None).parts[0]

        def link() -> None:
            if instruction.mnemonic != "s_setpc_b64" and instruction.fields["sdst"] != NULL:
                r.write_sgpr64(instruction.fields["sdst"], b.add(base, ir.Constant(I64, after)))
        if where is None:
            link()
            self._go(_target(instruction, pc), mode, state, pc)
            return
        relative = b.sub(where, base)
        r.flush()
        unknown = self.function.append_basic_block("unknown")
        switch = b.switch(relative, unknown)
        targets = {p for p, m in self.wanted if m == mode} | {
            p + i.size for p, i in self.flow.instructions.items() if i.mnemonic in ("s_swappc_b64", "s_call_b64")}
        for target in sorted(targets):
            block = self.function.append_basic_block(f"to_{target:x}")
            switch.add_case(ir.Constant(I64, target), block)
            b.position_at_end(block)
            r.fresh()
            r.full = state[0]
            link()
            self._go(target, mode, state, pc)
        b.position_at_end(unknown)
        r.fresh()
        self._stop(TERMINATOR, pc)

    def _set_mode(self, instruction: Instruction, pc: int, mode: int, state: tuple[bool, bool]) -> None:
        name, after = instruction.mnemonic, pc + instruction.size
        simm = instruction.fields["simm16"]
        if name == "s_round_mode":
            number, low, bits, value = 1, 0, 4, simm
        elif name == "s_denorm_mode":
            number, low, bits, value = 1, 4, 4, simm
        else:
            number, low, bits, value = simm & 63, simm >> 6 & 31, (simm >> 11 & 31) + 1, instruction.literal or 0
        mask = (1 << bits) - 1 << low & MODE_BITS
        if number != 1:
            self._stop(TERMINATOR, pc)
        elif name == "s_setreg_b32":
            self._set_any_mode(instruction, pc, mode, state, low, mask)
        else:
            self._go(after, mode & ~mask | value << low & mask, state, pc)

    def _set_any_mode(self, instruction: Instruction, pc: int, mode: int, state: tuple[bool, bool], low: int,
                      mask: int) -> None:
        """MODE from a register: the modes that were met go on here, the host makes code for others."""
        b, r, after = self.b, self.registers, pc + instruction.size
        value = r.fetch(Operand("sdst", instruction.fields["sdst"]), "u32", None).parts[0]
        bits = b.and_(b.shl(value, ir.Constant(I32, low)), ir.Constant(I32, mask))
        r.flush()
        unknown = self.function.append_basic_block("unknown")
        switch = b.switch(bits, unknown)
        for new in sorted({m for p, m in self.wanted if p == after and not (m ^ mode) & ~mask} | {mode}):
            block = self.function.append_basic_block(f"mode_{new:x}")
            switch.add_case(ir.Constant(I32, new & mask), block)
            b.position_at_end(block)
            r.fresh()
            r.full = state[0]
            self._go(after, new, state, pc)
        b.position_at_end(unknown)
        r.fresh()
        self._stop(TERMINATOR, pc)

    def _subvector(self, instruction: Instruction, pc: int, mode: int) -> None:
        """See :func:`mock.isa.control._subvector`."""
        b, r, register = self.b, self.registers, instruction.fields["sdst"]
        low, high, saved = r.read_sgpr(EXEC), r.read_sgpr(EXEC + 1), r.read_sgpr(register)
        zero = ir.Constant(I32, 0)
        if instruction.mnemonic.endswith("begin"):
            none_low, none_high = b.icmp_unsigned("==", low, zero), b.icmp_unsigned("==", high, zero)
            taken = b.and_(none_low, none_high)
            kept = b.select(none_low, b.select(none_high, saved, zero), high)
            r.write_sgpr(EXEC + 1, b.select(none_low, high, zero))
            r.write_sgpr(register, kept)
        else:
            second = b.icmp_unsigned("!=", high, zero)
            taken = b.and_(b.not_(second), b.icmp_unsigned("!=", saved, zero))
            r.write_sgpr(EXEC, b.select(second, saved, b.select(taken, zero, low)))
            r.write_sgpr(EXEC + 1, b.select(taken, saved, high))
            r.write_sgpr(register, b.select(taken, low, saved))
        r.flush()
        yes, no = self.function.append_basic_block("taken"), self.function.append_basic_block("next")
        b.cbranch(taken, yes, no)
        for block, target in ((yes, _target(instruction, pc)), (no, pc + instruction.size)):
            b.position_at_end(block)
            r.fresh()
            r.full = False
            self._go(target, mode, (False, True), pc)


def translate(flow: Flow, points: Iterable[Point], *, lanes: int, chunk: int, vgprs: int,
              optimise: bool = False) -> Translation:
    """``points`` are (PC, MODE) at which a wave must be able to start or go on."""
    return _Translator(flow, points, lanes, chunk, vgprs, optimise).run()
