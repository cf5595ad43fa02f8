"""The sum of many numbers: `AMDRV_HAL=mock python examples/reduction.py`.

Each work-item adds a part of the numbers, a workgroup adds its work-items' sums in local memory, by halves with a
barrier between, and one more launch of the same kernel adds the workgroups' sums. The kernel is LLVM IR, compiled by
llvmlite; all sums are in a fixed order, so that every run gives the same bits.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from progress import script
from vector_add import compile_ir

import hcq

BLOCK = 256
GROUPS = 64

HEAD = f"""
target triple = "amdgcn-amd-amdhsa"
@lds = internal addrspace(3) global [{BLOCK} x float] undef, align 16
declare i32 @llvm.amdgcn.workgroup.id.x()
declare i32 @llvm.amdgcn.workitem.id.x()
declare void @llvm.amdgcn.s.barrier()
define amdgpu_kernel void @sum(ptr addrspace(1) %out, ptr addrspace(1) %in, i32 %n, i32 %stride) #0 {{
entry:
  %group = call i32 @llvm.amdgcn.workgroup.id.x()
  %item = call i32 @llvm.amdgcn.workitem.id.x()
  %base = mul i32 %group, {BLOCK}
  %first = add i32 %base, %item
  br label %next
next:
  %i = phi i32 [ %first, %entry ], [ %further, %add ]
  %sum = phi float [ 0.0, %entry ], [ %more, %add ]
  %inside = icmp ult i32 %i, %n
  br i1 %inside, label %add, label %share
add:
  %place = getelementptr float, ptr addrspace(1) %in, i32 %i
  %value = load float, ptr addrspace(1) %place
  %more = fadd float %sum, %value
  %further = add i32 %i, %stride
  br label %next
share:
  %mine = getelementptr [{BLOCK} x float], ptr addrspace(3) @lds, i32 0, i32 %item
  store float %sum, ptr addrspace(3) %mine
  br label %half{BLOCK // 2}
"""

HALF = """
half{half}:
  fence syncscope("workgroup") release
  call void @llvm.amdgcn.s.barrier()
  fence syncscope("workgroup") acquire
  %low{half} = icmp ult i32 %item, {half}
  br i1 %low{half}, label %fold{half}, label %{then}
fold{half}:
  %there{half} = add i32 %item, {half}
  %other{half} = getelementptr [{block} x float], ptr addrspace(3) @lds, i32 0, i32 %there{half}
  %a{half} = load float, ptr addrspace(3) %mine
  %b{half} = load float, ptr addrspace(3) %other{half}
  %s{half} = fadd float %a{half}, %b{half}
  store float %s{half}, ptr addrspace(3) %mine
  br label %{then}
"""

TAIL = f"""
done:
  %leader = icmp eq i32 %item, 0
  br i1 %leader, label %write, label %end
write:
  %total = load float, ptr addrspace(3) %mine
  %target = getelementptr float, ptr addrspace(1) %out, i32 %group
  store float %total, ptr addrspace(1) %target
  br label %end
end:
  ret void
}}
attributes #0 = {{ "amdgpu-flat-work-group-size"="{BLOCK},{BLOCK}" }}
"""


def source() -> str:
    halves, half = [], BLOCK // 2
    while half:
        halves.append(HALF.format(half=half, block=BLOCK, then=f"half{half // 2}" if half > 1 else "done"))
        half //= 2
    return HEAD + "".join(halves) + TAIL


def in_the_same_order(x: np.ndarray, groups: int) -> np.float32:
    """What the kernel computes, addition by addition, in NumPy."""
    padded = np.zeros(-(-len(x) // (groups * BLOCK)) * groups * BLOCK, np.float32)
    padded[:len(x)] = x
    sums = np.zeros(groups * BLOCK, np.float32)
    for row in padded.reshape(-1, groups * BLOCK):
        sums += row
    shared = sums.reshape(groups, BLOCK)
    while shared.shape[1] > 1:
        half = shared.shape[1] // 2
        shared = shared[:, :half] + shared[:, half:]
    return np.float32(shared[0, 0]) if groups == 1 else in_the_same_order(shared[:, 0], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Add up numbers on the GPU and compare with NumPy.")
    parser.add_argument("-n", type=int, default=1_000_000, help="how many (default: a million)")
    parser.add_argument("--device", default="AM", help="hcq device name, such as AM:0")
    options = parser.parse_args()
    with hcq.open(options.device) as dev:
        add_up = dev.program(compile_ir(source(), dev.properties.arch), "sum")
        print(add_up)
        x = np.random.default_rng(1).standard_normal(options.n, np.float32)
        numbers, parts, total = dev.alloc(x.nbytes).copyin(x), dev.alloc(4 * GROUPS), dev.alloc(4)
        start = time.perf_counter()
        add_up(parts, numbers, np.int32(options.n), np.int32(GROUPS * BLOCK), grid=GROUPS, block=BLOCK)
        add_up(total, parts, np.int32(GROUPS), np.int32(BLOCK), grid=1, block=BLOCK)
        result = total.copyout(np.empty(1, np.float32))[0]
        print(f"{options.n:,} numbers in {1e3 * (time.perf_counter() - start):.1f} ms: {result}")
        assert result == in_the_same_order(x, GROUPS)
        exact = float(np.sum(x, dtype=np.float64))
        assert abs(float(result) - exact) < 1e-6 * float(np.sum(np.abs(x), dtype=np.float64))
        print(f"the bits of NumPy's sum in the same order; {abs(float(result) - exact):.2g} from the exact one")


if __name__ == "__main__":
    raise SystemExit(script(main))
