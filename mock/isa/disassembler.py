"""Instructions as text, in the syntax of LLVM's assembler (LLVM, "Syntax of gfx11 Instructions")."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from mock.isa.decode import Instruction, Operand, decode, in_wave, opcode_table
from mock.isa.encoding import LITERAL
from mock.isa.halves import SOURCES, is_half, source_kind
from mock.isa.images import DIMENSIONS
from mock.isa.opcodes import BUFFER_FORMATS
from mock.isa.operands import constant, is_constant

__all__ = ["disassemble", "format_instruction", "format_operand"]

VGPR, NULL = 256, 124
_SPECIAL = {106: "vcc_lo", 107: "vcc_hi", 124: "null", 125: "m0", 126: "exec_lo", 127: "exec_hi",
            235: "src_shared_base", 236: "src_shared_limit", 237: "src_private_base", 238: "src_private_limit",
            239: "src_pops_exiting_wave_id", 251: "src_vccz", 252: "src_execz", 253: "src_scc", 254: "src_lds_direct"}
_PAIRS = {106: "vcc", 126: "exec"}
_FLOATS = {240: "0.5", 241: "-0.5", 242: "1.0", 243: "-1.0", 244: "2.0", 245: "-2.0", 246: "4.0", 247: "-4.0",
           248: "0.15915494"}
# Instructions with neither an _e32 nor an _e64 form in their names, although both formats have them.
_NO_SUFFIX = ("v_readfirstlane_b32", "v_nop", "v_pipeflush")
_MIXED = ("v_fma_mix_f32", "v_fma_mixlo_f16", "v_fma_mixhi_f16")
_COUNTERS = (("vmcnt", 10, 63), ("expcnt", 0, 7), ("lgkmcnt", 4, 63))
_MESSAGES = {1: "MSG_INTERRUPT", 2: "MSG_HS_TESSFACTOR", 3: "MSG_DEALLOC_VGPRS", 5: "MSG_STALL_WAVE_GEN",
             6: "MSG_HALT_WAVES", 9: "MSG_GS_ALLOC_REQ", 134: "MSG_RTN_GET_TBA_TO_PC",
             128: "MSG_RTN_GET_DOORBELL", 129: "MSG_RTN_GET_DDID", 130: "MSG_RTN_GET_TMA",
             131: "MSG_RTN_GET_REALTIME", 132: "MSG_RTN_SAVE_WAVE", 133: "MSG_RTN_GET_TBA"}
_DEPCTR = (("hold_cnt", 7, 1), ("sa_sdst", 0, 1), ("va_vdst", 12, 4), ("va_sdst", 9, 3), ("va_ssrc", 8, 1),
           ("va_vcc", 1, 1), ("vm_vsrc", 2, 3))
_DEPCTR_REST = 3 << 5
_DECIMAL = 64               # the largest immediate that is printed so
_DELAYS = ("NO_DEP", "VALU_DEP_1", "VALU_DEP_2", "VALU_DEP_3", "VALU_DEP_4", "TRANS32_DEP_1", "TRANS32_DEP_2",
           "TRANS32_DEP_3", "FMA_ACCUM_CYCLE_1", "SALU_CYCLE_1", "SALU_CYCLE_2", "SALU_CYCLE_3")
_GENERATIONS = {0: "UC_VERSION_GFX7", 4: "UC_VERSION_GFX10", 6: "UC_VERSION_GFX11", 9: "UC_VERSION_GFX12"}
_SKIPS = ("SAME", "NEXT", "SKIP_1", "SKIP_2", "SKIP_3", "SKIP_4")


def disassemble(code: bytes, address: int = 0, *, wave_size: int = 32) -> Iterable[tuple[int, Instruction, str]]:
    """(address, instruction, text) of straight code.

    :raises IllegalInstruction: where the bytes are none.
    """
    position = 0
    while position < len(code):
        instruction = decode(code[position:position + 24], address + position)
        yield address + position, instruction, format_instruction(instruction, wave_size=wave_size)
        position += instruction.size


def format_operand(operand: Operand, literal: int | None) -> str:
    """Register, range, constant or literal."""
    code, width = operand.code, operand.width
    if code >= VGPR:
        return _range("v", code - VGPR, width)
    if code == LITERAL:
        return f"{literal or 0:#x}"
    if 128 <= code <= 208:
        return str(code - 128 if code <= 192 else 192 - code)
    if code in _FLOATS:
        return "0.15915494309189532" if code == 248 and width == 2 else _FLOATS[code]
    if width == 2 and code in _PAIRS:
        return _PAIRS[code]
    if code in _SPECIAL:
        return _SPECIAL[code]
    if 108 <= code <= 123:
        return _range("ttmp", code - 108, width)
    return _range("s", code, width)


def _range(kind: str, first: int, width: int) -> str:
    return f"{kind}{first}" if width == 1 else f"{kind}[{first}:{first + width - 1}]"


def format_instruction(instruction: Instruction, *, wave_size: int = 32) -> str:
    """One line that LLVM's assembler takes back to the same bits."""
    encoding = instruction.encoding
    if instruction.pair is not None:
        return " :: ".join(_half(half) for half in instruction.pair)
    if encoding in ("SOPP", "SOPK", "SOP1"):
        special = _scalar_special(instruction)
        if special is not None:
            return special
    if encoding.startswith("VOP"):
        return _vector(instruction, wave_size)
    body = {"SMEM": _smem, "DS": _ds, "FLAT": _flat, "GLOBAL": _flat, "SCRATCH": _flat, "MUBUF": _buffer,
            "MTBUF": _buffer, "VINTERP": _interpolate, "LDSDIR": _direct, "EXP": _export, "MIMG": _image}.get(encoding)
    if body is not None:
        return body(instruction).strip()
    return _join(instruction.mnemonic, [format_operand(o, instruction.literal) for o in instruction.operands])


