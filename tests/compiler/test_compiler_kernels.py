"""Kernels: any order of a block's items is right, code for gfx1100 is well formed, the disk cache survives damage."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compiler import Tensor, dtypes
from compiler.cache import DiskCache, directory
from compiler.engine import build_program
from compiler.heuristics import choose
from compiler.linearize import Begin, Block, End, Instruction, linearize
from compiler.lower import Axis
from compiler.optimize import merge_ranges, upcast
from compiler.render.llvm import Target, render
from compiler.render.objects import compile_ir, host_target
from compiler.runtime.cpu import CpuRuntime
from compiler.schedule import KernelItem, normalize, schedule
from compiler.uop import Ops, UOp

GFX = Target("amdgcn-amd-amdhsa", "gfx1100")


def kernels(*tensors: Tensor, device: str = "CPU") -> list[KernelItem]:
    roots, _ = normalize([t.uop for t in tensors])
    return [i for i in schedule(roots, device).items if isinstance(i, KernelItem)]


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.RandomState(5)
    return [rng.uniform(-1, 1, s).astype(np.float32) for s in shapes]


def run(sink: UOp, data: list[np.ndarray], program: list[Instruction] | None = None) -> list[np.ndarray]:
    """A kernel's parameters after it ran on copies of ``data``, by a fresh runtime."""
    cpu = CpuRuntime()
    source = render("k", program if program is not None else linearize(sink), cpu.target)
    handles = []
    for a in data:
        handle = cpu.alloc(a.nbytes)
        cpu.write(handle, a.reshape(-1).view(np.uint8))
        handles.append(handle)
    cpu.load(source, compile_ir(source.text, cpu.target, DiskCache(None)))(handles)
    return [h.view(a.dtype).reshape(a.shape).copy() for h, a in zip(handles, data, strict=True)]


def examples() -> dict[str, tuple[list[KernelItem], list[np.ndarray]]]:
    x, w, b = (Tensor(a) for a in arrays((6, 8), (5, 8), (5,)))
    out = np.zeros((6, 5), np.float32)
    layer = kernels((x.linear(w, b)).tanh() * 2)
    soft = kernels(x.max(1) + x.sum(1) * x.min(1))  # three loops that do not need one another
    return {
        "layer": (layer, [out, *arrays((6, 8), (5, 8), (5,))]),
        "loops": (soft, [np.zeros(6, np.float32), arrays((6, 8))[0]]),
    }


@pytest.mark.parametrize("name", ["layer", "loops"])
def test_every_order_of_a_block_is_right(name: str) -> None:
    """The fuzz: items of a block in random topological orders; text differs, values do not."""
    items, data = examples()[name]
    sink = build_program(items[-1].sink, host_target()).legal
    want = run(sink, data)[0]
    texts = set()
    for seed in range(12):
        rng = random.Random(seed)

        def anyone(ready: list[UOp | Block], rng: random.Random = rng) -> int:
            return rng.randrange(len(ready))
        program = linearize(sink, anyone)
        texts.add(render("k", program, host_target()).text)
        np.testing.assert_array_equal(run(sink, data, program)[0], want)
    assert len(texts) > 6


def test_loops_nest_and_invariants_stay_outside() -> None:
    (item,) = kernels((Tensor(arrays((4, 6))[0]) * Tensor(arrays((4, 1))[0]).exp()).sum(1))
    program = linearize(item.sink)
    depth, where = 0, {}
    for instruction in program:
        if isinstance(instruction, Begin):
            depth += 1
        elif isinstance(instruction, End):
            depth -= 1
        else:
            where[instruction.op] = depth
    assert depth == 0 and where[Ops.EXP2] == 1 and where[Ops.STORE] == 1 and where[Ops.MUL] == 2


def test_fusion() -> None:
    x, w, b = (Tensor(a) for a in arrays((6, 8), (5, 8), (5,)))
    assert len(kernels(((x * 2 + 1).linear(w, b)).relu() - 3)) == 1         # producers, reduction, what follows
    assert len(kernels(x.linear(w).sum(0))) == 2                            # a reduction of a reduction
    s = x.softmax(1)
    assert len(kernels(s)) == 3
    (one,) = kernels(x + 1, x * 2)                                          # one pass, two stores
    assert len(one.sink.src) == 2
    assert not kernels(x.reshape(8, 6))                                     # the same memory


def test_parameters_that_simplify_away_are_not_passed() -> None:
    x = Tensor(arrays((2, 3))[0])
    (item,) = kernels(x.pad([(2, 0), (0, 0)])[:2] + 1)         # nothing of x is left
    assert len(item.slots) == 1 and (x.pad([(2, 0), (0, 0)])[:2] + 1).tolist() == [[1] * 3] * 2


