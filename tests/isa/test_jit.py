"""Native code as a whole: launches, faults, the watchdog, what is kept on disk, when a kernel is compiled."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mock import isa
from mock.isa.access import HostMemory
from mock.isa.dispatch import Dispatch, IsaError, MemoryFault
from mock.isa.jit import HungWave, compiler, execute, kernels, wait_for_compiler
from mock.isa.standalone import _place

Assembler = Callable[[str], bytes]
RSRC1 = 3 | 0xf0 << 12 | 1 << 21        # 32 VGPRs, denormals, DX10 clamp
ROOT = Path(isa.__file__).parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing from disk, nothing from other tests, but what all kernels share."""
    monkeypatch.setenv("AMDRV_CACHE", str(tmp_path))
    monkeypatch.setattr(kernels, "_known", {})
    return tmp_path / "isa"


def rsrc2(user: int = 2, ids: int = 0b001, items: int = 0) -> int:
    return user << 1 | ids << 7 | items << 11


def launch(code: bytes, argument: np.ndarray, **more: Any) -> tuple[Dispatch, list[Any]]:
    keep: list[Any] = [argument]
    address = int(argument.ctypes.data)
    entry = _place(code, keep)
    values: dict[str, Any] = {"rsrc1": RSRC1, "rsrc2": rsrc2(), "rsrc3": 0, "grid": (4, 1, 1), "block": (64, 1, 1)}
    values |= more
    return Dispatch(code_address=entry, user_sgprs=(address & 0xffffffff, address >> 32), **values), keep


COUNT = """
    s_lshl_b32 s4, s2, 8
    v_lshl_add_u32 v1, v0, 2, s4
    global_load_b32 v2, v1, s[0:1]
    s_waitcnt vmcnt(0)
    v_add_nc_u32 v2, 7, v2
    global_store_b32 v1, v2, s[0:1]
    s_endpgm
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_what_is_computed(assembler: Assembler, threads: int) -> None:
    data = np.arange(64 * 40, dtype=np.uint32)
    dispatch, _keep = launch(assembler(COUNT), data, grid=(40, 1, 1))
    counts = execute(dispatch, HostMemory(), threads=threads)
    assert np.array_equal(data, np.arange(64 * 40) + 7)
    assert (counts.workgroups, counts.waves, counts.instructions) == (40, 80, 80 * 7)


IDS = """
    v_and_b32 v1, 0x3ff, v0
    v_bfe_u32 v2, v0, 10, 10
    v_bfe_u32 v3, v0, 20, 10
    v_lshl_or_b32 v1, v2, 8, v1
    v_lshl_or_b32 v1, v3, 16, v1
    s_lshl_b32 s5, s2, 20
    s_lshl_b32 s6, s3, 24
    s_lshl_b32 s7, s4, 28
    s_or_b32 s5, s5, s6
    s_or_b32 s5, s5, s7
    v_or_b32 v1, s5, v1
    v_mov_b32 v4, 0
    v_mov_b32 v5, 1
    global_atomic_add_u32 v6, v4, v5, s[0:1] glc
    s_waitcnt vmcnt(0)
    v_lshlrev_b32 v6, 2, v6
    global_store_b32 v6, v1, s[0:1] offset:4
    s_endpgm
"""


def test_partial_workgroups_on_three_axes(assembler: Assembler) -> None:
    results = []
    for executor in ("interpreter", "jit"):
        data = np.zeros(4096, np.uint32)
        dispatch, _keep = launch(assembler(IDS), data, rsrc2=rsrc2(2, 0b111, 2), grid=(2, 3, 2), block=(5, 4, 3),
                                 partial=(2, 1, 2), start=(1, 0, 2))
        isa.execute(dispatch, HostMemory(), executor=executor)
        results.append(np.sort(data[1:1 + data[0]]))
    assert len(results[0]) == (5 + 2) * (4 * 2 + 1) * (3 + 2)
    assert np.array_equal(results[0], results[1])


BARRIER = """
    v_lshlrev_b32 v1, 2, v0
    s_cmp_lg_u32 s3, 0
    v_cmp_gt_u32 vcc_lo, 32, v0
    s_cbranch_vccnz first
    s_endpgm
first:
    ds_store_b32 v1, v0
    s_waitcnt lgkmcnt(0)
    s_barrier
    ds_load_b32 v2, v1
    s_waitcnt lgkmcnt(0)
    global_store_b32 v1, v2, s[0:1]
    s_endpgm