def _join(mnemonic: str, operands: list[str], modifiers: str = "") -> str:
    return (mnemonic + " " + ", ".join(operands) + modifiers).strip()


def _half(half: Instruction) -> str:
    texts = [format_operand(o, half.literal) for o in half.operands]
    if "fmaak" in half.mnemonic:
        texts.append(f"{half.literal or 0:#x}")
    elif "fmamk" in half.mnemonic:
        texts.insert(2, f"{half.literal or 0:#x}")
    return _join(half.mnemonic.replace("v_", "v_dual_", 1), texts)


# -- scalar ---------------------------------------------------------------------------------------------------

def _scalar_special(instruction: Instruction) -> str | None:
    name, f = instruction.mnemonic, instruction.fields
    if instruction.encoding == "SOP1":
        if name.startswith("s_sendmsg_rtn"):
            return _join(name, [format_operand(instruction.operands[0], None), _message(f["ssrc0"])])
        return None
    simm = f["simm16"]
    if instruction.encoding == "SOPK":
        destination = format_operand(Operand("sdst", f["sdst"]), None)
        if name == "s_getreg_b32":
            return _join(name, [destination, _hwreg(simm)])
        if name == "s_setreg_b32":
            return _join(name, [_hwreg(simm), destination])
        if name == "s_setreg_imm32_b32":
            return _join(name, [_hwreg(simm), f"{instruction.literal:#x}"])
        if name == "s_version":
            return f"{name} {_version(simm)}"
        if name.startswith(("s_call", "s_subvector")):
            return _join(name, [format_operand(instruction.operands[0], None), str(_signed(simm, 16) & 0xffff)])
        return _join(name, [destination, f"{simm:#x}"])
    if name == "s_waitcnt":
        return _waitcnt(simm)
    if name == "s_delay_alu":
        return _delay(simm)
    if name in ("s_sendmsg", "s_sendmsghalt"):
        return f"{name} {_message(simm)}"
    if name == "s_waitcnt_depctr":
        return _depctr(simm)
    if name.startswith(("s_branch", "s_cbranch", "s_nop", "s_sleep", "s_setprio", "s_sethalt", "s_setkill", "s_trap",
                        "s_incperflevel", "s_decperflevel", "s_denorm_mode")):
        return f"{name} {simm}" if simm <= _DECIMAL or name.startswith(("s_branch", "s_cbranch")) else \
            f"{name} {simm:#x}"
    if name in ("s_endpgm", "s_code_end", "s_barrier", "s_wakeup", "s_icache_inv", "s_endpgm_saved", "s_ttracedata",
                "s_wait_idle"):
        return name if simm == 0 or name != "s_endpgm" else f"{name} {simm}"
    return f"{name} {simm:#x}"


