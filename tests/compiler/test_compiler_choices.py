"""Optional rewrites: whatever is chosen, a kernel computes what it computed without. GPU kernels run on the mock's
executor, on this process's own memory."""

from __future__ import annotations

import random
import struct
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mock.isa
from compiler import Tensor, dtypes
from compiler.cache import DiskCache
from compiler.choices import Choice, optimized
from compiler.engine import build_program
from compiler.heuristics import choose
from compiler.linearize import linearize
from compiler.lower import Axis
from compiler.optimize import merge_ranges, ranges_of
from compiler.render.llvm import Target, render
from compiler.render.objects import compile_ir, host_target
from compiler.schedule import KernelItem, normalize, schedule
from compiler.uop import Ops

GFX = Target("amdgcn-amd-amdhsa", "gfx1100")


def kernel(tensor: Tensor) -> tuple[KernelItem, list[np.ndarray]]:
    """The one kernel of a tensor, and its parameters' contents: zeros for what it stores. Nothing is stored on the way:
    neither parts of long reductions, as for a GPU, nor what is padded, as for a CPU."""
    roots, buffers = normalize([tensor.uop])
    with patch("compiler.schedule._split_reductions", list):
        plan = schedule(roots, "AM")
    (item,) = plan.items
    assert isinstance(item, KernelItem)
    data = [buffers[s].read() if s < plan.inputs else np.zeros(plan.made[s - plan.inputs].size,  # type: ignore[attr-defined]
                                                               plan.made[s - plan.inputs].dtype.np) for s in item.slots]
    return item, data


def aligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start:start + array.nbytes].view(array.dtype)
    out[:] = array
    return out


def on_gpu(item: KernelItem, data: list[np.ndarray], choices: list[Choice]) -> np.ndarray:
    program = build_program(item.sink, GFX, choices)
    memory = [aligned(a) for a in data]
    kernarg = struct.pack(f"<{len(memory)}Q", *(a.ctypes.data for a in memory))
    mock.isa.run(program.code, grid=program.source.grid, block=program.source.block, kernarg=kernarg, executor="jit")
    return memory[0]


def on_cpu(item: KernelItem, data: list[np.ndarray], choices: list[Choice]) -> np.ndarray:
    from compiler.runtime.cpu import CpuRuntime
    cpu = CpuRuntime()
    program = build_program(item.sink, host_target(), choices)
    handles = [cpu.alloc(a.nbytes) for a in data]
    for handle, a in zip(handles, data, strict=True):
        cpu.write(handle, a.view(np.uint8))
    cpu.load(program.source, program.code)(handles)
    return handles[0].view(data[0].dtype).copy()


