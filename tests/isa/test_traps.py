"""Trap handlers, messages and hardware registers, in both executors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mock.isa as isa
from mock.isa import hwregs
from mock.isa.access import HostMemory

Assembler = Callable[[str], bytes]
EXECUTORS = ("interpreter", "jit")
RSRC1 = 7 | 0xf0 << 12 | 1 << 21 | 1 << 23
USER_SGPRS = 2 << 1
PRIV, TRAP_EN, HALT = 1 << 5, 1 << 6, 1 << 13


class Bench:
    """A program, a trap handler, and memory that both can see: s[0:1] of the program, and what TMA names."""

    def __init__(self, assembler: Assembler, executor: str) -> None:
        self.assembler, self.executor = assembler, executor
        self.words = np.zeros(1024, np.uint32)
        self.keep: list[Any] = []
        self.tma = 0

    def place(self, data: bytes, align: int = 256) -> int:
        raw = np.zeros(len(data) + 8192 + align, np.uint8)
        skip = -int(raw.ctypes.data) % align
        raw[skip:skip + len(data)] = np.frombuffer(data, np.uint8)
        self.keep.append(raw)
        return int(raw.ctypes.data) + skip

    def run(self, text: str, handler: str | None = None, *, block: int = 32, **more: Any) -> isa.Counts:
        tba = 0
        if handler is not None:
            tba = self.place(self.assembler(handler))
            # TMA's memory: where the program's memory is, for the handler to load.
            self.tma = self.place(int(self.words.ctypes.data).to_bytes(8, "little"))
        options: dict[str, Any] = {"grid": (1,), "block": (block,), "kernarg": int(self.words.ctypes.data),
                                   "rsrc1": RSRC1, "rsrc2": USER_SGPRS, "executor": self.executor,
                                   "tba": tba, "tma": self.tma} | more
        return isa.run(self.assembler(text), **options)


@pytest.fixture(params=EXECUTORS)
def bench(request: pytest.FixtureRequest, assembler: Assembler) -> Bench:
    return Bench(assembler, request.param)


# Writes SGPRs that the program left into its memory, one dword each; only a scalar store is missing in gfx11.
def dump(*registers: str, at: int = 0) -> str:
    lines = ["v_mov_b32 v4, 0"]
    for i, register in enumerate(registers):
        lines += [f"v_mov_b32 v5, {register}", f"global_store_b32 v4, v5, s[0:1] offset:{4 * (at + i)}"]
    return "\n".join(lines)


HANDLER = """
s_getreg_b32 ttmp2, hwreg(HW_REG_TRAPSTS)
s_getreg_b32 ttmp3, hwreg(HW_REG_STATUS)
s_mov_b32 s20, ttmp0
s_mov_b32 s21, ttmp1
s_mov_b32 s22, ttmp2
s_mov_b32 s23, ttmp3
s_sendmsg_rtn_b64 ttmp[4:5], sendmsg(MSG_RTN_GET_TMA)
s_waitcnt lgkmcnt(0)
s_lshl_b64 ttmp[4:5], ttmp[4:5], 8
s_load_b64 s[24:25], ttmp[4:5], 0x0
s_waitcnt lgkmcnt(0)
s_setreg_imm32_b32 hwreg(HW_REG_TRAPSTS), 0
s_add_u32 s30, s30, 1
s_add_u32 ttmp0, ttmp0, STEP
s_addc_u32 ttmp1, ttmp1, 0
s_and_b32 ttmp1, ttmp1, 0xffff
s_setreg_b32 hwreg(HW_REG_STATUS), ttmp3
s_rfe_b64 ttmp[0:1]
"""


def handler(step: int = 4) -> str:
    return HANDLER.replace("STEP", str(step))


def test_a_trap_enters_the_handler_and_returns(bench: Bench) -> None:
    counts = bench.run("s_mov_b32 s30, 0\ns_getpc_b64 s[26:27]\ns_cmp_eq_u32 s30, 0\ns_trap 3\n"
                       "s_cselect_b32 s31, 7, 9\ns_trap 0x55\ns_getreg_b32 s32, hwreg(HW_REG_STATUS)\n"
                       + dump("s20", "s21", "s22", "s23", "s30", "s31", "s26", "s24", "s32") + "\ns_endpgm", handler())
    pc_low, pc_high, trapsts, status, times, scc, start, memory, after = (int(x) for x in bench.words[:9])
    # The second trap: 16 bytes after s_getpc's end are s_cmp, s_trap, s_cselect.
    assert pc_low == (start + 12) & 0xffffffff and pc_high >> 16 == 0x55
    assert trapsts == 0 and status & (PRIV | TRAP_EN) == PRIV | TRAP_EN
    assert times == 2 and scc == 7, "SCC is restored through STATUS"
    assert memory == bench.words.ctypes.data & 0xffffffff
    assert after & (PRIV | TRAP_EN) == TRAP_EN
    assert counts.instructions == 7 + 19 + 1 + 2 * 18, "the handler's instructions count"


@pytest.mark.parametrize("bits", ["ffffffff", "00007cf0"])      # no format; an image instruction
def test_an_illegal_instruction_enters_the_handler(bench: Bench, bits: str) -> None:
    assemble = bench.assembler
    code = assemble("s_mov_b32 s30, 0\ns_getpc_b64 s[26:27]\nv_mov_b32 v1, 5")
    if bits == "00007cf0":
        illegal, step = (0xf0 << 24 | 0xf << 8 | 1 << 2).to_bytes(4, "little") + bytes(4), 8
    else:
        illegal, step = bytes.fromhex(bits), 4
    rest = assemble("v_mov_b32 v6, v1\n" + dump("s20", "s22", "s30", "s26") + "\nglobal_store_b32 v4, v6, s[0:1] "
                    "offset:16\ns_endpgm")
    bench.assembler = lambda text: code + illegal + rest if text == "program" else assemble(text)
    bench.run("program", handler(step))
    pc, trapsts, times, start, kept = (int(x) for x in bench.words[:5])
    assert pc == (start + 4) & 0xffffffff and trapsts == hwregs.ILLEGAL_INST and times == 1 and kept == 5


def test_a_memory_violation_enters_the_handler_of_that_wave_only(bench: Bench) -> None:
    # Wave 1 of two reads address 0; registers written just before are seen by the handler's program.
    bench.run("""
        s_mov_b32 s30, 0
        v_lshrrev_b32 v1, 5, v0
        v_readfirstlane_b32 s28, v1
        v_lshlrev_b32 v3, 6, v1
        v_mov_b32 v7, 0x77
        v_mov_b32 v8, s0
        v_mov_b32 v9, s1
        s_cmp_eq_u32 s28, 0
        s_cbranch_scc1 2
        v_mov_b32 v8, 0
        v_mov_b32 v9, 0
        global_load_b32 v2, v[8:9], off
        s_waitcnt vmcnt(0)
        v_mov_b32 v5, s30
        global_store_b32 v3, v5, s[0:1] offset:32
        v_mov_b32 v5, s22
        global_store_b32 v3, v5, s[0:1] offset:36
        global_store_b32 v3, v7, s[0:1] offset:40
        s_endpgm""", handler(0), block=64)
    assert list(bench.words[8:11]) == [0, bench.words[9], 0x77]
    assert list(bench.words[24:27]) == [1, hwregs.MEM_VIOL, 0x77]


def test_without_a_handler_they_are_errors(bench: Bench) -> None:
    with pytest.raises(isa.Trap, match=r"s_trap 2 at pc 0x[0-9a-f]+ with no trap handler: an assertion"):
        bench.run("s_trap 2\ns_endpgm")
    with pytest.raises(isa.IllegalInstruction, match="only a trap handler may do that"):
        bench.run("s_rfe_b64 s[2:3]")
    with pytest.raises(isa.MemoryFault):
        bench.run("v_mov_b32 v1, 0\nv_mov_b32 v2, 0\nglobal_load_b32 v3, v[1:2], off\ns_endpgm")
    with pytest.raises(isa.Trap, match=r"s_sethalt 0x1 at pc 0x[0-9a-f]+: the wave halts"):
        bench.run("s_sethalt 0\ns_sethalt 1\ns_endpgm")


def test_the_trap_handlers_registers_are_its_own(bench: Bench) -> None:
    for text in ("s_mov_b32 ttmp3, 1", "s_mov_b32 s3, ttmp1", "v_mov_b32 v1, ttmp0",
                 "s_load_b64 ttmp[0:1], s[0:1], 0x0", "s_setpc_b64 ttmp[0:1]"):
        with pytest.raises(isa.IllegalInstruction, match=r"ttmp.*: only a trap handler may do that"):
            bench.run(text + "\ns_endpgm")


def test_a_handler_that_halts_or_traps_ends_the_dispatch(bench: Bench) -> None:
    with pytest.raises(isa.Trap, match=r"the trap handler at pc .* halted the wave .*TRAPSTS 0x0"):
        bench.run("s_trap 1\ns_endpgm", "s_getreg_b32 ttmp3, hwreg(HW_REG_STATUS)\ns_bitset1_b32 ttmp3, 13\n"
                  "s_setreg_b32 hwreg(HW_REG_STATUS), ttmp3\ns_rfe_b64 ttmp[0:1]")
    with pytest.raises(isa.Trap, match=r"s_trap 4 at pc 0x[0-9a-f]+ inside the trap handler"):
        bench.run("s_trap 1\ns_endpgm", "s_trap 4")
    with pytest.raises(isa.Trap, match="TRAPSTS 0x800 still set"):
        bench.assembler = lambda text, a=bench.assembler: a("s_endpgm")[:0] + b"\xff\xff\xff\xff" \
            if text == "bad" else a(text)
        bench.run("bad", "s_add_u32 ttmp0, ttmp0, 4\ns_rfe_b64 ttmp[0:1]")
    with pytest.raises(isa.HungWave):
        bench.run("s_trap 1\ns_endpgm", "s_branch 65535", watchdog=0.2)


def test_a_handler_may_end_the_wave(bench: Bench) -> None:
    # One of two waves ends in the handler; the other need not wait for it at the barrier.
    bench.run("""
        v_lshrrev_b32 v1, 5, v0
        v_readfirstlane_b32 s28, v1
        s_cmp_eq_u32 s28, 0
        s_cbranch_scc1 1
        s_trap 1
        s_barrier
        v_mov_b32 v4, 0
        v_mov_b32 v5, 3
        global_store_b32 v4, v5, s[0:1]
        s_endpgm""", "s_endpgm", block=64)
    assert bench.words[0] == 3


def test_interrupts_carry_m0_and_who_sent_them(bench: Bench) -> None:
    seen: list[isa.SqInterrupt] = []
    bench.run("s_mov_b32 m0, 0x12345678\ns_sendmsg sendmsg(MSG_INTERRUPT)\ns_mov_b32 m0, 1\n"
              "s_sendmsg sendmsg(MSG_DEALLOC_VGPRS)\ns_trap 1\ns_endpgm",
              "s_sendmsg sendmsg(MSG_INTERRUPT)\ns_add_u32 ttmp0, ttmp0, 4\ns_addc_u32 ttmp1, ttmp1, 0\n"
              "s_rfe_b64 ttmp[0:1]", block=64, interrupt=seen.append)
    assert sorted((i.data, i.priv) for i in seen) == [(1, True)] * 2 + [(0x345678, False)] * 2
    assert len({(i.wave_id, i.simd_id, i.wgp_id) for i in seen}) == 2, "two waves"
    first, second = isa.SqInterrupt(0xff345678, True, wave_id=9, simd_id=2, wgp_id=5, sh_id=1).context_ids()
    assert first == 0x345678 | 1 << 25 | 1 << 26 | 9 << 27 and second == 2 | 5 << 2 | 1 << 6
    bench.run("s_sendmsg sendmsg(MSG_INTERRUPT)\ns_endpgm")       # nobody listens


def test_a_message_that_halts(bench: Bench) -> None:
    seen: list[isa.SqInterrupt] = []
    with pytest.raises(isa.Trap, match="s_sendmsghalt 0x1"):
        bench.run("s_mov_b32 m0, 5\ns_sendmsghalt sendmsg(MSG_INTERRUPT)\ns_endpgm", interrupt=seen.append)
    assert [i.data for i in seen] == [5]


def test_messages_that_return(bench: Bench) -> None:
    code = ("s_sendmsg_rtn_b64 s[4:5], sendmsg(MSG_RTN_GET_TBA)\ns_sendmsg_rtn_b64 s[6:7], sendmsg(MSG_RTN_GET_TMA)\n"
            "s_sendmsg_rtn_b32 s8, sendmsg(MSG_RTN_GET_DOORBELL)\ns_sendmsg_rtn_b32 s9, sendmsg(MSG_RTN_GET_DDID)\n"
            "s_sendmsg_rtn_b64 s[10:11], sendmsg(MSG_RTN_GET_REALTIME)\ns_waitcnt lgkmcnt(0)\n"
            "s_sendmsg_rtn_b64 s[12:13], sendmsg(MSG_RTN_GET_REALTIME)\ns_waitcnt lgkmcnt(0)\n"
            + dump("s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13") + "\ns_endpgm")
    text = bench.place(bench.assembler(code), 4096)
    d = isa.Dispatch(code_address=text, rsrc1=RSRC1, rsrc2=USER_SGPRS, rsrc3=0, grid=(1, 1, 1), block=(1, 1, 1),
                     user_sgprs=(bench.words.ctypes.data & 0xffffffff, bench.words.ctypes.data >> 32),
                     tba=0x123456789a00, tma=0xabcdef00, doorbell=0x1c2, ddid=77)
    isa.execute(d, HostMemory(), executor=bench.executor)
    w = [int(x) for x in bench.words[:10]]
    assert w[0] | w[1] << 32 == 0x123456789a and w[2] | w[3] << 32 == 0xabcdef and w[4:6] == [0x1c2, 77]
    assert w[6] | w[7] << 32 <= w[8] | w[9] << 32
    with pytest.raises(isa.IllegalInstruction, match="MSG_RTN_SAVE_WAVE: no context save"):
        bench.run("s_sendmsg_rtn_b64 s[4:5], sendmsg(MSG_RTN_SAVE_WAVE)\ns_endpgm")


def test_hardware_registers(bench: Bench) -> None:
    registers = ("MODE", "STATUS", "TRAPSTS", "GPR_ALLOC", "LDS_ALLOC", "IB_STS", "SH_MEM_BASES", "HW_ID1", "HW_ID2")
    reads = [f"s_getreg_b32 s{40 + i}, hwreg(HW_REG_{name})" for i, name in enumerate(registers)]
    reads += ["s_getreg_b32 s49, hwreg(28)", "s_getreg_b32 s50, hwreg(HW_REG_LDS_ALLOC, 12, 9)",
              "s_getreg_b32 s51, hwreg(26)", "s_getreg_b32 s52, hwreg(HW_REG_FLAT_SCR_LO)",
              "s_getreg_b32 s53, hwreg(HW_REG_PERF_SNAPSHOT_DATA)"]
    code = "\n".join(["s_setprio 2", "s_mov_b32 s30, -1", *reads, dump(*(f"s{40 + i}" for i in range(14)))])
    for wave_size, block in ((32, 48), (64, 48)):
        bench.run(code + "\ns_endpgm", block=block, wave_size=wave_size, lds_bytes=1000, scratch_bytes_per_lane=16,
                  rsrc1=RSRC1 | 1 << 30, rsrc2=USER_SGPRS | 1 | 0x41 << 24)
        mode, status, trapsts, gprs, lds, counters, bases, _, _, ib2, units, *_ = (int(x) for x in bench.words[:14])
        assert mode == 0xf0 | 1 << 8 | 1 << 9 | 0x41 << 12
        in_group = 1 << 11 if wave_size == 32 else 0
        assert status & ~(1 << 10 | 1) == 2 << 3 | 1 << 16 | 1 << 29 | in_group
        assert trapsts == counters == 0
        allocated = 72 if wave_size == 32 else 36       # of 64 or 32, in units of 24 or 12
        assert (gprs >> 12) + 1 == allocated // 4
        assert lds >> 12 == units == 4                  # of 256 bytes
        assert bases == 2 | 1 << 16
        assert ib2 == 1 << 8 | (wave_size == 64) << 11


def test_writes_of_hardware_registers(bench: Bench) -> None:
    bench.run("s_mov_b32 s30, -1\ns_setreg_b32 hwreg(HW_REG_MODE), s30\ns_getreg_b32 s31, hwreg(HW_REG_MODE)\n"
              "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 0\ns_getreg_b32 s32, hwreg(HW_REG_MODE)\n"
              "s_setreg_b32 hwreg(HW_REG_TRAPSTS), s30\ns_getreg_b32 s33, hwreg(HW_REG_TRAPSTS)\n"
              "s_setreg_imm32_b32 hwreg(HW_REG_TRAPSTS, 0, 4), 0\ns_getreg_b32 s34, hwreg(HW_REG_TRAPSTS)\n"
              "s_setreg_b32 hwreg(HW_REG_STATUS), s30\ns_getreg_b32 s35, hwreg(HW_REG_STATUS)\n"
              "s_setreg_b32 hwreg(HW_REG_GPR_ALLOC), s30\ns_getreg_b32 s36, hwreg(HW_REG_GPR_ALLOC)\n"
              "s_setreg_b32 hwreg(HW_REG_FLAT_SCR_LO), s30\ns_getreg_b32 s37, hwreg(HW_REG_FLAT_SCR_LO)\n"
              + dump("s31", "s32", "s33", "s34", "s35", "s36", "s37") + "\ns_endpgm")
    mode, narrowed, trapsts, cleared, status, gprs, scratch = (int(x) for x in bench.words[:7])
    assert mode == hwregs.MODE_BITS and narrowed == hwregs.MODE_BITS & ~0x30
    assert trapsts == 0x7f and cleared == 0x70, "the sticky arithmetic flags are a program's to clear"
    assert not status & (HALT | PRIV), "STATUS is the trap handler's"
    assert gprs >> 12 == 72 // 4 - 1 and scratch == 0
    with pytest.raises(isa.IllegalInstruction, match="s_setreg_b32: gfx11 has no hardware register 40"):
        bench.run("s_setreg_b32 hwreg(40), s0\ns_endpgm")


def test_shader_cycles_move_on(bench: Bench) -> None:
    bench.run("s_getreg_b32 s30, hwreg(HW_REG_SHADER_CYCLES)\ns_sleep 5\n"
              "s_getreg_b32 s31, hwreg(HW_REG_SHADER_CYCLES)\n" + dump("s30", "s31") + "\ns_endpgm")
    assert int(bench.words.max()) < 1 << 20 and bench.words[0] != bench.words[1]


def test_what_only_schedules_changes_nothing(bench: Bench) -> None:
    bench.run("s_mov_b32 s20, 3\ns_sleep 1\ns_wakeup\ns_setprio 3\ns_version 0x2006\ns_clause 0x1\ns_nop 0\ns_nop 0\n"
              "s_delay_alu instid0(VALU_DEP_1)\ns_set_inst_prefetch_distance 0x1\ns_wait_idle\ns_setkill 0\n"
              "s_incperflevel 1\ns_decperflevel 1\ns_ttracedata\ns_sethalt 0\n" + dump("s20") + "\ns_endpgm")
    assert bench.words[0] == 3


@pytest.mark.parametrize(("low", "high"), [(0, 0), (5, 0), (0, 9), (0xff, 0xf0f)])
def test_subvector_loops_run_each_half_of_exec(bench: Bench, low: int, high: int) -> None:
    """Each pass of the loop adds one in its lanes; EXEC is whole again behind it."""
    bench.run(f"""
        v_mov_b32 v1, 0
        s_mov_b32 exec_lo, {low}
        s_mov_b32 exec_hi, {high}
        s_mov_b32 s20, 0
        s_subvector_loop_begin s21, 4
        v_add_nc_u32 v1, 1, v1
        s_add_u32 s20, s20, 1
        s_nop 0
        s_subvector_loop_end s21, 65532
        s_mov_b32 s22, exec_lo
        s_mov_b32 s23, exec_hi
        s_mov_b64 exec, -1
        v_lshlrev_b32 v2, 2, v0
        global_store_b32 v2, v1, s[0:1] offset:256
        {dump("s20", "s22", "s23")}
        s_endpgm""", block=64, wave_size=64)
    assert list(bench.words[:3]) == [bool(low) + bool(high), low, high]
    assert list(bench.words[64:128]) == [(low | high << 32) >> i & 1 for i in range(64)]


NAN, INF, TINY, SMALL, HUGE = 0x7fc00000, 0x7f800000, 0x00000001, 0x00800000, 0x7f7fffff
INVALID, DENORMAL, ZERO_DIVIDE, OVERFLOW, UNDERFLOW, INEXACT, INTEGER_ZERO_DIVIDE = (1 << i for i in range(7))


@pytest.mark.parametrize(("text", "sources", "flags"), [
    ("v_add_f32 v3, v1, v2", (0x3f800000, 0x40000000), 0),
    ("v_add_f32 v3, v1, v2", (INF, INF | 1 << 31), INVALID),
    ("v_add_f32 v3, v1, v2", (NAN, 0x3f800000), 0),
    ("v_add_f32 v3, v1, v2", (0x7f800001, 0x3f800000), INVALID),
    ("v_add_f32 v3, v1, v2", (TINY, 0), DENORMAL),
    ("v_add_f32 v3, v1, v2", (HUGE, HUGE), OVERFLOW | INEXACT),
    ("v_add_f32 v3, v1, v2", (0x3f800000, 0x33000000), INEXACT),
    ("v_sub_f32 v3, v1, v2", (INF, INF), INVALID),
    ("v_mul_f32 v3, v1, v2", (SMALL, 0x34000001), UNDERFLOW | INEXACT),
    ("v_mul_f32 v3, v1, v2", (0, INF), INVALID),
    ("v_mul_f32 v3, -v1, |v2|", (0x3f800000, 0xbf800000), 0),
    ("v_fma_f32 v3, v1, v2, 1.0", (0x3f800001, 0x3f800001), INEXACT),
    ("v_rcp_f32 v3, v1", (0, 0), ZERO_DIVIDE),
    ("v_rcp_f32 v3, v1", (0x40000000, 0), 0),
    ("v_rcp_f32 v3, v1", (0x40400000, 0), INEXACT),
    ("v_rcp_iflag_f32 v3, v1", (0, 0), INTEGER_ZERO_DIVIDE),
    ("v_sqrt_f32 v3, v1", (0xbf800000, 0), INVALID),
    ("v_sqrt_f32 v3, v1", (0x40800000, 0), 0),
    ("v_cvt_i32_f32 v3, v1", (0x40200000, 0), INEXACT),
    ("v_cvt_i32_f32 v3, v1", (NAN, 0), 0),
    ("v_cvt_i32_f32 v3, v1", (0x5f000000, 0), INVALID),
    ("v_cvt_f16_f32 v3, v1", (0x47800000, 0), OVERFLOW | INEXACT),
    ("v_cmp_lt_f32 vcc_lo, v1, v2", (0x7f800001, 0), INVALID),
])
def test_arithmetic_exceptions_enter_the_handler(bench: Bench, text: str, sources: tuple[int, int], flags: int) -> None:
    """Each alone, with all of them enabled; the handler returns behind the instruction, whose result is there."""
    bench.run(f"""
        s_mov_b32 s30, 0
        s_mov_b32 s22, 0
        v_mov_b32 v1, {sources[0]:#x}
        v_mov_b32 v2, {sources[1]:#x}
        v_mov_b32 v3, 0x77
        {text}
        s_mov_b32 s31, s30
        {dump("s22", "s31")}
        global_store_b32 v4, v3, s[0:1] offset:8
        s_endpgm""", handler(0), rsrc2=USER_SGPRS | 0x7f << 24, check_hazards=False)
    if not flags:
        assert list(bench.words[:2]) == [0, 0]
        return
    assert list(bench.words[:2]) == [flags, 1], f"TRAPSTS {int(bench.words[0]):#x}, {int(bench.words[1])} traps"
    assert bench.words[2] != 0x77 or "v_cmp" in text


def test_exceptions_that_are_not_enabled_do_not_enter(bench: Bench) -> None:
    code = "v_mov_b32 v1, 0\nv_rcp_f32 v3, v1\n" + dump("s30") + "\ns_endpgm"
    for enable, traps in ((ZERO_DIVIDE, 1), (INEXACT, 0)):
        bench.run("s_mov_b32 s30, 0\n" + code, handler(0), rsrc2=USER_SGPRS | enable << 24)
        assert bench.words[0] == traps
    # MODE may enable them on the way.
    bench.run("s_mov_b32 s30, 0\nv_mov_b32 v1, 0\nv_rcp_f32 v2, v1\ns_setreg_imm32_b32 hwreg(HW_REG_MODE, 12, 7), 4\n"
              + code, handler(0))
    assert bench.words[0] == 1