def _depctr(simm: int) -> str:
    """Counters that are not at their largest; a number where bits of no counter would be lost."""
    if simm & _DEPCTR_REST:
        return f"s_waitcnt_depctr {simm:#x}"
    values = [(name, simm >> low & (1 << width) - 1, (1 << width) - 1) for name, low, width in _DEPCTR]
    shown = [f"depctr_{name}({value})" for name, value, largest in values if value != largest]
    return "s_waitcnt_depctr " + " ".join(shown or [f"depctr_{name}({value})" for name, value, _ in values])


def _version(simm: int) -> str:
    """A generation, by its name or number, with flags where nothing else is set."""
    name = _GENERATIONS.get(simm & 255, str(simm & 255))
    flags = [f"UC_VERSION_{flag}_BIT" for bit, flag in ((13, "W64"), (14, "W32"), (15, "MDP")) if simm >> bit & 1]
    if simm & 0x1f00:
        return f"{simm:#x}"
    for i, flag in enumerate(flags):
        name = f"({name})|{flag}" if i else f"{name}|{flag}"
    return name


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 & 1 else value


def _waitcnt(simm: int) -> str:
    values = [(name, simm >> low & largest, largest) for name, low, largest in _COUNTERS]
    if simm & 1 << 3:                       # a bit of no counter: only the number keeps it
        return f"s_waitcnt {simm:#x}"
    shown = [f"{name}({value})" for name, value, largest in values if value != largest]
    return "s_waitcnt " + " ".join(shown or [f"{name}({value})" for name, value, _ in values])


def _delay(simm: int) -> str:
    first, skip, second = simm & 15, simm >> 4 & 7, simm >> 7 & 15
    if not simm or max(first, second) >= len(_DELAYS) or skip >= len(_SKIPS) or simm >> 11:
        return f"s_delay_alu {simm:#x}" if simm else "s_delay_alu 0"
    parts = [f"instid0({_DELAYS[first]})"] if first else []
    if skip:
        parts.append(f"instskip({_SKIPS[skip]})")
    if second:
        parts.append(f"instid1({_DELAYS[second]})")
    return "s_delay_alu " + " | ".join(parts)


def _message(simm: int) -> str:
    if simm in _MESSAGES:
        return f"sendmsg({_MESSAGES[simm]})"
    return f"sendmsg({simm}, 0, 0)" if simm < 256 else str(simm)


def _hwreg(simm: int) -> str:
    names = {1: "HW_REG_MODE", 2: "HW_REG_STATUS", 3: "HW_REG_TRAPSTS", 5: "HW_REG_GPR_ALLOC", 6: "HW_REG_LDS_ALLOC",
             7: "HW_REG_IB_STS", 15: "HW_REG_SH_MEM_BASES", 18: "HW_REG_PERF_SNAPSHOT_PC_LO",
             19: "HW_REG_PERF_SNAPSHOT_PC_HI", 27: "HW_REG_PERF_SNAPSHOT_DATA", 20: "HW_REG_FLAT_SCR_LO",
             21: "HW_REG_FLAT_SCR_HI",
             23: "HW_REG_HW_ID1", 24: "HW_REG_HW_ID2", 29: "HW_REG_SHADER_CYCLES"}
    number, low, width = simm & 63, simm >> 6 & 31, (simm >> 11) + 1
    name = names.get(number, str(number))
    return f"hwreg({name})" if (low, width) == (0, 32) else f"hwreg({name}, {low}, {width})"