def pair(m: int, n: int, k: int, dtype: Any, transposed: bool = False, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(seed)
    shapes = (m, k), (n, k) if transposed else (k, n)
    if np.dtype(dtype).kind in "iu":
        a, b = (rng.randint(0 if np.dtype(dtype).kind == "u" else -9, 10, s).astype(dtype) for s in shapes)
    else:
        a, b = (rng.uniform(-1, 1, s).astype(dtype) for s in shapes)
    return a, b


MATRIX = [((1, 1), (1, 1), 1, None), ((2, 2), (1, 1), 1, 0), ((2, 1), (2, 2), 2, 0), ((1, 2), (1, 2), 2, 1),
          ((2, 2), (2, 1), 2, 1)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("waves,tile,depth,shared", MATRIX)
def test_matrix_instructions(waves: tuple[int, int], tile: tuple[int, int], depth: int, shared: int | None,
                             transposed: bool) -> None:
    a, b = pair(64, 128, 96, np.float16, transposed)
    x, y = Tensor(a), Tensor(b)
    item, data = kernel((x @ (y.T if transposed else y)).relu() + 1)
    choices = [Choice("matrix", 0, (*waves, *tile, depth))]
    if shared is not None:
        choices.append(Choice("shared", 0, (shared,)))
    program = build_program(item.sink, GFX, choices)
    assert "llvm.amdgcn.wmma.f32" in program.source.text
    assert ("addrspace(3)" in program.source.text) == (shared is not None)
    plain = on_gpu(item, data, [])
    got = on_gpu(item, data, choices)
    np.testing.assert_allclose(got.astype(np.float32), plain.astype(np.float32), rtol=2e-3, atol=2e-3)
    want = np.maximum(a.astype(np.float32) @ (b.T if transposed else b).astype(np.float32), 0) + 1
    np.testing.assert_allclose(got.reshape(64, 128).astype(np.float32), want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("side", ["first", "second", "both"])
def test_operands_that_are_no_plain_loads(side: str) -> None:
    """Padding is loaded under a condition and stays out of LDS; nothing is read beyond a buffer's end."""
    a, b = pair(28, 30, 90, np.float16)
    wide = [(0, 4), (0, 6)], [(0, 6), (0, 2)]
    if side != "both":
        full = np.pad(a, wide[0]) if side == "second" else np.pad(b, wide[1])
        a, b = (full, b) if side == "second" else (a, full)
    x = Tensor(a) if side == "second" else Tensor(a).pad([0, 6, 0, 4])
    y = Tensor(b) if side == "first" else Tensor(b).pad([0, 2, 0, 6])
    item, data = kernel(x @ y)
    for choices in ([Choice("matrix", 0, (2, 2, 1, 1, 2)), Choice("shared", 0, (1,))],
                    [Choice("matrix", 0, (1, 1, 1, 1, 1))]):
        got = on_gpu(item, data, choices).reshape(32, 32).astype(np.float32)
        want = x.numpy().astype(np.float32) @ y.numpy().astype(np.float32)
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "uint8", "float16 in float16"])
def test_matrix_instructions_of_other_types(dtype: str) -> None:
    if dtype in ("int8", "uint8"):
        a, b = pair(32, 32, 32, dtype)
        out = Tensor(a).cast(dtypes.int32) @ Tensor(b).cast(dtypes.int32)
        want: np.ndarray = a.astype(np.int32) @ b.astype(np.int32)
    else:
        a, b = pair(32, 32, 32, np.float32)
        narrow = dtypes.of(dtype.split()[0])
        x, y = Tensor(a).cast(narrow).realize(), Tensor(b).cast(narrow).realize()
        want = x.float().numpy() @ y.float().numpy()
        out = x @ y if narrow is dtypes.bfloat16 else (
            x.unsqueeze(1) * y.T.unsqueeze(0))._reduce(Ops.ADD, 2, False)        # a sum that stays narrow
    item, data = kernel(out)
    choices = [Choice("matrix", 0, (1, 1, 1, 2, 2))]
    program = build_program(item.sink, GFX, choices)
    assert "llvm.amdgcn.wmma" in program.source.text
    got = on_gpu(item, data, choices).reshape(32, 32)
    if dtype == "bfloat16":
        got = np.left_shift(got.astype(np.uint32), 16).view(np.float32)
    exact = got.dtype.kind in "iu"
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=0 if exact else 2e-2,
                               atol=0 if exact else 5e-2)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shared", [None, 0, 1])
