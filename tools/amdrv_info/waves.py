"""``wave``: the waves on the card's SIMDs: where each stands, why, its registers, the code around its PC.

Read through SQ_IND_INDEX and SQ_IND_DATA (Linux 6.1, gfx_v11_0.c, wave_read_ind and gfx_v11_0_read_wave_data), for
which GRBM_GFX_INDEX is written and put back; on a card that amdgpu drives, through its debugfs, which takes care of
that (amdgpu_debugfs.c, amdgpu_debugfs_wave_read, amdgpu_debugfs_gpr_read).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from amdrv.errors import AmdrvError, HalError
from amdrv.regs import Table, table
from tools.amdrv_info.source import Live, virtual

__all__ = ["disassembly", "kernels_waves", "shape_of", "wave_document"]

SIMDS, SLOTS = 4, 16                        # SIMDs of a WGP; gc_num_max_waves_per_simd
SGPRS, VGPRS = 0x200, 0x400                 # SQIND_WAVE_SGPRS_OFFSET, _VGPRS_OFFSET (soc15d.h, gfx10 and later)
USER_SGPRS, VCC = 106, 106                  # s0..s105, then vcc
EXEC_LO, EXEC_HI, M0 = 0x27E, 0x27F, 0x27D  # ixSQ_WAVE_* (gc_11_0_0_offset.h)
TRAPS = {"ILLEGAL_INST": "an illegal instruction", "SAVECTX": "its context is to be saved", "HOST_TRAP": "a host trap",
         "UTC_ERROR": "a translation error", "BUFFER_OOB": "a buffer access out of bounds"}
MEM_VIOL = 1 << 8                           # of TRAPSTS.EXCP
WINDOW = 40                                 # bytes of code before and after the PC
BACK_STEPS = 8                              # instructions are 4 to 20 bytes: a start in so many places is tried


def shape_of(source: Live) -> tuple[int, int, int]:
    """Shader engines, arrays of each, WGPs of each of those."""
    gc = source.table.gc
    return gc.shader_engines, gc.arrays_per_engine, gc.wgps_per_array


def wave_document(source: Live, *, vgprs: int = 0, every: bool = False,
                  shape: tuple[int, int, int] = (6, 2, 4)) -> dict[str, Any]:
    """``wave --json``: halted waves, with ``every`` the running ones, too.

    :param vgprs: how many vector registers of each wave are read (each is one access a lane).
    :param shape: shader engines, arrays of each, WGPs of each of those.
    :raises HalError: the card is only looked at, and the selector must not be written.
    """
    registers = table("gc_11_0_0")
    waves = []
    engines, arrays, wgps = shape
    with _index(source) as select:
        for se in range(engines):
            for sa in range(arrays):
                for wgp in range(wgps):
                    for simd in range(SIMDS):
                        select(se, sa, SIMDS * wgp + simd)
                        for slot in range(SLOTS):
                            status = registers["SQ_WAVE_STATUS"].unpack(_read(source, slot, registers, "STATUS"))
                            if status["VALID"] and (every or status["HALT"]):
                                waves.append({"se": se, "sa": sa, "wgp": wgp, "simd": simd, "slot": slot}
                                             | _wave(source, slot, registers, status, vgprs))
    for wave in waves:
        wave |= _code(source, wave)
    return {"card": source.name, "waves": waves}


@contextmanager
def _index(source: Live) -> Iterator[Any]:
    """gfx_v11_0_select_se_sh; afterwards everything is broadcast to again, or whatever it was before."""
    if not source.writable:
        raise HalError(f"{source.name}: waves are read behind selectors that must be written (GRBM_GFX_INDEX, "
                       "SQ_IND_INDEX); on a card that somebody drives, allow it with --select")
    selector = source.registers.GRBM_GFX_INDEX
    before = int(selector.read())
    try:
        yield lambda se, sa, instance: selector.write(se_index=se, sa_index=sa, instance_index=instance)
    finally:
        selector.write(before)


def _read(source: Live, slot: int, registers: Table, name: str) -> int:
    return _at(source, slot, registers[f"SQ_WAVE_{name}"].offset)


def _at(source: Live, slot: int, index: int, lane: int = 0) -> int:
    source.registers.SQ_IND_INDEX.write(wave_id=slot, workitem_id=lane, index=index)
    return int(source.registers.SQ_IND_DATA.read())


def _many(source: Live, slot: int, index: int, count: int, lane: int = 0) -> list[int]:
    source.registers.SQ_IND_INDEX.write(wave_id=slot, workitem_id=lane, index=index, auto_incr=1)
    data = source.registers.SQ_IND_DATA
    return [int(data.read()) for _ in range(count)]


def _wave(source: Live, slot: int, registers: Table, status: dict[str, int], vgprs: int) -> dict[str, Any]:
    def read(name: str) -> dict[str, int]:
        return registers[f"SQ_WAVE_{name}"].unpack(_read(source, slot, registers, name))

    trapsts, hw2, allocated = read("TRAPSTS"), read("HW_ID2"), read("GPR_ALLOC")
    lanes = 64 if read("IB_STS2")["WAVE64"] else 32
    count = min(vgprs, 8 * (allocated["VGPR_SIZE"] + 1))
    pc = _read(source, slot, registers, "PC_LO") | _read(source, slot, registers, "PC_HI") << 32
    columns = []
    if count:
        columns = [_many(source, slot, VGPRS, count, lane) for lane in range(lanes)]
    sgprs = _many(source, slot, SGPRS, USER_SGPRS + 2)
    return {"halted": bool(status["HALT"]), "why": _why(status, trapsts), "pc": pc,
            "vmid": hw2["VM_ID"], "me": hw2["ME_ID"], "pipe": hw2["PIPE_ID"], "queue": hw2["QUEUE_ID"], "lanes": lanes,
            "exec": _at(source, slot, EXEC_LO) | _at(source, slot, EXEC_HI) << 32, "m0": _at(source, slot, M0),
            "vcc": sgprs[VCC] | sgprs[VCC + 1] << 32, "scc": status["SCC"], "status": status, "trapsts": trapsts,
            "sgprs": sgprs[:USER_SGPRS], "vgprs": [[column[n] for column in columns] for n in range(count)]}


# ---- by amdgpu's debugfs

DEBUGFS_FIELDS = ("STATUS", "PC_LO", "PC_HI", "EXEC_LO", "EXEC_HI", "HW_ID1", "HW_ID2", "GPR_ALLOC", "LDS_ALLOC",
                  "TRAPSTS", "IB_STS", "IB_STS2", "IB_DBG1", "M0", "MODE")
"""Words of amdgpu_wave after the first, which is 3 (gfx_v11_0_read_wave_data)."""
GFX11_DATA = 3
DebugRead = Callable[[str, int, int], bytes]
"""("wave" or "gpr", position, bytes) -> what amdgpu's file has there"""