# -- vector ---------------------------------------------------------------------------------------------------

def _suffix(instruction: Instruction) -> str:
    name, encoding = instruction.mnemonic, instruction.encoding
    short = encoding in ("VOP1", "VOP2", "VOPC")
    if instruction.dpp is not None:
        return "" if encoding == "VOPC" else "_dpp" if short else "_e64_dpp"
    if name in _NO_SUFFIX:
        return ""
    if short:
        return "_e32" if _in_formats(name, ("VOP3", "VOP3SD")) or name == "v_mov_b16" else ""
    if encoding in ("VOP3", "VOP3SD"):
        return "_e64" if _in_formats(name, ("VOP1", "VOP2", "VOPC")) else ""
    return ""


@cache
def _in_formats(name: str, formats: tuple[str, ...]) -> bool:
    return any(name == o.mnemonic for e in formats for o in opcode_table(e).values())


def _vector(instruction: Instruction, wave_size: int) -> str:
    name, f, encoding = instruction.mnemonic, instruction.fields, instruction.encoding
    vcc = "vcc_lo" if wave_size == 32 else "vcc"
    texts = []
    halves = any(o.code >= VGPR + 128 and is_half(instruction, o) for o in instruction.operands)
    for operand in in_wave(instruction, wave_size).operands:
        literal = instruction.literal
        bit = SOURCES.get(operand.field)
        kind = source_kind(instruction, operand)
        if literal is not None and kind in ("f16", "i16", "u16", "b16", "mix") and name != "v_dot2_bf16_bf16":
            literal &= 0xffff
        text = format_operand(_mask_width(instruction, operand, wave_size), literal)
        if kind in ("i16", "u16") and operand.code in _FLOATS and (name, bit) not in _INTEGERS:
            text = f"{int(constant(operand.code, kind, None)) & 0xffff:#x}"
        if operand.is_vgpr and (name == "v_mov_b16" or (halves and is_half(instruction, operand))):
            text = _half_register(instruction, operand)
        if bit is not None and encoding != "VOP3P":
            text = _signed_operand(instruction, bit, text, is_constant(operand.code))
        elif bit is not None and name in _MIXED:
            text = f"|{text}|" if f["neg_hi"] >> bit & 1 else text
            if f["neg"] >> bit & 1:
                text = f"neg({text})" if is_constant(operand.code) and text[0] != "|" else f"-{text}"
        texts.append(text)
    if name.startswith(("v_fmaak", "v_fmamk")):
        texts.insert(3 if "fmaak" in name else 2, f"{instruction.literal:#x}")
    if encoding == "VOPC" and not name.startswith("v_cmpx"):
        texts.insert(0, vcc)
    if encoding == "VOP2" and "_co_ci_" in name:
        texts.insert(1, vcc)
        texts.append(vcc)
    if encoding == "VOP2" and name == "v_cndmask_b32":
        texts.append(vcc)
    return _join(name + _suffix(instruction), texts, _modifiers(instruction) + _dpp(instruction))


_INTEGERS = {("v_mov_b16", 0), ("v_ldexp_f16", 1)}       # sources of short DPP forms whose neg LLVM calls sext


def _signed_operand(instruction: Instruction, bit: int, text: str, constant_: bool) -> str:
    """An operand with its neg and abs, where they are printed."""
    negative, absolute = instruction.neg >> bit & 1, instruction.abs >> bit & 1
    opcode = instruction.opcode
    if instruction.encoding in ("VOP3", "VOP3SD") and opcode is not None:
        form = "" if instruction.dpp is None else "_dpp"
        if negative and opcode.sign("sext" + form) >> bit & 1:
            return f"sext({text})"
        negative &= opcode.sign("neg" + form) >> bit
        absolute &= opcode.sign("abs" + form) >> bit
    elif negative and (instruction.mnemonic, bit) in _INTEGERS:
        return f"sext({text})"
    text = f"|{text}|" if absolute else text
    if negative:
        text = f"neg({text})" if constant_ and text[0] != "|" else f"-{text}"
    return text


