"""What the modelled clock knows of a Radeon RX 7900 XTX (Navi 31, gfx1100). Data only.

Every figure names where it is published. Where nothing is published the comment says *chosen*, and why that value.
Nothing here was fitted to a kernel: the file was committed before the model that uses it, and before any kernel was
tuned by it. Cycles are of the shader clock; rates are per cycle.

Sources, by the short names used below:

    LLVM        llvm-project, llvm/lib/Target/AMDGPU/SISchedule.td, GFX11SpeedModel (latencies that the scheduler uses)
    LLVM info   llvm-project, llvm/lib/Target/AMDGPU/Utils/AMDGPUBaseInfo.cpp (getTotalNumVGPRs, getVGPRAllocGranule,
                getMaxWavesPerEU, getLocalMemorySize); LLVM, User Guide for AMDGPU Backend
    ISA         AMD, "RDNA3 Instruction Set Architecture" reference guide
    RDNA        AMD, "Introducing RDNA Architecture" white paper (2019)
    WMMA        AMD GPUOpen, "How to accelerate AI applications on RDNA 3 using WMMA", table of FLOPS/clock/CU
    specs       AMD, product specifications of the RX 7900 XTX; ROCm documentation, "AMD GPU specifications"
    profiler    ROCm documentation, rocprofiler-compute, "Workgroup processor (WGP)" (RDNA3)
    C&C         Chips and Cheese, "Latency Testing is Hard (RDNA 3 Power Saving)", 2023-06-14: vector loads from the
                Infinity Cache 150.3 ns, scalar loads 128.4 ns, on this card in its higher power state
    discovery   amdrv.facts.navi31 (the card's own discovery table)
"""

from __future__ import annotations

__all__ = [
    "BARRIER_LATENCY", "BRANCH_CYCLES", "CLOCK_HZ", "CUS_PER_WGP", "DISPATCH_CYCLES", "FLOPS_PER_CU", "GL1_BYTES",
    "GL1_BYTES_PER_WGP", "GL2_BYTES", "GL2_BYTES_PER_CYCLE", "INSTRUCTION_BYTES", "L0_BYTES", "L0_LINES_PER_CYCLE",
    "LATENCY", "LDS_BANKS", "LDS_BYTES_CU", "LDS_BYTES_WGP", "LDS_GRANULE", "LDS_LATENCY", "LDS_WORKGROUP_LIMIT",
    "LINE", "MALL_BYTES", "MALL_BYTES_PER_CYCLE", "PASSES", "SCALAR_BYTES", "SCALAR_LATENCY", "SCALAR_LINE",
    "SDMA_BYTES_PER_S", "SDMA_PACKET_S", "SIMDS_PER_WGP", "VECTOR_LATENCY", "VGPRS_PER_SIMD", "VGPR_GRANULE",
    "VRAM_BYTES_PER_CYCLE", "WAVES_PER_SIMD", "WAVE_LAUNCH_CYCLES", "WAVE_START_CYCLES", "WGPS", "WMMA_CHAIN_LATENCY",
    "WORKGROUPS_PER_WGP"]

# ---- the chip

CLOCK_HZ = 2_500_000_000
"""specs: boost clock "up to 2500 MHz"; AMD's own peak figures (61.4 and 122.8 TFLOP/s) are at this clock."""

WGPS = 48               # specs: 96 compute units; discovery: 6 engines of 2 arrays of 4 workgroup processors
CUS_PER_WGP = 2         # RDNA: a workgroup processor is two compute units
SIMDS_PER_WGP = 4       # RDNA: two SIMD32 a compute unit

# ---- what a SIMD holds