def kernels_waves(card: str, read: DebugRead, *, vgprs: int = 0, every: bool = False,
                  shape: tuple[int, int, int] = (6, 2, 4)) -> dict[str, Any]:
    """:func:`wave_document` of a card that amdgpu drives: a wave is chosen by the position in the file
    (amdgpu_debugfs_wave_read, amdgpu_debugfs_gpr_read). The code is not to be had that way.

    :raises HalError: the files are of another generation.
    """
    registers, waves = table("gc_11_0_0"), []
    engines, arrays, wgps = shape
    for se, sa, wgp, simd, slot in itertools.product(range(engines), range(arrays), range(wgps), range(SIMDS),
                                                     range(SLOTS)):
        instance = SIMDS * wgp + simd
        data = read("wave", se << 7 | sa << 15 | instance << 23 | slot << 31, 4 * (1 + len(DEBUGFS_FIELDS)))
        words = struct.unpack(f"<{len(data) // 4}I", data[:len(data) & ~3])
        if len(words) <= len(DEBUGFS_FIELDS):
            continue
        if words[0] != GFX11_DATA:
            raise HalError(f"{card}: amdgpu_wave is of type {words[0]}; type {GFX11_DATA}, of gfx11, is known")
        raw = dict(zip(DEBUGFS_FIELDS, words[1:], strict=False))
        status = registers["SQ_WAVE_STATUS"].unpack(raw["STATUS"])
        if not status["VALID"] or not (every or status["HALT"]):
            continue
        trapsts = registers["SQ_WAVE_TRAPSTS"].unpack(raw["TRAPSTS"])
        hw2 = registers["SQ_WAVE_HW_ID2"].unpack(raw["HW_ID2"])
        lanes = 64 if registers["SQ_WAVE_IB_STS2"].unpack(raw["IB_STS2"])["WAVE64"] else 32
        count = min(vgprs, 8 * (registers["SQ_WAVE_GPR_ALLOC"].unpack(raw["GPR_ALLOC"])["VGPR_SIZE"] + 1))
        place = se << 12 | sa << 20 | instance << 28 | slot << 36

        def many(position: int, number: int) -> list[int]:
            found = read("gpr", position, 4 * number)
            return list(struct.unpack(f"<{number}I", found.ljust(4 * number, b"\0")[:4 * number]))
        sgprs = many(place | 1 << 60, USER_SGPRS + 2)
        columns = [many(place | lane << 52, count) for lane in range(lanes)] if count else []
        waves.append({
            "se": se, "sa": sa, "wgp": wgp, "simd": simd, "slot": slot, "halted": bool(status["HALT"]),
            "why": _why(status, trapsts), "pc": raw["PC_LO"] | raw["PC_HI"] << 32, "vmid": hw2["VM_ID"],
            "me": hw2["ME_ID"], "pipe": hw2["PIPE_ID"], "queue": hw2["QUEUE_ID"], "lanes": lanes,
            "exec": raw["EXEC_LO"] | raw["EXEC_HI"] << 32, "m0": raw["M0"], "vcc": sgprs[VCC] | sgprs[VCC + 1] << 32,
            "scc": status["SCC"], "status": status, "trapsts": trapsts, "sgprs": sgprs[:USER_SGPRS],
            "vgprs": [[column[n] for column in columns] for n in range(count)], "code": [],
            "code_problem": "amdgpu's debugfs does not show memory by a process's addresses"})
    return {"card": card, "waves": waves}


