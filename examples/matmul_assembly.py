"""C = A @ B from hand-written assembly: `AMDRV_HAL=mock python examples/matmul_assembly.py`.

A kernel for gfx1100, every instruction and every line of its description written by hand: each workgroup of 16 x 16
work-items computes a tile of C, by way of tiles of A and B in local memory. LLVM's assembler (`llvm-mc`; Debian:
llvm-19) turns it into a code object; no compiler is involved.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time

import numpy as np
from progress import script

import hcq

TILE = 16

ASSEMBLY = """
.amdgcn_target "amdgcn-amd-amdhsa--gfx1100"
.amdhsa_code_object_version 5
.text
.globl matmul
.p2align 8
.type matmul,@function
matmul:                                     ; s[0:1]: arguments, s2 and s3: workgroup x and y, v0: work-item
  s_load_b128 s[4:7], s[0:1], 0x0           ; C, A
  s_load_b64 s[8:9], s[0:1], 0x10           ; B
  s_load_b32 s10, s[0:1], 0x18              ; n
  v_and_b32 v1, 0x3ff, v0                   ; x in the tile
  v_bfe_u32 v2, v0, 10, 10                  ; y in the tile
  s_waitcnt lgkmcnt(0)
  s_lshl_b32 s11, s3, 4
  s_lshl_b32 s12, s2, 4
  v_add_nc_u32 v3, s11, v2                  ; row of C
  v_add_nc_u32 v4, s12, v1                  ; column of C
  v_mul_lo_u32 v5, v3, s10                  ; row * n
  v_add_nc_u32 v6, v5, v1
  v_lshlrev_b32 v6, 2, v6                   ; byte of A[row, x]
  v_mul_lo_u32 v7, v2, s10
  v_add_nc_u32 v7, v7, v4
  v_lshlrev_b32 v7, 2, v7                   ; byte of B[y, column]
  s_lshl_b32 s13, s10, 6                    ; bytes of 16 rows of B
  v_lshlrev_b32 v8, 4, v2
  v_add_nc_u32 v8, v8, v1
  v_lshlrev_b32 v8, 2, v8                   ; this work-item's place in a tile of local memory
  v_lshlrev_b32 v9, 6, v2                   ; its row of A's tile
  v_lshlrev_b32 v10, 2, v1                  ; its column of B's tile
  v_mov_b32 v11, 0                          ; the sum
  s_mov_b32 s14, 0
tile:
  global_load_b32 v12, v6, s[6:7]
  global_load_b32 v13, v7, s[8:9]
  s_waitcnt vmcnt(0)
  ds_store_b32 v8, v12
  ds_store_b32 v8, v13 offset:1024
  s_waitcnt lgkmcnt(0)
  s_barrier                                 ; both tiles are there
PRODUCTS
  s_barrier                                 ; everybody has read them
  v_add_nc_u32 v6, 64, v6                   ; 16 columns further
  v_add_nc_u32 v7, s13, v7                  ; 16 rows further
  s_add_u32 s14, s14, 16
  s_cmp_lt_u32 s14, s10
  s_cbranch_scc1 tile
  v_add_nc_u32 v5, v5, v4
  v_lshlrev_b32 v5, 2, v5
  global_store_b32 v5, v11, s[4:5]
  s_endpgm
.Lend:
.size matmul, .Lend-matmul

.rodata
.p2align 6
.amdhsa_kernel matmul
  .amdhsa_group_segment_fixed_size 2048
  .amdhsa_kernarg_size 32
  .amdhsa_user_sgpr_kernarg_segment_ptr 1
  .amdhsa_user_sgpr_count 2
  .amdhsa_system_sgpr_workgroup_id_x 1
  .amdhsa_system_sgpr_workgroup_id_y 1
  .amdhsa_system_vgpr_workitem_id 1
  .amdhsa_next_free_vgpr 24
  .amdhsa_next_free_sgpr 16
  .amdhsa_wavefront_size32 1