def test_ranges_merge() -> None:
    (item,) = kernels(Tensor(arrays((3, 4, 5))[0]) + Tensor(arrays((3, 4, 5))[0] + 1))
    assert len([n for n in merge_ranges(item.sink).toposort() if n.op is Ops.RANGE]) == 1
    (item,) = kernels(Tensor(arrays((3, 4))[0]).T + 1)
    assert len([n for n in merge_ranges(item.sink).toposort() if n.op is Ops.RANGE]) == 2
    (item,) = kernels(Tensor(arrays((3, 4, 5))[0]).sum((1, 2)))
    assert len([n for n in merge_ranges(item.sink).toposort() if n.op is Ops.RANGE]) == 2


@pytest.mark.parametrize("tile", [(4, 2), (2, 5), (1, 10), (8, 1)])
def test_upcast_keeps_values(tile: tuple[int, int]) -> None:
    a, b = arrays((8, 6), (6, 10))
    (item,) = kernels(Tensor(a) @ Tensor(b) + 1)
    outer = sorted(
        (n for n in item.sink.toposort() if n.op is Ops.RANGE and n.arg[1] is Axis.GLOBAL), key=lambda n: n.arg
    )
    order = {s.arg: s for s in item.sink.toposort() if s.op is Ops.PARAM}
    data = [np.zeros((8, 10), np.float32)] + [a if any(n.src[0] is order[k] and any(i is outer[0] for i in n.toposort())
                                                       for n in item.sink.toposort() if n.op is Ops.INDEX) else b
                                              for k in sorted(order)[1:]]
    up = upcast(item.sink, dict(zip(outer, tile, strict=True)))
    assert len(up.src) == tile[0] * tile[1]
    loops = [i for i in linearize(up) if isinstance(i, Begin) and i.range.arg[1] is Axis.REDUCE]
    assert len(loops) == 1 and len(loops[0].reduces) == tile[0] * tile[1]       # the copies share one loop
    np.testing.assert_allclose(run(up, data)[0], a @ b + 1, rtol=1e-5)


def test_tiles_are_chosen_for_large_products() -> None:
    (item,) = kernels(
        Tensor.zeros(1024, 64).contiguous().realize() @ Tensor.zeros(64, 1024).contiguous().realize().detach()
    )
    kinds = [(c.kind, c.amounts) for c in choose(item.sink, gpu=True)]
    assert kinds == [("upcast", (8,)), ("local", (2,)), ("upcast", (4,)), ("local", (32,)), ("unroll", (8,))]
    (item,) = kernels(Tensor(arrays((8, 6))[0]) @ Tensor(arrays((6, 8))[0]))
    assert not choose(item.sink, gpu=True)


