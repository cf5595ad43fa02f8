"""Native code's short ways: accesses written out where lanes lie together, and results that are looked at later.

Every program runs on the interpreter and on both kinds of native code, and must leave the same bytes and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import llvm
import numpy as np
import pytest

import mock.isa as isa
from mock.isa.jit import kernels
from mock.isa.jit.context import PAGE
from mock.isa.jit.segments import CAREFUL

Assembler = Callable[[str], bytes]
RSRC1 = 7 | 0xf0 << 12 | 3 << 21
ROWS = 6            # of results: 64 dwords each
RUN = 16            # lanes that native code looks at together, at most


@pytest.fixture(scope="session")
def assembler(llvm_mc: str) -> Assembler:
    """Assembly text -> machine code; with vcc in it, of waves of 64 lanes."""
    def assemble(text: str) -> bytes:
        lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
        wide = "+wavefrontsize64" if " vcc," in text else ""
        codes = llvm.assemble(llvm_mc, lines, wide)
        refused = [line for line, code in zip(lines, codes, strict=True) if code is None]
        assert not refused, f"the assembler refused {refused}"
        return b"".join(code for code in codes if code is not None)
    return assemble


@pytest.fixture(params=["quick", "optimised"])
def tier(request: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Kernels are compiled in this way, anew."""
    monkeypatch.setenv("AMDRV_CACHE", str(tmp_path))
    monkeypatch.setattr(kernels, "_known", {})
    monkeypatch.setattr(kernels.Kernel, "compile",
                        partialmethod(kernels.Kernel.compile, request.param == "optimised"))
    yield request.param


def pages(count: int, rng: np.random.Generator) -> np.ndarray:
    """Bytes from the beginning of a page on."""
    raw = rng.integers(0, 256, (count + 1) * PAGE, dtype=np.uint8)
    skip = -raw.ctypes.data % PAGE
    return raw[skip:skip + count * PAGE]


def execute(code: bytes, executor: str, lanes: int, arrays: list[np.ndarray], words: tuple[int, ...],
            waves: int = 1) -> isa.Counts:
    """Pointers in s[0:1], s[2:3], ...; then ``words``."""
    registers = [w for a in arrays for w in (a.ctypes.data & 0xffffffff, a.ctypes.data >> 32)] + list(words)
    return isa.run(code, grid=(waves,), block=(lanes,), user_sgprs=registers, rsrc1=RSRC1,
                   rsrc2=len(registers) << 1 | 1 << 15, executor=executor, wave_size=lanes, check_hazards=False,
                   lds_bytes=2 * PAGE)


def both(code: bytes, lanes: int, inputs: list[np.ndarray], outputs: list[np.ndarray],
         words: tuple[int, ...] = ()) -> None:
    """Interpreter and native code leave the same in ``outputs``."""
    kept = [o.copy() for o in outputs]
    counts = [execute(code, "interpreter", lanes, inputs + outputs, words)]
    want = [o.copy() for o in outputs]
    for o, k in zip(outputs, kept, strict=True):
        o[:] = k
    counts.append(execute(code, "jit", lanes, inputs + outputs, words))
    for o, w in zip(outputs, want, strict=True):
        np.testing.assert_array_equal(o, w)
    assert counts[0].instructions == counts[1].instructions