def test_tiles_of_lanes_and_shared_memory(shared: int | None, transposed: bool) -> None:
    a, b = pair(32, 128, 48, np.float32, transposed)
    x, y = Tensor(a), Tensor(b)
    item, data = kernel(x @ (y.T if transposed else y))
    rows, columns = ranges_of(merge_ranges(item.sink), Axis.GLOBAL)
    (k,) = ranges_of(merge_ranges(item.sink), Axis.REDUCE)
    choices = [Choice("upcast", rows.arg[0], (4,)), Choice("local", rows.arg[0], (2,)),
               Choice("upcast", columns.arg[0], (2,)), Choice("local", columns.arg[0], (32,)),
               Choice("unroll", k.arg[0], (8,))]
    if shared is not None:
        choices.append(Choice("shared", 0, (shared,)))
    program = build_program(item.sink, GFX, choices)
    assert program.source.block == (64, 1, 1) and program.source.grid == (2, 4, 1)
    assert ("s.barrier" in program.source.text) == (shared is not None)
    np.testing.assert_allclose(on_gpu(item, data, choices), on_gpu(item, data, []), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what,dtype", [("sum", np.float32), ("max", np.int32), ("prod", np.float64), ("sum", np.int8)])
@pytest.mark.parametrize("shape,n", [((5, 256), 64), ((96,), 96), ((2, 3, 64), 32)])
def test_a_workgroup_shares_a_reduction(shape: tuple[int, ...], n: int, what: str, dtype: Any) -> None:
    a = np.random.RandomState(4).uniform(1, 3 if what == "sum" else 1.01, shape).astype(dtype)
    x = Tensor(a)
    item, data = kernel(getattr(x, what)(-1) * 2 + 1)
    axis = ranges_of(merge_ranges(item.sink), Axis.REDUCE)[-1].arg[0]
    choices = [Choice("group", axis, (n,))]
    program = build_program(item.sink, GFX, choices)
    assert program.source.block == (n, 1, 1) and "s.barrier" in program.source.text
    want = getattr(a.astype(np.float64), what)(-1) * 2 + 1
    np.testing.assert_allclose(on_gpu(item, data, choices), want.reshape(-1), rtol=1e-5)
    np.testing.assert_allclose(on_gpu(item, data, []), want.reshape(-1), rtol=1e-5)


PRODUCTS: dict[str, Any] = {
    "square": lambda r: Tensor(r(256, 256)) @ Tensor(r(256, 256)),
    "linear": lambda r: Tensor(r(128, 64)).linear(Tensor(r(256, 64)), Tensor(r(256))).relu(),
    "batched": lambda r: Tensor(r(3, 64, 32)) @ Tensor(r(3, 32, 128)),
    "odd": lambda r: Tensor(r(33, 17)) @ Tensor(r(17, 65)),
    "half": lambda r: Tensor(r(128, 128)).half().realize() @ Tensor(r(128, 64)).half().realize(),
    "long sum": lambda r: Tensor(r(6, 512)).exp().sum(1),
    "softmax": lambda r: (Tensor(r(64, 96)) - 1).exp().sum(1),
    "convolution": lambda r: Tensor(r(2, 8, 18, 18)).conv2d(Tensor(r(16, 8, 3, 3))).relu(),
    "convolution with steps": lambda r: Tensor(r(1, 16, 17, 17)).conv2d(Tensor(r(32, 8, 3, 3)), stride=2, groups=2),
    "its derivative": lambda r: Tensor(r(1, 16, 14, 14)).conv_transpose2d(Tensor(r(16, 12, 3, 3)), stride=2, padding=1),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_the_heuristics_choose(name: str) -> None:
    """Against the same kernel without any choice, on both targets."""
    rng = np.random.RandomState(1)

    def draw(*shape: int) -> np.ndarray:
        return np.asarray(rng.uniform(-1, 1, shape), np.float32)

    tensor = PRODUCTS[name](draw)
    item, data = kernel(tensor)
    for gpu, run in ((True, on_gpu), (False, on_cpu)):
        choices = choose(merge_ranges(item.sink), gpu)
        assert optimized(item.sink, choices, gpu) is not None
        loose = 3e-3 if name == "half" else 1e-5
        np.testing.assert_allclose(run(item, data, choices).astype(np.float32), run(item, data, []).astype(np.float32),
                                   rtol=loose, atol=loose)


def some_choices(item: KernelItem, rng: random.Random, gpu: bool) -> list[Choice]:
    sink = merge_ranges(item.sink)
    out: list[Choice] = []
    left = {r.arg: r.src[0].arg for axis in (Axis.GLOBAL, Axis.REDUCE) for r in ranges_of(sink, axis)}
    for _ in range(rng.randint(1, 4)):
        arg = rng.choice(list(left))
        kinds = ["unroll"] if arg[1] is Axis.REDUCE else ["upcast", "local"] if gpu else ["upcast"]
        factors = [n for n in (2, 3, 4, 8) if left[arg] % n == 0]
        if factors:
            n = rng.choice(factors)
            left[arg] //= n
            out.append(Choice(rng.choice(kinds), arg[0], (n,)))
    if gpu and any(c.kind == "local" for c in out) and rng.random() < 0.5:
        out.append(Choice("shared", 0, (rng.randint(0, 1),)))
    return out


def some_kernel(rng: random.Random) -> Tensor:
    """A reduction with something before and after it."""
    numbers = np.random.RandomState(rng.randrange(1 << 30))
    m, n, k = (rng.choice([2, 3, 4, 6, 8, 12, 16]) for _ in range(3))
    x, y = (Tensor(numbers.uniform(-1, 1, s)) for s in ((m, k), (k, n)))
    before = rng.choice([lambda t: t, lambda t: t * 2 + 1, lambda t: t.maximum(0.25), lambda t: t.flip(0)])
    after = rng.choice([lambda t: t, lambda t: t.exp(), lambda t: t.T * 3, lambda t: t.pad([(1, 1), (0, 2)])])
    core = rng.choice([lambda: before(x) @ y, lambda: (before(x).unsqueeze(2) + y.unsqueeze(0)).max(1),
                       lambda: (before(x).unsqueeze(2) * y.unsqueeze(0)).sum((1, 2)).unsqueeze(1),
                       lambda: before(x).sum(0).unsqueeze(0) + y.sum(1).unsqueeze(0)])
    return after(core())


_REGISTERS = 16 * 16      # accumulators that vector registers of 16 floats hold, and leave as many for operands


@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize("n", [512, 1024])
def test_a_tile_on_a_cpu_fits_in_its_registers(n: int, turned: tuple[bool, bool]) -> None:
    """Of two axes that memory has side by side one is the row of vectors, the other one has a few rows."""
    a, b = (Tensor(np.ones((n, n), np.float32)) for _ in turned)
    product = (a.T if turned[0] else a) @ (b.T if turned[1] else b)
    item, _ = kernel(product)
    tile = [c.amounts[0] for c in choose(merge_ranges(item.sink), False) if c.kind == "upcast"]
    assert len(tile) == 2 and np.prod(tile) <= _REGISTERS


@pytest.mark.parametrize("seed", range(24))
def test_random_choices_on_random_kernels(seed: int) -> None:
    """Every choice that is possible keeps the kernel's values; one that is not is refused, not wrong."""
    rng = random.Random(seed)
    tensor = some_kernel(rng)
    gpu = seed % 3 == 0         # a GPU's kernel takes longer to be translated
    item, data = kernel(tensor)
    run = on_gpu if gpu else on_cpu
    plain = run(item, data, [])
    for _ in range(2 if gpu else 4):
        choices = some_choices(item, rng, gpu)
        if optimized(item.sink, choices, gpu) is not None:
            np.testing.assert_allclose(run(item, data, choices), plain, rtol=1e-11, atol=1e-11, err_msg=str(choices))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1 << 30))