def _half_register(instruction: Instruction, operand: Operand) -> str:
    """v1.l or v1.h."""
    number = operand.code - VGPR
    if instruction.encoding in ("VOP1", "VOP2", "VOPC"):
        return f"v{number & 127}.{'lh'[number >> 7]}"
    return f"v{number}.{'lh'[instruction.fields['op_sel'] >> (3 if operand.field == 'vdst' else 0) & 1]}"


def _mask_width(instruction: Instruction, operand: Operand, wave_size: int) -> Operand:
    """Operands that are lane masks have two registers in wave64."""
    masks = operand.field == "sdst" or (operand.field == "vdst" and instruction.mnemonic.startswith("v_cmp")) or \
        (operand.field == "src2" and ("cndmask" in instruction.mnemonic or "_co_ci_" in instruction.mnemonic))
    return Operand(operand.field, operand.code, 2) if masks and wave_size == 64 else operand


def _bits(value: int, count: int) -> str:
    return "[" + ",".join(str(value >> i & 1) for i in range(count)) + "]"


def _modifiers(instruction: Instruction) -> str:
    f, text = instruction.fields, ""
    sources = sum(o.field in ("src0", "src1", "src2") for o in instruction.operands)
    if instruction.encoding == "VOP3":
        opcode = instruction.opcode
        printed = opcode.sign("op_sel" if instruction.dpp is None else "op_sel_dpp") if opcode is not None else 0
        if f["op_sel"] & printed:
            chosen = f["op_sel"] & printed
            if instruction.mnemonic.startswith("v_permlane"):
                text += f" op_sel:{_bits(chosen, 2)}"
            else:
                if instruction.mnemonic == "v_fmac_f16":
                    sources = 3         # the destination is one
                text += f" op_sel:{_bits(chosen & (1 << sources) - 1 | chosen >> 3 << sources, sources + 1)}"
    elif instruction.encoding == "VOP3P":
        high = f["op_sel_hi"] | f["op_sel_hi2"] << 2
        default = 0 if instruction.mnemonic in _MIXED else (1 << sources) - 1
        if "wmma" in instruction.mnemonic:
            if instruction.mnemonic.startswith(("v_wmma_f16", "v_wmma_bf16")):
                text += f" op_sel:{_bits(f['op_sel'], sources)}" if f["op_sel"] else ""
                text += f" op_sel_hi:{_bits(high, sources)}" if high != default else ""
        else:
            if f["op_sel"] & (1 << sources) - 1:
                text += f" op_sel:{_bits(f['op_sel'], sources)}"
            if high & (1 << sources) - 1 != default:
                text += f" op_sel_hi:{_bits(high, sources)}"
        if instruction.mnemonic not in _MIXED:
            if f["neg"]:
                text += f" neg_lo:{_bits(f['neg'], sources)}"
            if f["neg_hi"]:
                text += f" neg_hi:{_bits(f['neg_hi'], sources)}"
    text += " clamp" if f.get("clamp") else ""
    return text + ("", " mul:2", " mul:4", " div:2")[f.get("omod", 0)]


def _dpp(instruction: Instruction) -> str:
    dpp = instruction.dpp
    if dpp is None:
        return ""
    fetch = " fi:1" if dpp.fetch_inactive else ""
    if dpp.lanes is not None:
        return f" dpp8:[{','.join(map(str, dpp.lanes))}]" + fetch
    c = dpp.control
    names = {0x10: "row_shl", 0x11: "row_shr", 0x12: "row_ror", 0x15: "row_share", 0x16: "row_xmask"}
    if c < 0x100:
        control = "quad_perm:[" + ",".join(str(c >> 2 * i & 3) for i in range(4)) + "]"
    elif c in (0x140, 0x141):
        control = ("row_mirror", "row_half_mirror")[c & 1]
    else:
        control = f"{names[c >> 4]}:{c & 15}"
    return (f" {control} row_mask:{dpp.row_mask:#x} bank_mask:{dpp.bank_mask:#x}"
            + (" bound_ctrl:1" if dpp.bound_control else "") + fetch)