"""


def test_waves_that_end_are_not_waited_for_at_a_barrier(assembler: Assembler) -> None:
    code = assembler(BARRIER)
    data = np.full(64, 99, np.uint32)
    dispatch, _keep = launch(code, data, grid=(1, 1, 1), lds_bytes=1024)
    execute(dispatch, HostMemory())
    assert np.array_equal(data, [*range(32), *[99] * 32])


INDIRECT = """
    s_getpc_b64 s[4:5]
    s_add_u32 s4, s4, s3
    s_addc_u32 s5, s5, 0
    s_swappc_b64 s[6:7], s[4:5]
    v_lshlrev_b32 v1, 2, v0
    global_store_b32 v1, v2, s[0:1]
    s_endpgm
    v_mov_b32 v2, 11
    s_setpc_b64 s[6:7]
    v_mov_b32 v2, 22
    s_setpc_b64 s[6:7]
"""


def test_calls_to_code_that_no_branch_leads_to(assembler: Assembler) -> None:
    """The targets are sums made at run time: the kernel is compiled anew with each."""
    code = assembler(INDIRECT)
    keep: list[Any] = []
    entry = _place(code, keep)
    body = len(assembler("\n".join(INDIRECT.strip().splitlines()[:7]))) - 4
    for offset, wanted in ((body, 11), (body + 8, 22), (body, 11)):
        data = np.zeros(64, np.uint32)
        address = int(data.ctypes.data)
        dispatch = Dispatch(entry, RSRC1, rsrc2(4, 0), 0, (address & 0xffffffff, address >> 32, 0, offset), (1, 1, 1),
                            (64, 1, 1))
        execute(dispatch, HostMemory())
        assert (data == wanted).all()


CALLS = """
    s_branch kernel
    v_add_nc_u32 v2, 100, v2
    s_setpc_b64 s[6:7]
kernel:
    v_lshlrev_b32 v1, 2, v0
    v_mov_b32 v2, 1
    s_getpc_b64 s[4:5]
    s_add_u32 s4, s4, 48
    v_add_nc_u32 v2, 1, v2
    s_addc_u32 s5, s5, 0
    s_swappc_b64 s[6:7], s[4:5]
    s_getpc_b64 s[4:5]
    s_add_u32 s4, s4, 0xffffffd4
    s_addc_u32 s5, s5, -1
    s_swappc_b64 s[6:7], s[4:5]
    global_store_b32 v1, v2, s[0:1]
    s_endpgm
    v_add_nc_u32 v2, 10, v2
    s_mov_b64 s[10:11], s[6:7]
    s_getpc_b64 s[8:9]
    s_add_u32 s8, s8, 20
    s_addc_u32 s9, s9, 0
    s_swappc_b64 s[6:7], s[8:9]
    s_mov_b64 s[6:7], s[10:11]
    s_setpc_b64 s[6:7]
    v_mul_u32_u24 v2, 3, v2
    s_setpc_b64 s[6:7]
"""


def test_functions_called_as_llvm_does_are_compiled_with_the_kernel(assembler: Assembler,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards, backwards, one from another: nothing is compiled a second time when a wave gets there."""
    data, made, translate = np.zeros(64, np.uint32), [], kernels.translate
    monkeypatch.setattr(kernels, "translate", lambda *a, **k: made.append(a[1]) or translate(*a, **k))
    dispatch, _keep = launch(assembler(CALLS), data, grid=(1, 1, 1))
    execute(dispatch, HostMemory())
    assert (data == (2 + 10) * 3 + 100).all()
    assert len(made) == 1 and len(made[0]) == 4       # the entry and three functions


