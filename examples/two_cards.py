"""A pipeline over two cards: `AMDRV_HAL=mock AMDRV_MOCK=gfx1100:vram=256M,count=2 python examples/two_cards.py`.

The first card does the first half of the work on each batch, its copy engines push the result straight into the second
card's memory, and the second card does the other half, while the first is at the next batch. Every arrow of this is
waited for by the engines themselves; the program only waits at the end. `--trace FILE` writes what happened when, for
ui.perfetto.dev.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from progress import script
from vector_add import compile_ir

import hcq

BLOCK = 64

STAGES = f"""
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workgroup.id.x()
declare i32 @llvm.amdgcn.workitem.id.x()
define amdgpu_kernel void @square(ptr addrspace(1) %out, ptr addrspace(1) %in) {{
  %group = call i32 @llvm.amdgcn.workgroup.id.x()
  %item = call i32 @llvm.amdgcn.workitem.id.x()
  %first = mul i32 %group, {BLOCK}
  %i = add i32 %first, %item
  %from = getelementptr i32, ptr addrspace(1) %in, i32 %i
  %to = getelementptr i32, ptr addrspace(1) %out, i32 %i
  %x = load i32, ptr addrspace(1) %from
  %y = mul i32 %x, %x
  store i32 %y, ptr addrspace(1) %to
  ret void
}}
define amdgpu_kernel void @add_one(ptr addrspace(1) %out, ptr addrspace(1) %in) {{
  %group = call i32 @llvm.amdgcn.workgroup.id.x()
  %item = call i32 @llvm.amdgcn.workitem.id.x()
  %first = mul i32 %group, {BLOCK}
  %i = add i32 %first, %item
  %from = getelementptr i32, ptr addrspace(1) %in, i32 %i
  %to = getelementptr i32, ptr addrspace(1) %out, i32 %i
  %x = load i32, ptr addrspace(1) %from
  %y = add i32 %x, 1
  store i32 %y, ptr addrspace(1) %to
  ret void
}}
"""


def run(first: hcq.Device, second: hcq.Device, batches: list[np.ndarray]) -> list[np.ndarray]:
    """x*x + 1 of every batch. Two buffers on each side, used in turn: one is filled while the other is worked on."""
    nbytes, groups = batches[0].nbytes, batches[0].size // BLOCK
    square = first.program(compile_ir(STAGES, first.properties.arch), "square")
    add_one = second.program(compile_ir(STAGES, second.properties.arch), "add_one")
    halves = [(first.alloc(nbytes), first.alloc(nbytes), second.alloc(nbytes)) for _ in range(2)]
    results = [second.alloc(nbytes) for _ in batches]
    for number, batch in enumerate(batches):
        given, squared, arrived = halves[number % 2]
        given.copyin(batch)
        square(squared, given, grid=groups, block=BLOCK)
        arrived.copy_from(squared)                              # from card to card
        add_one(results[number], arrived, grid=groups, block=BLOCK)
    return [result.copyout(np.empty_like(batches[0])) for result in results]


def main() -> None:
    parser = argparse.ArgumentParser(description="A pipeline over two cards.")
    parser.add_argument("-n", type=int, default=64 * 1024, help="numbers a batch, a multiple of 64")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--devices", nargs=2, default=("AM:0", "AM:1"))
    parser.add_argument("--trace", help="write a trace for ui.perfetto.dev to this file")
    options = parser.parse_args()
    if options.n <= 0 or options.n % BLOCK:
        parser.error(f"-n must be a multiple of {BLOCK}, not {options.n}")
    with hcq.open(options.devices[0]) as first, hcq.open(options.devices[1]) as second:
        rng = np.random.default_rng(1)
        batches = [rng.integers(-1000, 1000, options.n, np.int32) for _ in range(options.batches)]
        start = time.perf_counter()
        with first.profile(second) as profile:
            results = run(first, second, batches)
        print(f"{options.batches} batches of {options.n:,} numbers in {1e3 * (time.perf_counter() - start):.0f} ms")
        assert all(np.array_equal(result, batch * batch + 1) for batch, result in zip(batches, results, strict=True))
        print("equal to NumPy's, every number\n")
        print(profile.summary())
        if options.trace:
            profile.save(options.trace)


if __name__ == "__main__":
    raise SystemExit(script(main))