# -- memory ---------------------------------------------------------------------------------------------------

def _cache(f: dict[str, int]) -> str:
    return "".join(f" {bit}" for bit in ("glc", "slc", "dlc") if f.get(bit))


def _smem(instruction: Instruction) -> str:
    f = instruction.fields
    if not instruction.operands:
        return instruction.mnemonic
    offset = _signed(f["offset"], 21)
    texts = []
    for operand in instruction.operands:
        if operand.field != "soffset":
            texts.append(format_operand(operand, None))
    if instruction.mnemonic.startswith("s_atc"):
        texts.insert(0, str(f["sdata"]) if f["sdata"] <= _DECIMAL else f"{f['sdata']:#x}")
    number = f"-{-offset:#x}" if offset < 0 else f"{offset:#x}"
    modifiers = ""
    if f["soffset"] != NULL:
        texts.append(format_operand(Operand("soffset", f["soffset"]), None))
        modifiers = f" offset:{number}" if offset else ""
    else:
        texts.append(number if offset else "null")
    return _join(instruction.mnemonic, texts, modifiers + ("".join(f" {b}" for b in ("glc", "dlc") if f[b])))


def _ds(instruction: Instruction) -> str:
    f = instruction.fields
    texts = [format_operand(o, None) for o in instruction.operands]
    offset = f["offset0"] | f["offset1"] << 8
    if "2addr" in instruction.mnemonic:
        modifiers = "".join(f" offset{i}:{f[f'offset{i}']}" for i in (0, 1) if f[f"offset{i}"])
    else:
        modifiers = f" offset:{offset}" if offset else ""
        if instruction.mnemonic == "ds_swizzle_b32" and offset:
            modifiers = f" offset:{_swizzle(offset)}"
    return _join(instruction.mnemonic, texts, modifiers + (" gds" if f["gds"] else ""))


def _swizzle(offset: int) -> str:
    """The pattern by its name: a permutation of quads, or what AND, OR and XOR masks do to a lane's number."""
    if offset >> 8 == 0x80:
        return "swizzle(QUAD_PERM," + ",".join(str(offset >> 2 * i & 3) for i in range(4)) + ")"
    if offset >> 15:
        return str(offset)
    keep, force, flip = offset & 31, offset >> 5 & 31, offset >> 10 & 31
    group = 32 - keep
    if keep == 31 and not force and flip.bit_count() == 1:
        return f"swizzle(SWAP,{flip})"
    if keep == 31 and not force and flip and not flip & flip + 1:
        return f"swizzle(REVERSE,{flip + 1})"
    if group > 1 and not group & group - 1 and force < group and not flip:
        return f"swizzle(BROADCAST,{group},{force})"
    bits = [((x & keep | force) ^ flip) for x in (0, 31)]       # of lanes 0 and 31
    letters = {(0, 0): "0", (1, 1): "1", (0, 1): "p", (1, 0): "i"}
    return 'swizzle(BITMASK_PERM,"' + "".join(letters[bits[0] >> i & 1, bits[1] >> i & 1]
                                              for i in range(4, -1, -1)) + '")'


def _flat(instruction: Instruction) -> str:
    f = instruction.fields
    offset = f["offset"] if instruction.encoding == "FLAT" else _signed(f["offset"], 13)
    texts = []
    scalar = f["saddr"] != NULL
    for operand in instruction.operands:
        if operand.field != "addr":
            texts.append(format_operand(operand, None))
            continue
        texts.append(_address(instruction, operand, scalar))
    if instruction.encoding != "FLAT":
        base = format_operand(Operand("saddr", f["saddr"], 2 if instruction.encoding == "GLOBAL" else 1), None)
        texts.append(base if scalar else "off")
    return _join(instruction.mnemonic, texts, (f" offset:{offset}" if offset else "") + _cache(f))