VGPRS_PER_SIMD = {32: 1536, 64: 768}    # LLVM info: FeatureGFX11FullVGPRs (Navi 31 and 32)
VGPR_GRANULE = {32: 24, 64: 12}         # LLVM info, likewise
WAVES_PER_SIMD = 16                     # LLVM info: getMaxWavesPerEU of GFX10.3 and newer
WORKGROUPS_PER_WGP = 32                 # LLVM info: getMaxWorkGroupsPerCU, 16 workgroups of several waves a CU
LDS_BYTES_WGP = 128 << 10               # ISA, "Local Data Share"; specs: 128 KiB
LDS_BYTES_CU = 64 << 10                 # ISA: in CU mode a workgroup uses its own half
LDS_WORKGROUP_LIMIT = 64 << 10          # LLVM info: AddressableLocalMemorySize
LDS_GRANULE = 1024                      # LLVM info: allocation granule of LDS on gfx11 (256 dwords)

# ---- issue: cycles for which an instruction of a wave32 holds its unit of the SIMD

PASSES = {
    "valu": 1,          # RDNA: a wave32 issues in one cycle on 32 lanes. ISA: VOPD likewise, two operations
    "half": 2,          # LLVM: Write64Bit, "half rate 64-bit instructions"
    "quarter": 4,       # LLVM: WriteIntMul and WriteQuarterRate32, "quarter rate" (32-bit integer multiplications)
    "trans": 4,         # LLVM: WriteTrans32, "quarter rate"; its own unit (RDNA: beside the main VALU)
    "double": 16,       # specs: FP64 is 1/32 of 61.4 TFLOP/s, so 1/16 of what one operation an instruction reaches
    "trans64": 64,      # chosen: LLVM says quarter rate of doubles ("F64 transcendental"); 4 times "double"
    "wmma": 32,         # WMMA: FP16, BF16 and IU8 512 FLOPS/clock/CU; a 16x16x16 product is 8192 on half a CU
    "wmma4": 16,        # WMMA: IU4 1024 FLOPS/clock/CU
    "salu": 1,          # RDNA: one scalar unit a SIMD, an instruction a cycle
    "sfpu": 1,          # chosen: as salu (gfx11.0 has none)
    "lane": 1,          # chosen: v_readlane and its like go at the VALU's rate
}
"""A wave64 takes twice as long for VALU, trans and double (RDNA: two passes of 32 lanes), but once for the FP32
operations that can be dual-issued with themselves (profiler: "128 V_FMA_F32 ops per cycle per CU in wave64 mode"),
and once for WMMA: the product is the same size, spread over more lanes (WMMA)."""

# ---- latency: cycles from issue until a dependent instruction of the same wave can issue

LATENCY = {
    "valu": 5,          # LLVM: Write32Bit, WriteFloatFMA
    "half": 6,          # LLVM: Write64Bit
    "quarter": 8,       # LLVM: WriteIntMul, WriteQuarterRate32
    "trans": 10,        # LLVM: WriteTrans32
    "double": 38,       # LLVM: WriteDouble
    "trans64": 40,      # LLVM: WriteTrans64; never less than its passes
    "wmma": 36,         # chosen: LLVM's GFX11 model has none; 32 passes, and 4 as "valu" has beyond its pass
    "wmma4": 20,        # chosen, likewise
    "salu": 2,          # LLVM: WriteSALU
    "sfpu": 4,          # LLVM: WriteSFPU
    "lane": 8,          # chosen: an SGPR written by the VALU is seen later than a VGPR; 5 and a little
}
WMMA_CHAIN_LATENCY = 32
"""chosen: a WMMA whose C is the D of the WMMA before it starts as soon as the unit is free: accumulators are forwarded
(ISA, "WMMA": only A and B of the next one need a wait; C has none)."""

BRANCH_CYCLES = 8
"""chosen: a taken branch restarts the wave's instruction buffer from the instruction cache; not taken costs one issue.
LLVM: 32 (WriteBranch), whatever the outcome; here other waves' issue hides none of it, so the smaller figure."""
BARRIER_LATENCY = 10        # chosen: from the last arrival until the waves go on. LLVM: 2000, "Guessed ???"
INSTRUCTION_BYTES = 32 << 10    # specs: L0 instruction cache 32 KiB a WGP. Misses are not modelled