def test_every_order_of_random_kernels_is_right(seed: int) -> None:
    """The fuzz of blocks, on kernels and choices that nobody has thought of. Equal to rounding: with another order of
    instructions LLVM may fuse another multiplication with an addition."""
    from compiler.runtime.cpu import CpuRuntime
    rng = random.Random(seed)
    item, data = kernel(some_kernel(rng))
    choices = some_choices(item, rng, False)
    legal = build_program(item.sink, host_target(), choices if optimized(item.sink, choices, False) else []).legal
    cpu, want = CpuRuntime(), None
    for turn in range(4):
        program = linearize(legal, (lambda ready: rng.randrange(len(ready))) if turn else (lambda ready: 0))
        source = render("k", program, cpu.target)
        handles = [cpu.alloc(a.nbytes) for a in data]
        for handle, a in zip(handles, data, strict=True):
            cpu.write(handle, a.view(np.uint8))
        cpu.load(source, compile_ir(source.text, cpu.target, DiskCache(None)))(handles)
        got = handles[0].view(data[0].dtype).copy()
        want = got if want is None else want
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_impossible_choices_are_refused() -> None:
    item, _ = kernel(Tensor(pair(6, 6, 6, np.float32)[0]) @ Tensor(pair(6, 6, 6, np.float32)[1]))
    sink = merge_ranges(item.sink)
    for choices in ([Choice("upcast", 0, (4,))], [Choice("upcast", 99, (2,))], [Choice("matrix", 0, (1, 1, 1, 1, 1))],
                    [Choice("shared", 0, (0,))]):
        assert optimized(sink, choices, True) is None
    legal = build_program(item.sink, GFX, [Choice("shared", 0, (0,))]).legal        # falls back to none
    assert not any(n.op is Ops.SHARED for n in legal.toposort())


@pytest.mark.parametrize("choices", [
    [Choice("matrix", 0, (1, 2, 1, 1, 2)), Choice("shared", 0, (1,))],
    [Choice("matrix", 0, (2, 1, 1, 1, 1)), Choice("shared", 0, (0,))]], ids=["turned", "staged"])
def test_every_order_of_a_block_with_shared_memory_is_right(choices: list[Choice]) -> None:
    """Barriers, stores to LDS and what is carried over are ordered by data alone: random topological orders."""
    a, b = pair(32, 32, 96, np.float16)
    item, data = kernel(Tensor(a) @ Tensor(b))
    program = build_program(item.sink, GFX, choices)
    want = on_gpu(item, data, choices)
    texts = set()
    for seed in range(3):
        rng = random.Random(seed)
        order = linearize(program.legal, lambda ready, rng=rng: rng.randrange(len(ready)))     # type: ignore[misc]
        source = render("k", order, GFX)
        texts.add(source.text)
        memory = [aligned(x) for x in data]
        kernarg = struct.pack(f"<{len(memory)}Q", *(x.ctypes.data for x in memory))
        code = compile_ir(source.text, GFX, DiskCache(None))
        mock.isa.run(code, grid=source.grid, block=source.block, kernarg=kernarg,
                     executor="jit")
        np.testing.assert_array_equal(memory[0], want)
    assert len(texts) == 3
