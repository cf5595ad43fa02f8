"""Waves that wait for other waves: everything that fits on a card is resident there and gets its turn, and so here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mock import isa

Assembler = Callable[[str], bytes]
RSRC1 = 3 | 0xf0 << 12 | 1 << 21        # 32 VGPRs, denormals, DX10 clamp

# data[0] counts arrivals; each workgroup's first lane arrives, waits for all (s3 of them), and stores what it saw.
BARRIER_OF_THE_GRID = """
    v_mov_b32 v1, 0
    v_mov_b32 v2, 1
    v_cmp_eq_u32 vcc_lo, 0, v0
    s_and_saveexec_b32 s5, vcc_lo
    s_cbranch_execz after
    global_atomic_add_u32 v1, v2, s[0:1]
wait:
    global_load_b32 v3, v1, s[0:1] glc dlc
    s_waitcnt vmcnt(0)
    v_readfirstlane_b32 s6, v3
    s_cmp_lt_u32 s6, s2
    s_cbranch_scc1 wait
after:
    s_mov_b32 exec_lo, s5
    s_barrier
    v_cmp_eq_u32 vcc_lo, 0, v0
    s_and_saveexec_b32 s5, vcc_lo
    s_cbranch_execz end
    v_mov_b32 v4, s6
    v_lshl_add_u32 v5, s3, 2, 4
    global_store_b32 v5, v4, s[0:1]
end:
    s_endpgm
"""


def launch(code: bytes, data: np.ndarray, groups: int, executor: str, block: int = 64,
           watchdog: float = 120.0) -> None:
    """s[0:1] the data, s2 the number of workgroups, s3 the workgroup's own number."""
    address = int(data.ctypes.data)
    isa.run(code, grid=(groups,), block=(block,), rsrc1=RSRC1, rsrc2=3 << 1 | 1 << 7,
            user_sgprs=[address & 0xFFFFFFFF, address >> 32, groups], executor=executor, watchdog=watchdog)


@pytest.mark.parametrize(("executor", "groups"), [("interpreter", 100), ("jit", 100), ("auto", 400)])
def test_a_barrier_of_the_grid(assembler: Assembler, executor: str, groups: int) -> None:
    """Far more workgroups than threads, or than the interpreter runs at a time; all are resident on a card."""
    data = np.zeros(1 + groups, np.uint32)
    launch(assembler(BARRIER_OF_THE_GRID), data, groups, executor)
    assert list(data) == [groups] * (1 + groups)


@pytest.mark.parametrize("executor", ["interpreter", "jit"])
def test_a_chain_from_the_last_workgroup_to_the_first(assembler: Assembler, executor: str) -> None:
    """Each waits for the one that begins after it."""
    code = assembler("""
        s_add_u32 s4, s3, 1
        v_mov_b32 v1, 0
        s_lshl_b32 s5, s3, 2
        v_mov_b32 v2, s5
        s_cmp_eq_u32 s4, s2
        s_mov_b32 s6, 0
        s_cbranch_scc1 last
    wait:
        global_load_b32 v3, v2, s[0:1] offset:4 glc dlc
        s_waitcnt vmcnt(0)
        v_readfirstlane_b32 s6, v3
        s_cmp_eq_u32 s6, 0
        s_cbranch_scc1 wait
    last:
        s_add_u32 s6, s6, 1
        v_mov_b32 v4, s6
        global_store_b32 v2, v4, s[0:1]
        s_endpgm""")
    data = np.zeros(40, np.uint32)
    launch(code, data, 40, executor, block=32)
    assert list(data) == list(range(40, 0, -1))


@pytest.mark.parametrize("executor", ["interpreter", "jit"])
def test_more_than_fit_on_a_card_wait_in_vain(assembler: Assembler, executor: str) -> None:
    """64 KiB of LDS each: two workgroups a WGP, 48 of them. The 97th never begins while the others wait for it."""
    address = np.zeros(1 + 97, np.uint32)
    data = int(address.ctypes.data)
    common = {"grid": (97,), "block": (32,), "rsrc1": RSRC1, "lds_bytes": 64 << 10,
              "rsrc2": 3 << 1 | 1 << 7, "executor": executor}
    with pytest.raises(isa.HungWave):
        isa.run(assembler(BARRIER_OF_THE_GRID), user_sgprs=[data & 0xFFFFFFFF, data >> 32, 97], watchdog=1.0, **common)
    assert address[0] == 96
    address[:] = 0
    isa.run(assembler(BARRIER_OF_THE_GRID), user_sgprs=[data & 0xFFFFFFFF, data >> 32, 96], watchdog=60.0,
            **common | {"grid": (96,)})
    assert list(address) == [96] * 97 or list(address) == [96] * 97 + [0]


@pytest.mark.parametrize("executor", ["interpreter", "jit"])
def test_a_lock_taken_lane_by_lane(assembler: Assembler, executor: str) -> None:
    """Every lane of four waves takes a spin lock in LDS once, one lane a turn, and adds to what it protects."""
    code = assembler("""
        v_mov_b32 v1, 0
        v_mov_b32 v2, 1
        v_mov_b32 v6, 0
        v_cmp_eq_u32 vcc_lo, 0, v0
        s_and_saveexec_b32 s8, vcc_lo
        ds_store_b64 v1, v[6:7]
        s_mov_b32 exec_lo, s8
        s_waitcnt lgkmcnt(0)
        s_barrier
    again:
        ds_cmpstore_rtn_b32 v3, v1, v2, v6
        s_waitcnt lgkmcnt(0)
        v_cmp_eq_u32 vcc_lo, 0, v3
        s_and_saveexec_b32 s5, vcc_lo
        s_cbranch_execz not_mine
        ds_load_b32 v4, v1 offset:4
        s_waitcnt lgkmcnt(0)
        v_add_nc_u32 v4, 1, v4
        ds_store_b32 v1, v4 offset:4
        s_waitcnt lgkmcnt(0)
        ds_store_b32 v1, v6
    not_mine:
        s_and_not1_b32 exec_lo, s5, exec_lo
        s_cbranch_execnz again
        s_mov_b32 exec_lo, -1
        s_waitcnt lgkmcnt(0)
        s_barrier
        ds_load_b32 v4, v1 offset:4
        s_waitcnt lgkmcnt(0)
        global_store_b32 v1, v4, s[0:1]
        s_endpgm""".replace("v_mov_b32 v6, 0", "v_mov_b32 v6, 0\n v_mov_b32 v7, 0"))
    data = np.zeros(1, np.uint32)
    address = int(data.ctypes.data)
    isa.run(code, grid=(1,), block=(128,), rsrc1=RSRC1, rsrc2=2 << 1, lds_bytes=512,
            user_sgprs=[address & 0xFFFFFFFF, address >> 32], executor=executor, watchdog=60.0)
    assert data[0] == 128