def _why(status: dict[str, int], trapsts: dict[str, int]) -> str | None:
    """Why a wave stands, as its registers tell; None while it runs."""
    if not status["HALT"]:
        return None
    causes = [text for name, text in TRAPS.items() if trapsts[name]]
    if trapsts["EXCP"] & MEM_VIOL:
        causes.append("a memory violation")
    return ", ".join(causes) or "it was halted"


def _code(source: Live, wave: dict[str, Any]) -> dict[str, Any]:
    """Instructions around the PC. Backwards there is no telling where one begins: the start is taken from which
    instructions, read one after the other, meet the PC."""
    start = wave["pc"] - WINDOW
    try:
        data = virtual(source, "gc", wave["vmid"], start, 2 * WINDOW)
    except AmdrvError:
        start = wave["pc"]
        try:
            data = virtual(source, "gc", wave["vmid"], start, WINDOW)
        except AmdrvError as error:
            return {"code": [], "code_problem": str(error)}
    return {"code": disassembly(data, start, wave["pc"], wave["lanes"]), "code_problem": None}


def disassembly(data: bytes, address: int, pc: int, lanes: int) -> list[dict[str, Any]]:
    """RDNA3 instructions of ``data``, such that one begins at ``pc``; bytes that are none are words."""
    before = _lines(data[:pc - address], address, lanes)
    for skip in range(0, pc - address, 4):
        tried = _lines(data[skip:pc - address], address + skip, lanes)
        if all(line["text"][0] != "." for line in tried):
            before = tried
            break
    return before + _lines(data[pc - address:], pc, lanes)


def _lines(data: bytes, address: int, lanes: int) -> list[dict[str, Any]]:
    from mock.isa.decode import decode
    from mock.isa.disassembler import format_instruction
    from mock.isa.dispatch import IllegalInstruction
    found = []
    at = 0
    while at + 4 <= len(data):
        try:
            instruction = decode(data[at:], address + at)
            size, text = instruction.size, format_instruction(instruction, wave_size=lanes)
        except IllegalInstruction:
            size, text = 4, f".long {int.from_bytes(data[at:at + 4], 'little'):#010x}"
        found.append({"address": address + at, "words": data[at:at + size].hex(), "text": text})
        at += size
    return found