WAVE_LAUNCH_CYCLES = 8
"""chosen: cycles between waves started on one WGP: one wave a cycle and shader engine, which has eight WGPs."""
WAVE_START_CYCLES = 50      # chosen: registers are set up and the first instructions are fetched
DISPATCH_CYCLES = 2200
"""From the dispatch packet to the first wave, and from the last one's end to the next packet: 0.88 us. Published for
gfx1100: one more dispatch with its barrier in a RADV command buffer."""

# ---- LDS

LDS_BANKS = 32              # ISA: 64 banks of a dword in two halves, each of which serves one CU's pair of SIMDs
LDS_LATENCY = 64            # LLVM: "Can be between 2 and 64" (SICommonWriteRes); the upper end. GFX11 schedules for 20
"""Rate: 32 lanes of a dword, 128 bytes, a cycle and CU, if no two of them want different dwords of one bank; two
dwords a lane go as two halves of the wave, four dwords as four quarters (ISA, "LDS bank conflicts")."""

# ---- caches and memory. A line is 128 bytes throughout (RDNA, "L0 ... 128B cache line")

LINE = 128
L0_BYTES = 32 << 10             # specs: 32 KiB a CU
L0_LINES_PER_CYCLE = 1          # RDNA: a CU's L0 looks up and delivers one line of 128 bytes a cycle
GL1_BYTES = 256 << 10           # specs: "Graphics L1 cache" 256 KiB, one a shader array (4 WGPs)
GL1_BYTES_PER_WGP = 64          # chosen: a line every two cycles for each WGP; four banks of 64 bytes an array (RDNA)
GL2_BYTES = 6 << 20             # specs: 6 MiB
GL2_BYTES_PER_CYCLE = 2048      # discovery: 16 channels; chosen: a line a cycle each, since the links below it carry
                                # 5.3 TB/s (AMD, "Infinity Links"), 2120 bytes a cycle
MALL_BYTES = 96 << 20           # specs: Infinity Cache 96 MB
MALL_BYTES_PER_CYCLE = 1400     # specs: "effective memory bandwidth up to 3500 GB/s" with the Infinity Cache
VRAM_BYTES_PER_CYCLE = 384      # specs: 384 bits at 20 Gbit/s, 960 GB/s; at the shader clock
SCALAR_BYTES = 16 << 10         # specs: L0 scalar cache 16 KiB a WGP
SCALAR_LINE = 64                # ISA, "Scalar Memory": lines of 64 bytes

VECTOR_LATENCY = {
    "l0": 120,          # chosen: between LDS (64) and GL2
    "gl1": 200,         # chosen: likewise
    "gl2": 320,         # LLVM: WriteVMEM
    "mall": 376,        # C&C: 150.3 ns
    "vram": 625,        # chosen: 250 ns, 100 ns beyond the Infinity Cache
}
SCALAR_LATENCY = {
    "l0": 20,           # LLVM: WriteSMEM
    "gl2": 265,         # chosen: as far below "mall" as for vector loads
    "mall": 321,        # C&C: 128.4 ns
    "vram": 570,        # chosen: 100 ns beyond
}

# ---- peaks, for what a kernel achieves: floating-point operations a cycle and CU

FLOPS_PER_CU = {
    "fp32": 256,        # specs: 61.4 TFLOP/s: 96 CUs, 2.5 GHz, two SIMD32, dual issue, two operations an FMA
    "fp16": 512,        # specs: 122.8 TFLOP/s, by WMMA
    "bf16": 512,        # WMMA
    "int8": 512,        # WMMA
    "int4": 1024,       # WMMA
    "fp64": 8,          # specs: 1/32 of fp32
}

# ---- copy engines

SDMA_BYTES_PER_S = {"local": 640e9, "to_host": 28.4e9, "from_host": 29.0e9}
"""Published measurements on a 7900 XTX: 636 to 650 GB/s within VRAM, 28.4 and 29.0 GB/s over PCIe 4.0 x16 (whose
limit after encoding is 31.5 GB/s)."""
SDMA_PACKET_S = 1e-6        # chosen: what a copy packet costs beside its bytes