.end_amdhsa_kernel

.amdgpu_metadata
---
amdhsa.version:
  - 1
  - 2
amdhsa.target: amdgcn-amd-amdhsa--gfx1100
amdhsa.kernels:
  - .name: matmul
    .symbol: matmul.kd
    .kernarg_segment_size: 32
    .kernarg_segment_align: 8
    .group_segment_fixed_size: 2048
    .private_segment_fixed_size: 0
    .wavefront_size: 32
    .max_flat_workgroup_size: 256
    .reqd_workgroup_size:
      - 16
      - 16
      - 1
    .sgpr_count: 16
    .vgpr_count: 24
    .args:
      - .name: product
        .offset: 0
        .size: 8
        .value_kind: global_buffer
        .address_space: global
      - .name: left
        .offset: 8
        .size: 8
        .value_kind: global_buffer
        .address_space: global
      - .name: right
        .offset: 16
        .size: 8
        .value_kind: global_buffer
        .address_space: global
      - .name: rows
        .offset: 24
        .size: 4
        .value_kind: by_value
...
.end_amdgpu_metadata
"""


def source() -> str:
    """The sixteen products of a tile, four at a time: v16 to v19 hold a row's part of A, v20 to v23 a column's of B."""
    lines = []
    for k in range(0, TILE, 4):
        lines.append(f"  ds_load_b128 v[16:19], v9 offset:{4 * k}")
        lines += [f"  ds_load_b32 v{20 + j}, v10 offset:{1024 + 64 * (k + j)}" for j in range(4)]
        lines.append("  s_waitcnt lgkmcnt(0)")
        lines += [f"  v_fmac_f32 v11, v{16 + j}, v{20 + j}" for j in range(4)]
    return ASSEMBLY.replace("PRODUCTS", "\n".join(lines))


def assembler() -> str | None:
    return next(filter(None, map(shutil.which, ("llvm-mc-19", "llvm-mc-20", "llvm-mc-21", "llvm-mc"))), None)


def assemble(text: str, tool: str) -> bytes:
    """A code object. It needs no linking: hcq places and relocates it itself."""
    done = subprocess.run([tool, "-triple=amdgcn-amd-amdhsa", "-mcpu=gfx1100", "-filetype=obj"], input=text.encode(),
                          capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} refused the assembly:\n{done.stderr.decode()}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Multiply two matrices with hand-written assembly.")
    parser.add_argument("-n", type=int, default=128, help="rows and columns, a multiple of 16 (default: 128)")
    parser.add_argument("--device", default="AM", help="hcq device name, such as AM:0")
    parser.add_argument("--assembler", default=assembler(), help="an llvm-mc that knows gfx1100")
    options = parser.parse_args()
    if not options.assembler:
        parser.error("no llvm-mc on this machine (Debian: apt install llvm-19); --assembler names one")
    if options.n <= 0 or options.n % TILE:
        parser.error(f"-n must be a multiple of {TILE}, not {options.n}")
    n = options.n
    with hcq.open(options.device) as dev:
        matmul = dev.program(assemble(source(), options.assembler), "matmul")
        print(matmul)
        rng = np.random.default_rng(1)
        a, b = (rng.integers(-8, 9, (n, n)).astype(np.float32) for _ in range(2))     # sums that float32 holds exactly
        device_a, device_b, c = dev.alloc(a.nbytes).copyin(a), dev.alloc(b.nbytes).copyin(b), dev.alloc(a.nbytes)
        start = time.perf_counter()
        matmul(c, device_a, device_b, np.int32(n), grid=(n // TILE, n // TILE), block=(TILE, TILE))
        dev.synchronize()
        print(f"{n} x {n} x {n}: {1e3 * (time.perf_counter() - start):.1f} ms")
        assert np.array_equal(c.copyout(np.empty_like(a)), a @ b)
        print("equal to NumPy's, every element")


if __name__ == "__main__":
    raise SystemExit(script(main))