@pytest.mark.parametrize("outer,threads", [(7, 3), (64, 2), (1, 4)])
def test_threads_share_the_work(outer: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compiler.runtime.cpu._WORTH_A_THREAD", 1)
    monkeypatch.setattr("compiler.runtime.cpu.os.cpu_count", lambda: threads)
    a = arrays((outer, 9))[0]
    (item,) = kernels(Tensor(a).T.sum(0))
    np.testing.assert_allclose(run(item.sink, [np.zeros(outer, np.float32), a])[0], a.sum(1), rtol=1e-5)


# code for the GPU

GPU_KERNELS = {
    "add": lambda x, y: x + y,
    "layer": lambda x, y: (x @ y.T).relu(),
    "softmax": lambda x, y: (x - x.max(1, keepdim=True)).exp(),
    "int": lambda x, y: (x.cast(dtypes.int64) // 3) % 7,
    "half": lambda x, y: (x.half() * y.half()).float().cast(dtypes.bfloat16),
    "sum": lambda x, y: x.sum(),
    "double": lambda x, y: (x.double().sqrt() / 3).exp(),
    "pad": lambda x, y: x.pad([1, 2, 3, 4]).sin(),
}


def tool(name: str) -> str | None:
    for found in (shutil.which(f"{name}-{n}") for n in range(25, 15, -1)):
        if found:
            return found
    return shutil.which(name)


@pytest.mark.parametrize("name", GPU_KERNELS)
def test_gpu_objects(name: str, tmp_path: Path) -> None:
    """A relocatable ELF with descriptor, metadata and real instructions; no calls, no scratch, no hidden arguments."""
    from hcq import CodeObject
    x, y = (Tensor(a) for a in arrays((24, 40), (24, 40)))
    for item in kernels(GPU_KERNELS[name](x, y), device="AM"):
        program = build_program(item.sink, GFX)
        code = CodeObject(program.code)
        info = code.kernel(program.source.name)
        assert code.arch == "gfx1100" and code.version in (5, 6)
        assert len(info.arguments) == program.source.params == len(item.slots)
        assert all(a.kind == "global_buffer" for a in info.arguments)
        assert info.private_bytes == 0 and not info.hidden and info.wave_size == 32
        shared = sum(n.arg[1] * n.dtype.itemsize for n in program.legal.toposort() if n.op is Ops.SHARED)
        assert info.group_bytes == shared
        if objdump := tool("llvm-objdump"):
            path = tmp_path / "k.o"
            path.write_bytes(program.code)
            text = subprocess.run([objdump, "-d", str(path)], capture_output=True, text=True, check=True).stdout
            assert "global_store" in text and "s_endpgm" in text and "s_swappc" not in text and "scratch_" not in text
            assert "<unknown>" not in text


def test_a_gpu_kernel_covers_its_work_exactly() -> None:
    (item,) = kernels(Tensor(arrays((7, 43))[0]) * 2, device="AM")
    source = build_program(item.sink, GFX).source
    assert source.grid == (2, 1, 1) and source.block == (256, 1, 1) and "icmp ult i32" in source.text     # 301 of 512
    (item,) = kernels(Tensor(arrays((8, 64))[0]) * 2, device="AM")
    source = build_program(item.sink, GFX).source
    assert source.grid == (2, 1, 1) and "icmp ult" not in source.text
    (item,) = kernels(Tensor(arrays((3,))[0]).sum(), device="AM")
    assert build_program(item.sink, GFX).source.grid == (1, 1, 1)


def test_long_reductions_are_split_on_a_gpu() -> None:
    x = Tensor(arrays((1024, 4))[0])
    assert len(kernels(x.sum(0), device="CPU")) == 1
    first, second = kernels(x.sum(0), device="AM")
    sizes = [
        [n.src[0].arg for n in k.sink.toposort() if n.op is Ops.RANGE and n.arg[1] is Axis.REDUCE]
        for k in (first, second)
    ]
    assert sizes == [[32], [32]]


def test_indices_grow_to_64_bits() -> None:
    """Where a kernel walks 2**31 elements or more; both targets take it."""
    n = 70_000
    x = Tensor(np.ones(n, np.float32))
    table = x.reshape(n, 1).expand(n, n) * x
    (item,) = kernels(table.sum(1))
    assert {r.dtype for r in item.sink.toposort() if r.op is Ops.RANGE} == {dtypes.int64}
    (small,) = kernels((x * 2).sum())
    assert {r.dtype for r in small.sink.toposort() if r.op is Ops.RANGE} == {dtypes.int32}
    for target in (host_target(), GFX):
        assert "i64" in build_program(item.sink, target).source.text


# the disk cache

def test_disk_cache(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    assert cache.get(b"a") is None
    cache.put(b"a", b"value")
    assert cache.get(b"a") == b"value" and cache.get(b"b") is None
    assert (cache.hits, cache.misses, cache.damaged) == (1, 2, 0)
    (file,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    for damage in (b"", b"x", file.read_bytes()[:-1], file.read_bytes()[:40] + b"!" + file.read_bytes()[41:]):
        file.write_bytes(damage)
        assert cache.get(b"a") is None and not file.exists()
        cache.put(b"a", b"value")
        assert cache.get(b"a") == b"value"
    assert cache.damaged == 4


def test_damaged_kernels_are_built_anew(tmp_path: Path) -> None:
    (item,) = kernels(Tensor(arrays((3,))[0]) + 1)
    text = build_program(item.sink, GFX).source.text
    cache = DiskCache(tmp_path)
    code = compile_ir(text, GFX, cache)
    assert compile_ir(text, GFX, cache) == code and cache.hits == 1
    for file in (p for p in tmp_path.rglob("*") if p.is_file()):
        file.write_bytes(b"\x7fELF garbage" * 40)
    assert compile_ir(text, GFX, cache) == code and cache.damaged == 1
    assert compile_ir(text, GFX, cache) == code and cache.hits == 2


def test_an_unusable_cache_costs_nothing_but_time(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    cache = DiskCache(file / "below")
    cache.put(b"a", b"value")
    assert cache.get(b"a") is None


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert directory() == tmp_path / "amdrv" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("compiler.cache.sys.platform", "darwin")
    assert directory() == Path.home() / "Library" / "Caches" / "amdrv" / "kernels"
    monkeypatch.setattr("compiler.cache.sys.platform", "linux")
    assert directory() == Path.home() / ".cache" / "amdrv" / "kernels"
    monkeypatch.setenv("COMPILER_CACHE", "0")
    assert directory() is None