class OnePage:
    """One page, and a fault everywhere else."""

    def __init__(self, code: bytes) -> None:
        self.page = np.zeros(8192, np.uint8)
        self.host = -(-int(self.page.ctypes.data) // 4096) * 4096
        at = self.host - int(self.page.ctypes.data)
        self.page[at:at + len(code)] = np.frombuffer(code, np.uint8)
        self.asked: list[tuple[int, bool]] = []

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        for address in addresses:
            self.asked.append((int(address) >> 12, write))
            if int(address) >> 12 != 0x40:
                raise MemoryFault(f"nothing at {int(address):#x}")
        return addresses - np.uint64(0x40000) + np.uint64(self.host)


def test_a_memory_fault_names_the_instruction(assembler: Assembler) -> None:
    memory = OnePage(assembler("v_mov_b32 v1, 0\nglobal_load_b32 v2, v1, s[0:1]\ns_waitcnt vmcnt(0)\ns_endpgm"))
    dispatch = Dispatch(0x40000, RSRC1, rsrc2(2, 0), 0, (0x77000, 0), (8, 1, 1), (64, 1, 1))
    with pytest.raises(MemoryFault, match="nothing at 0x77000") as caught:
        execute(dispatch, memory)
    assert any("at pc 0x40004: global_load_b32" in note for note in caught.value.__notes__)


def test_memory_is_asked_once_a_page_and_kind_of_access_in_each_launch(assembler: Assembler) -> None:
    memory = OnePage(assembler("""
        v_mov_b32 v1, 0x800
        global_load_b32 v2, v1, s[0:1]
        s_waitcnt vmcnt(0)
        global_store_b32 v1, v2, s[0:1]
        global_store_b32 v1, v2, s[0:1] offset:4
        s_endpgm"""))
    dispatch = Dispatch(0x40000, RSRC1, rsrc2(2, 0), 0, (0x40000, 0), (8, 1, 1), (64, 1, 1))
    for _ in range(2):
        memory.asked.clear()
        execute(dispatch, memory, threads=1)
        assert memory.asked.count((0x40, True)) == 1


def test_an_endless_wave_is_reported(assembler: Assembler) -> None:
    data = np.zeros(64, np.uint32)
    code = assembler("s_nop 0\ns_add_u32 s4, s4, 1\ns_branch 65534\ns_endpgm")
    dispatch, _keep = launch(code, data, grid=(1, 1, 1), block=(32, 1, 1))
    with pytest.raises(HungWave, match=r"still at pc 0x[0-9a-f]+: .*workgroup 0, wave 0. Raise the watchdog"):
        execute(dispatch, HostMemory(), watchdog=0.01)


def test_a_stopped_engine_stops_its_waves(assembler: Assembler) -> None:
    class Stopped(HostMemory):
        calls = 0

        def check(self) -> None:
            Stopped.calls += 1
            if Stopped.calls > 2:
                raise KeyError("the engine was reset")
    data = np.zeros(64, np.uint32)
    dispatch, _keep = launch(assembler("s_nop 0\ns_branch 65534\ns_endpgm"), data, grid=(1, 1, 1))
    with pytest.raises(KeyError, match="the engine was reset"):
        execute(dispatch, Stopped())


def test_what_cannot_be_decoded_fails_where_a_wave_meets_it(assembler: Assembler) -> None:
    data = np.zeros(64, np.uint32)
    dispatch, _keep = launch(assembler("s_nop 0") + b"\xff" * 8, data)
    with pytest.raises(isa.IllegalInstruction, match="illegal instruction at pc"):
        execute(dispatch, HostMemory())


def test_scratch_for_less_than_a_workgroup_is_refused(assembler: Assembler) -> None:
    data = np.zeros(64, np.uint32)
    dispatch, _keep = launch(assembler("s_endpgm"), data, scratch_slots=1, scratch_wave_bytes=1024)
    with pytest.raises(IsaError, match="a workgroup has 2 waves but there is scratch for 1"):
        execute(dispatch, HostMemory())


def test_executors_have_names() -> None:
    with pytest.raises(ValueError, match="executor must be one of auto, jit, interpreter, not 'fast'"):
        isa.execute(None, HostMemory(), executor="fast")        # type: ignore[arg-type]


# ---- when a kernel is compiled

def _only() -> kernels.Kernel:
    kernel, = [k for found in kernels._known.values() for k in found]
    return kernel


def test_small_launches_are_interpreted_until_they_add_up(assembler: Assembler,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.zeros(64, np.uint32)
    dispatch, _keep = launch(assembler(COUNT), data, grid=(1, 1, 1))
    isa.execute(dispatch, HostMemory(), executor="auto")
    kernel = _only()
    assert kernel.compiled is None and kernel.interpreted_seconds > 0
    monkeypatch.setattr(kernels, "INTERPRETED_SECONDS", 0.0)
    isa.execute(dispatch, HostMemory(), executor="auto")
    assert wait_for_compiler()
    assert kernel.compiled is not None and not kernel.optimised
    isa.execute(dispatch, HostMemory(), executor="auto")
    assert (data == 21).all() and kernel.compiled_seconds > 0


def test_large_launches_are_compiled_and_hot_ones_optimised(assembler: Assembler,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LARGE", 100)
    monkeypatch.setattr(kernels, "COMPILED_SECONDS", 0.0)
    data = np.zeros(64 * 8, np.uint32)
    dispatch, _keep = launch(assembler(COUNT), data, grid=(8, 1, 1))
    isa.execute(dispatch, HostMemory(), executor="auto")
    kernel = _only()
    assert kernel.compiled is not None and kernel.interpreted_seconds == 0
    assert wait_for_compiler()
    assert kernel.optimised
    isa.execute(dispatch, HostMemory(), executor="auto")
    assert (data == 14).all()


def test_loops_are_compiled_first(assembler: Assembler) -> None:
    data = np.zeros(64, np.uint32)
    code = assembler("s_mov_b32 s4, 5\ns_sub_u32 s4, s4, 1\ns_cmp_lg_u32 s4, 0\ns_cbranch_scc1 65533\ns_endpgm")
    dispatch, _keep = launch(code, data, grid=(1, 1, 1))
    counts = isa.execute(dispatch, HostMemory(), executor="auto")
    assert _only().compiled is not None and counts.instructions == 2 * (1 + 5 * 3 + 1)


def test_memory_that_wants_to_see_each_access_is_interpreted(assembler: Assembler) -> None:
    class Watched(HostMemory):
        plain = False
    data = np.zeros(64, np.uint32)
    dispatch, _keep = launch(assembler(COUNT), data, grid=(1, 1, 1))
    isa.execute(dispatch, Watched(), executor="jit")
    assert (data == 7).all() and not kernels._known


def test_other_code_at_the_same_address_is_another_kernel(assembler: Assembler) -> None:
    data = np.zeros(64, np.uint32)
    keep: list[Any] = []
    entry = _place(assembler(COUNT), keep)
    address = int(data.ctypes.data)
    dispatch = Dispatch(entry, RSRC1, rsrc2(), 0, (address & 0xffffffff, address >> 32), (1, 1, 1), (64, 1, 1))
    execute(dispatch, HostMemory())
    changed = np.frombuffer(assembler(COUNT.replace("7, v2", "8, v2")), np.uint8)
    raw = keep[0]
    at = entry - int(raw.ctypes.data)
    raw[at:at + len(changed)] = changed
    execute(dispatch, HostMemory())
    assert (data == 15).all()


# ---- what is kept on disk

def _run_once(assembler: Assembler) -> compiler.Compiled:
    kernels._known.clear()
    data = np.zeros(64, np.uint32)
    dispatch, _keep = launch(assembler(COUNT), data, grid=(1, 1, 1))
    execute(dispatch, HostMemory())
    assert (data == 7).all()
    code = _only().compiled
    assert code is not None
    return code


def test_a_kernel_comes_from_disk_and_a_damaged_file_is_made_again(assembler: Assembler, own_cache: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    _run_once(assembler)
    kernel = own_cache / _only()._name(False)
    whole = kernel.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "translate", None)       # nobody translates
        _run_once(assembler)
    for damaged in (whole[:100], b"", whole[:-1] + bytes([whole[-1] ^ 1]), b"\0" + whole[1:]):
        kernel.write_bytes(damaged)
        _run_once(assembler)
        assert kernel.read_bytes()[:4] == whole[:4] and len(kernel.read_bytes()) == len(whole)


def test_files_are_named_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    here = compiler.digest(("kernel",))
    machine, cpu, features = compiler._target()
    assert here == compiler.digest(("kernel",)) != compiler.digest(("kernel", 1))
    monkeypatch.setattr(compiler, "_target", lambda: (machine, cpu, features + ",+other"))
    assert compiler.digest(("kernel",)) != here
    monkeypatch.setattr(compiler, "_target", lambda: (machine, "another", features))
    assert compiler.digest(("kernel",)) != here


def test_a_cache_that_cannot_be_written_is_no_error(assembler: Assembler, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("AMDRV_CACHE", str(tmp_path / "file"))
    _run_once(assembler)


_PROCESS = """
    import struct, sys, os
    import numpy as np
    from mock import isa
    from mock.isa.jit import kernels
    def go():
        data = np.ones(64 * 4, np.float32)
        address = int(data.ctypes.data)
        isa.run(bytes.fromhex(sys.argv[1]), grid=(4,), block=(64,), rsrc1={rsrc1}, rsrc2={rsrc2}, executor="jit",
                user_sgprs=(address & 0xffffffff, address >> 32))
        assert (data == 6.25).all(), data
    if sys.argv[2] == "second":
        kernels.translate = None
    if sys.argv[2] == "fork":
        go()
        child = os.fork()
        if child == 0:
            kernels._known.clear()
            go()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    if sys.argv[2] == "leave":
        kernels.COMPILED_SECONDS = 0.0       # the process ends while it optimises
    go()
    print("done")
"""
FLOATS = """
    s_lshl_b32 s4, s2, 8
    v_lshl_add_u32 v1, v0, 2, s4
    global_load_b32 v2, v1, s[0:1]
    s_waitcnt vmcnt(0)
    v_fma_f32 v2, v2, 2.0, 0.5
    v_mul_f32 v2, v2, v2
    global_store_b32 v1, v2, s[0:1]
    s_endpgm
"""


def _process(code: bytes, how: str, cache: Path) -> None:
    text = textwrap.dedent(_PROCESS).replace("{rsrc1}", str(RSRC1)).replace("{rsrc2}", str(rsrc2()))
    done = subprocess.run([sys.executable, "-c", text, code.hex(), how], capture_output=True, text=True, timeout=120,
                          check=False, cwd=ROOT, env=os.environ | {"AMDRV_CACHE": str(cache), "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_second_process_translates_nothing(assembler: Assembler, tmp_path: Path) -> None:
    code = assembler(FLOATS)
    _process(code, "first", tmp_path)
    _process(code, "second", tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_process_compiles_for_itself(assembler: Assembler, tmp_path: Path) -> None:
    _process(assembler(FLOATS), "fork", tmp_path)


def test_a_process_ends_while_it_optimises(assembler: Assembler, tmp_path: Path) -> None:
    _process(assembler(FLOATS), "leave", tmp_path)


_LEAVES = """
    import ctypes, sys, threading
    libc = ctypes.CDLL(None)        # dprintf(exit status, text): registered first, it runs last, with LLVM taken down
    if hasattr(libc, "on_exit"):
        libc.strdup.restype = ctypes.c_void_p
        libc.on_exit(ctypes.cast(libc.dprintf, ctypes.c_void_p), ctypes.c_void_p(libc.strdup(b"taken down")))
    from mock.isa.jit import compiler
    compiler._PATIENCE, begun, optimise = 0.0, threading.Event(), compiler._optimise
    def observed(*arguments):
        begun.set()
        optimise(*arguments)
    compiler._optimise = observed
    lines = [f"%v{i + 1} = call <16 x float> @llvm.fma.v16f32(<16 x float> %v{i}, <16 x float> %v{i * 7 // 8}, "
             f"<16 x float> %v{i // 2})" for i in range(20000)]      # seconds of work
    text = ("declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)\\n"
            "define <16 x float> @wave(<16 x float> %v0) {\\n" + "\\n".join(lines) +
            "\\nret <16 x float> %v20000\\n}\\n")
    def work():
        with compiler._building:
            compiler._object(text, True, 2)
    threading.Thread(target=work, daemon=True).start()
    begun.wait()
    sys.stdout.write("done")
    sys.exit(2)
"""


def test_a_process_ends_while_llvm_is_at_work() -> None:
    """LLVM aborts the process when it is taken down under a thread that compiles for longer than is waited for."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(_LEAVES)], capture_output=True, text=True,
                          check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (2, "done", "")


def test_two_address_spaces_at_once(assembler: Assembler) -> None:
    """Two boards' launches of one kernel, at the same addresses, from two threads."""
    import threading
    code = assembler(COUNT)
    spaces = [OnePage(code) for _ in range(2)]
    errors: list[BaseException] = []

    def go(space: OnePage, times: int) -> None:
        try:
            dispatch = Dispatch(0x40000, RSRC1, rsrc2(), 0, (0x40000 + 2048, 0), (4, 1, 1), (64, 1, 1))
            for _ in range(times):
                execute(dispatch, space)
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=go, args=(space, 3 + i)) for i, space in enumerate(spaces)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for i, space in enumerate(spaces):
        at = space.host - int(space.page.ctypes.data) + 2048
        assert struct.unpack("<256I", space.page[at:at + 1024].tobytes()) == (7 * (3 + i),) * 256


# ---- memory: the ways that addresses may lie

def _patterns() -> dict[str, np.ndarray]:
    rng, lane = np.random.default_rng(5), np.arange(64)
    return {"consecutive": 4 * lane, "reversed": 4 * (63 - lane), "one": 0 * lane + 12, "rows": 4 * (lane % 16),
            "one a row": 4 * (lane // 16), "strided": 68 * lane, "unaligned": 4 * lane + 3,
            "one page": 4 * rng.permutation(1024)[:64], "many pages": 4 * rng.permutation(4 * 1024)[:64],
            "across pages": 4096 * (lane % 3 + 1) - 2 - 4 * (lane // 3), "end of a page": 4096 - 4 * 64 + 4 * lane}


ACCESS = """
    v_lshlrev_b32 v1, 2, v0
    global_load_b32 v2, v1, s[0:1]
    s_waitcnt vmcnt(0)
    v_mov_b32 v4, -1
    v_mov_b32 v5, -2
    v_mov_b32 v6, v0
    v_xor_b32 v7, 0x55, v0
    {limit}
    {load}
    s_waitcnt vmcnt(0) lgkmcnt(0)
    {store}
    s_waitcnt lgkmcnt(0)
    s_waitcnt_vscnt null, 0
    s_mov_b64 exec, -1
    global_store_b32 v1, v4, s[0:1] offset:256
    global_store_b32 v1, v5, s[0:1] offset:512
    {again}
    s_endpgm
"""
SPACES = {
    "global": ("global_load_b{n} v[4:{l}], v2, s[0:1] offset:2048",
               "global_store_b{n} v2, v[6:{s}], s[0:1] offset:2048", "s_nop 0"),
    "lds": ("ds_load_b{n} v[4:{l}], v2", "ds_store_b{n} v2, v[6:{s}] offset:8",
            "ds_load_b32 v8, v1 offset:8\ns_waitcnt lgkmcnt(0)\nglobal_store_b32 v1, v8, s[0:1] offset:768")}


@pytest.mark.parametrize("space", list(SPACES))
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("limit", ["s_nop 0", "s_mov_b64 exec, 0x5a5aff01"], ids=["full", "part"])
def test_loads_and_stores_however_the_addresses_lie(assembler: Assembler, space: str, bits: int, limit: str) -> None:
    load, store, again = (text.replace("{n}", str(bits)).replace("v[4:{l}]", "v4" if bits == 32 else "v[4:5]")
                          .replace("v[6:{s}]", "v6" if bits == 32 else "v[6:7]") for text in SPACES[space])
    code = assembler(ACCESS.format(limit=limit, load=load, store=store, again=again))
    for name, offsets in _patterns().items():
        results = []
        for executor in ("interpreter", "jit"):
            raw = np.zeros(1 << 16, np.uint8)
            skip = -int(raw.ctypes.data) % 4096
            memory = raw[skip:skip + (12 << 12)]
            memory[:] = np.random.default_rng(1).integers(0, 256, len(memory))
            memory[:256].view(np.uint32)[:] = offsets * (bits // 32)     # no two accesses overlap in part
            dispatch, _keep = launch(code, memory, grid=(1, 1, 1), wave_size=64, lds_bytes=4096, rsrc1=RSRC1 + 4)
            isa.execute(dispatch, HostMemory(), executor=executor)
            results.append(memory.copy())
        different = np.flatnonzero(results[0] != results[1])
        assert not len(different), f"{name}: bytes {different[:8]}"


MOVES = """
    v_lshlrev_b32 v1, 2, v0
    global_load_b32 v2, v1, s[0:1]
    v_mov_b32 v4, 7
    v_mov_b32 v5, 7
    s_waitcnt vmcnt(0)
    {limit}
    ds_bpermute_b32 v4, v2, v1 offset:8
    ds_swizzle_b32 v5, v1 offset:{pattern}
    s_waitcnt lgkmcnt(0)
    s_mov_b64 exec, -1
    global_store_b32 v1, v4, s[0:1] offset:256
    global_store_b32 v1, v5, s[0:1] offset:512
    s_endpgm
"""


@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("limit", ["s_nop 0", "s_mov_b64 exec, 0x5a5aff01"], ids=["full", "part"])
@pytest.mark.parametrize("pattern", [0x041f, 0x801b, 0xc0a0])
def test_permutes_need_no_interpreter(assembler: Assembler, lanes: int, limit: str, pattern: int) -> None:
    code, results = assembler(MOVES.format(limit=limit, pattern=pattern)), []
    for executor in ("interpreter", "jit"):
        data = np.random.default_rng(2).integers(0, 1 << 32, 192, np.uint32)
        dispatch, _keep = launch(code, data, grid=(1, 1, 1), block=(lanes, 1, 1), wave_size=lanes, rsrc1=RSRC1 + 4)
        isa.execute(dispatch, HostMemory(), executor=executor)
        results.append(data)
    compiled = _only().compiled
    assert compiled is not None and compiled.interpreted == []
    assert np.array_equal(results[0], results[1])