def patterns(lanes: int, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Byte offsets of the lanes. ``step``: from one element to the next."""
    lane = np.arange(lanes)
    offsets = {
        "a run": 64 + step * lane, "a run at an odd address": 65 + step * lane,
        "a run over two pages": PAGE - 9 * step + step * lane, "an element over two pages": PAGE - 2 + step * lane,
        "to the end of a page": PAGE - step * lanes + step * lane,
        "one address": np.full(lanes, 96), "one address at a page's end": np.full(lanes, PAGE - 1),
        "runs": 64 + step * (lane % RUN) + 1000 * (lane // RUN),
        "one address each run": 64 + 777 * (lane // RUN), "backwards": 64 + step * lane[::-1],
        "with a gap": 64 + step * lane + 4 * (lane > lanes // 2), "anywhere": rng.permutation(4 * lanes)[:lanes] * 16,
    }
    return {name: o.astype(np.uint32) for name, o in offsets.items()}


def prologue(lanes: int) -> str:
    """v1 = 4 * lane, v2 = the lane's offset, EXEC = what comes in s8 (wave64: and s9)."""
    return f"""v_lshlrev_b32_e32 v1, 2, v0
               global_load_b32 v2, v1, s[0:1]
               v_mov_b32_e32 v4, 0x1111
               v_mov_b32_e32 v5, 0x2222
               v_mov_b32_e32 v6, 0x3333
               v_mov_b32_e32 v7, 0x4444
               {"s_mov_b64 exec, s[8:9]" if lanes == 64 else "s_mov_b32 exec_lo, s8"}
            """


def address(lanes: int, base: int) -> str:
    """v[10:11] = s[base:base+1] + v2."""
    vcc = "vcc" if lanes == 64 else "vcc_lo"
    return f"""v_mov_b32_e32 v11, s{base + 1}
               v_add_co_u32 v10, {vcc}, s{base}, v2
               v_add_co_ci_u32_e32 v11, {vcc}, 0, v11, {vcc}
            """


def epilogue(lanes: int) -> str:
    """v4 to v7 to the results, of all lanes."""
    return ("s_mov_b64 exec, -1\n" if lanes == 64 else "s_mov_b32 exec_lo, -1\n") + "".join(
        f"global_store_b32 v1, v{4 + i}, s[4:5] offset:{256 * i}\n" for i in range(4)) + "s_endpgm"


def registers(count: int, first: int = 4) -> str:
    return f"v{first}" if count == 1 else f"v[{first}:{first + count - 1}]"


MASKS = (0xffffffffffffffff, 0x00ff00fffffffffe, 0x0000000100008000)


def rare(*form: Any) -> Any:
    return pytest.param(*form, marks=pytest.mark.slow)


LOADS = [("b32", 4, 1), rare("b64", 8, 2), rare("b96", 12, 3), ("b128", 16, 4), rare("u8", 1, 1), ("i16", 2, 1),
         rare("d16_hi_b16", 2, 1)]
STORES = [("b32", 4, 1), rare("b64", 8, 2), rare("b96", 12, 3), ("b128", 16, 4), rare("b8", 1, 1),
          ("d16_hi_b16", 2, 1)]


@pytest.mark.parametrize("lanes", [32, rare(64)])
@pytest.mark.parametrize(("name", "step", "count"), LOADS)
def test_loads(tier: str, assembler: Assembler, lanes: int, name: str, step: int, count: int) -> None:
    rng = np.random.default_rng(step)
    data, out = pages(3, rng), np.zeros(ROWS * 64, np.uint32)
    codes = [assembler(prologue(lanes) + middle + epilogue(lanes)) for middle in (
        f"global_load_{name} {registers(count)}, v2, s[2:3]\n",
        address(lanes, 2) + f"global_load_{name} {registers(count)}, v[10:11], off offset:8\n")]
    for offsets in patterns(lanes, step, rng).values():
        for mask in MASKS:
            for code in codes:
                both(code, lanes, [offsets, data], [out], (0, 0, mask & 0xffffffff, mask >> 32))


@pytest.mark.parametrize("lanes", [32, rare(64)])
@pytest.mark.parametrize(("name", "step", "count"), STORES)
def test_stores(tier: str, assembler: Assembler, lanes: int, name: str, step: int, count: int) -> None:
    rng = np.random.default_rng(step)
    target, out, unused = pages(3, rng), np.zeros(ROWS * 64, np.uint32), np.zeros(1, np.uint32)
    values = """v_add_nc_u32_e32 v4, v4, v1
                v_xor_b32_e32 v6, v6, v1
                v_mul_u32_u24_e32 v7, 0x10203, v0
             """
    codes = [assembler(prologue(lanes) + values + middle + "s_endpgm") for middle in (
        f"global_store_{name} v2, {registers(count)}, s[2:3]\n",
        address(lanes, 2) + f"global_store_{name} v[10:11], {registers(count)}, off offset:8\n")]
    for offsets in patterns(lanes, step, rng).values():
        for mask in MASKS:
            for code in codes:
                both(code, lanes, [offsets], [target, out, unused], (mask & 0xffffffff, mask >> 32))


@pytest.mark.parametrize("lanes", [32, rare(64)])
@pytest.mark.parametrize(("name", "step", "count"), [*LOADS, rare("2addr_b32", 4, 2), ("2addr_b64", 8, 4)])
def test_lds(tier: str, assembler: Assembler, lanes: int, name: str, step: int, count: int) -> None:
    """Words at the lanes' places are stored, then loaded in another form; beyond the end is zero."""
    rng = np.random.default_rng(step)
    data, out = pages(1, rng), np.zeros(ROWS * 64, np.uint32)
    offset = "offset0:1 offset1:5" if "2addr" in name else "offset:12"
    load = f"ds_load_{name.replace('d16_hi_b16', 'u16_d16_hi')} {registers(count)}, v2 {offset}\n"
    code = assembler(prologue(lanes) + "".join(
        f"v_add_nc_u32_e32 v12, {i}, v1\nv_lshlrev_b32_e32 v13, {4 + i % 2}, v0\n"
        f"ds_store_b32 v13, v12 offset:{4 * i}\n" for i in range(3)) + load + epilogue(lanes))
    cases = patterns(lanes, step, rng) | {"beyond": np.arange(lanes, dtype=np.uint32) * step + 2 * PAGE - 40,
                                          "wrapping": np.arange(lanes, dtype=np.uint32) * step - np.uint32(64)}
    for offsets in cases.values():
        for mask in MASKS:
            both(code, lanes, [offsets, data], [out], (0, 0, mask & 0xffffffff, mask >> 32))


NAN, SIGNALLING = 0xffc12345, 0x7f812345

CHAIN = """v_lshlrev_b32_e32 v1, 2, v0
           global_load_b32 v2, v1, s[0:1]
           global_load_b32 v3, v1, s[2:3]
           v_mov_b32_e32 v6, 1.0
           v_mov_b32_e32 v7, v2
           {exec}
           v_fma_f32 v4, v2, v3, v2
           v_fmac_f32_e32 v4, v3, v3
           v_dual_mul_f32 v5, v4, v2 :: v_dual_add_f32 v6, v6, v3
           v_max_f32_e32 v6, v5, v6
           global_load_b32 v2, v1, s[2:3]
           v_sub_f32_e32 v7, v2, v7
           v_add_f32_e32 v4, v4, v6
           v_cvt_f16_f32_e32 v8, v4
           v_pk_fma_f16 v5, v8, v8, v8
        """


@pytest.mark.parametrize("lane", [None, 3, 17])
@pytest.mark.parametrize("bits", [NAN, SIGNALLING, 0x7f800000])
def test_nans_make_careful_code_where_they_are(tier: str, assembler: Assembler, bits: int, lane: int | None) -> None:
    """A NaN in a lane that is off, or none, is no reason to; and the load in the middle may come twice."""
    rng = np.random.default_rng(5)
    left, right = rng.standard_normal((2, 32)).astype(np.float32)
    if lane is not None:
        left.view(np.uint32)[lane] = bits
        right.view(np.uint32)[lane] = 0     # infinity times zero
    out = np.zeros(ROWS * 64, np.uint32)
    code = assembler(CHAIN.format(exec="s_mov_b32 exec_lo, 0xffff") + epilogue(32))
    both(code, 32, [left, right], [out])
    (known,) = kernels._known.values()
    assert any(mode & CAREFUL for kernel in known for _, mode in kernel.points) == (lane == 3)


def test_a_loop_goes_on_after_a_nan(tier: str, assembler: Assembler) -> None:
    """Sums over rows, one of which has a NaN; each turn is a segment that ends in a store."""
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((8, 32)).astype(np.float32)
    rows.view(np.uint32)[4, 7], rows[6, 9] = NAN, np.inf
    rows[7, 9] = -np.inf
    out = np.zeros((8, 32), np.uint32)
    body = """global_load_b32 v3, v1, s[0:1]
              v_add_f32_e32 v4, v4, v3
              v_fma_f32 v5, v3, v3, v5
              v_mul_f32_e32 v6, v4, v5
              global_store_b32 v1, v6, s[2:3]
              v_add_nc_u32_e32 v1, 0x80, v1
              s_add_u32 s6, s6, 1
              s_cmp_lt_u32 s6, 8
           """
    code = assembler("""v_lshlrev_b32_e32 v1, 2, v0
                        v_mov_b32_e32 v4, 0
                        v_mov_b32_e32 v5, 0
                        s_mov_b32 s6, 0
                     """ + body)
    length = len(assembler(body)) // 4 + 1
    both(code + assembler(f"s_cbranch_scc1 {-length & 0xffff}\ns_endpgm"), 32, [rows], [out])


def test_scalar_loads_near_a_page_end(tier: str, assembler: Assembler) -> None:
    data, out = pages(3, np.random.default_rng(7)), np.zeros(ROWS * 64, np.uint32)
    code = assembler("".join(f"""s_load_b{32 * n} s[{16}:{16 + n - 1}], s[0:1], {PAGE - 8}
                                 s_waitcnt lgkmcnt(0)
                                 v_mov_b32_e32 v{4 + i}, s{16 + n - 1}
                              """ for i, n in enumerate((2, 4, 8, 16))) +
                     "s_mov_b64 s[4:5], s[2:3]\nv_lshlrev_b32_e32 v1, 2, v0\n" + epilogue(32))
    both(code, 32, [data], [out])


def test_pages_entered_ahead_are_those_of_the_mapping() -> None:
    """One miss enters many pages of this process's memory: each where the native look-up finds it."""
    from mock.isa.jit.context import AHEAD, PAGE, TLB_ENTRIES, Context
    context = Context(lambda address, kind: 0)
    for kind, first, pages in ((0, 0x7F12_3456_7000, 5), (1, 0x5555_5555_5000, 3 * AHEAD), (3, 0x1000, 1)):
        context.forget()
        context.fill(kind, first + 8, first + pages * PAGE + 100)       # the last, half a page, is not entered
        table = context._tlbs.reshape(4, TLB_ENTRIES, 2)
        expected = {}
        for number in range(first // PAGE, first // PAGE + min(pages, AHEAD)):
            address = number * PAGE
            expected[(number ^ address >> 22) & TLB_ENTRIES - 1] = (number + 1, address)
        found = {int(at): (int(table[kind, at, 0]), int(table[kind, at, 1]))
                 for at in np.flatnonzero(table[kind, :, 0])}
        assert found == expected
        assert not np.delete(table, kind, axis=0).any()