def _address(instruction: Instruction, operand: Operand, scalar: bool) -> str:
    if instruction.encoding == "GLOBAL":
        return format_operand(Operand("addr", operand.code, 1 if scalar else 2), None)
    if instruction.encoding == "SCRATCH" and not instruction.fields["sve"]:
        return "off"
    return format_operand(operand, None)


def _buffer(instruction: Instruction) -> str:
    f = instruction.fields
    if not instruction.operands:
        return instruction.mnemonic
    texts = []
    for operand in instruction.operands:
        if operand.field == "vdata":
            texts.append(format_operand(Operand("vdata", operand.code, operand.width + f["tfe"]), None))
        elif operand.field == "vaddr":
            count = f["offen"] + f["idxen"]
            texts.append(format_operand(Operand("vaddr", operand.code, count), None) if count else "off")
        else:
            texts.append(format_operand(operand, None))
    modifiers = ""
    if instruction.encoding == "MTBUF" and f["format"] != 1:
        name = BUFFER_FORMATS.get(f["format"])
        modifiers += f" format:[{name}]" if name else f" format:{f['format']}"
    modifiers += "".join(f" {bit}" for bit in ("idxen", "offen") if f[bit])
    modifiers += (f" offset:{f['offset']}" if f["offset"] else "") + _cache(f) + (" tfe" if f["tfe"] else "")
    return _join(instruction.mnemonic, texts, modifiers)


# -- graphics -------------------------------------------------------------------------------------------------

def _interpolate(instruction: Instruction) -> str:
    f = instruction.fields
    texts = [("-" if o.field != "vdst" and f["neg"] >> int(o.field[3]) & 1 else "") + format_operand(o, None)
             for o in instruction.operands]
    modifiers = (" clamp" if f["clamp"] else "") + (f" op_sel:{_bits(f['op_sel'], 4)}" if f["op_sel"] else "")
    return _join(instruction.mnemonic, texts, modifiers + f" wait_exp:{f['wait_exp']}")


def _direct(instruction: Instruction) -> str:
    f = instruction.fields
    attribute = f", attr{f['attr']}.{'xyzw'[f['attr_chan']]}" if "param" in instruction.mnemonic else ""
    return f"{instruction.mnemonic} v{f['vdst']}{attribute} wait_vdst:{f['wait_vdst']}"


def _export(instruction: Instruction) -> str:
    f = instruction.fields
    target = f["target"]
    name = f"mrt{target}" if target < 8 else {8: "mrtz", 20: "prim"}.get(target, "")
    if not name:
        name = f"pos{target - 12}" if 12 <= target <= 16 else f"dual_src_blend{target - 21}" if target in (21, 22) \
            else f"invalid_target_{target}"
    sources = [f"v{f[f'vsrc{i}']}" if f["en"] >> i & 1 else "off" for i in range(4)]
    return _join(f"exp {name}", sources, (" done" if f["done"] else "") + (" row_en" if f["row"] else ""))


def _image(instruction: Instruction) -> str:
    f = instruction.fields
    addresses = [format_operand(o, None) for o in instruction.operands if o.field == "vaddr"]
    texts = [format_operand(o, None) for o in instruction.operands if o.field != "vaddr"]
    texts.insert(1, f"[{', '.join(addresses)}]" if f["nsa"] else addresses[0])
    modifiers = ""
    if "bvh" not in instruction.mnemonic:
        modifiers += f" dmask:{f['dmask']:#x}" if f["dmask"] else ""
        modifiers += f" dim:SQ_RSRC_IMG_{DIMENSIONS[f['dim']].name}" + (" unorm" if f["unrm"] else "") + _cache(f)
        modifiers += " r128" if f["r128"] else ""
    modifiers += "".join(f" {name}" for name in ("a16", "tfe", "lwe", "d16") if f[name])
    return _join(instruction.mnemonic, texts, modifiers)
