"""A vector add on a GPU that this process boots: `AMDRV_HAL=mock python examples/vector_add.py`.

The kernel is OpenCL C, compiled by any clang that knows AMDGPU. Without one, llvmlite compiles the same kernel from
LLVM IR. Either way it is a code object for gfx1100 that nobody wrote for this driver.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hcq
from examples.progress import script

BLOCK = 256

OPENCL = """
__kernel void vector_add(__global float* out, __global const float* a, __global const float* b, int n) {
    int i = __builtin_amdgcn_workgroup_id_x() * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x();
    if (i < n) out[i] = a[i] + b[i];
}
"""

LLVM_IR = f"""
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workgroup.id.x()
declare i32 @llvm.amdgcn.workitem.id.x()
define amdgpu_kernel void @vector_add(ptr addrspace(1) %out, ptr addrspace(1) %a, ptr addrspace(1) %b, i32 %n) {{
  %group = call i32 @llvm.amdgcn.workgroup.id.x()
  %item = call i32 @llvm.amdgcn.workitem.id.x()
  %first = mul i32 %group, {BLOCK}
  %i = add i32 %first, %item
  %inside = icmp slt i32 %i, %n
  br i1 %inside, label %add, label %done
add:
  %pa = getelementptr float, ptr addrspace(1) %a, i32 %i
  %pb = getelementptr float, ptr addrspace(1) %b, i32 %i
  %po = getelementptr float, ptr addrspace(1) %out, i32 %i
  %x = load float, ptr addrspace(1) %pa
  %y = load float, ptr addrspace(1) %pb
  %sum = fadd float %x, %y
  store float %sum, ptr addrspace(1) %po
  br label %done
done:
  ret void
}}
"""


def compile_opencl(source: str, arch: str, compiler: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "kernel.cl").write_text(source)
        subprocess.run([compiler, "-x", "cl", "-cl-std=CL2.0", "-Xclang", "-finclude-default-header",
                        "-target", "amdgcn-amd-amdhsa", f"-mcpu={arch}", "-O2", "-nogpulib",
                        path / "kernel.cl", "-o", path / "kernel.co"], check=True)
        return (path / "kernel.co").read_bytes()


def compile_ir(source: str, arch: str) -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu=arch, opt=2)
    code: bytes = target.emit_object(binding.parse_assembly(source))
    return code


def main() -> None:
    parser = argparse.ArgumentParser(description="Add two vectors on the GPU and compare with NumPy.")
    parser.add_argument("-n", type=int, default=1_000_000, help="elements (default: a million)")
    parser.add_argument("--device", default="AM", help="hcq device name, such as AM:0")
    parser.add_argument("--clang", default=next(filter(None, map(shutil.which, ("clang-19", "clang-20", "clang-21"))),
                                                None), help="compiler; without one, llvmlite")
    options = parser.parse_args()

    start = time.perf_counter()
    with hcq.open(options.device) as dev:
        print(f"{dev} opened in {time.perf_counter() - start:.2f} s")
        arch = dev.properties.arch
        code = compile_opencl(OPENCL, arch, options.clang) if options.clang else compile_ir(LLVM_IR, arch)
        vector_add = dev.program(code, "vector_add")
        print(vector_add)

        rng = np.random.default_rng(1)
        a, b = (rng.standard_normal(options.n, np.float32) for _ in range(2))
        start = time.perf_counter()
        device_a, device_b = dev.alloc(a.nbytes).copyin(a), dev.alloc(b.nbytes).copyin(b)
        out = dev.alloc(a.nbytes)
        vector_add(out, device_a, device_b, np.int32(options.n), grid=-(-options.n // BLOCK), block=BLOCK)
        result = out.copyout(np.empty_like(a))
        print(f"copies in, kernel, copy out: {1e3 * (time.perf_counter() - start):.1f} ms")
        assert np.array_equal(result, a + b)
        print(f"{options.n:,} sums equal NumPy's, bit for bit")


if __name__ == "__main__":
    raise SystemExit(script(main))
