// Matrix tiles by waves of 64 lanes: four rows a register where waves of 32 have two.

#pragma OPENCL EXTENSION cl_khr_fp16 : enable

typedef half half16_t __attribute__((ext_vector_type(16)));

__kernel void f32_f16(__global const half *a, __global const half *b, __global float *c) {
    uint l = __builtin_amdgcn_workitem_id_x(), r = l & 15;
    half16_t x, y;
    for (int k = 0; k < 16; k++) { x[k] = a[16 * r + k]; y[k] = b[16 * k + r]; }
    float4 acc;
    for (int i = 0; i < 4; i++) acc[i] = c[16 * (4 * i + l / 16) + r];
    acc = __builtin_amdgcn_wmma_f32_16x16x16_f16_w64(x, y, acc);
    for (int i = 0; i < 4; i++) c[16 * (4 * i + l / 16) + r] = acc[i];
}

// Sums over rows, across lanes, by DPP: each lane of sixteen gets what those before it hold.
__kernel void prefix(__global const int *x, __global int *y) {
    uint l = __builtin_amdgcn_workitem_id_x();
    int v = x[l];
    v += __builtin_amdgcn_update_dpp(0, v, 0x111, 0xf, 0xf, true);       // row_shr:1
    v += __builtin_amdgcn_update_dpp(0, v, 0x112, 0xf, 0xf, true);
    v += __builtin_amdgcn_update_dpp(0, v, 0x114, 0xf, 0xf, true);
    v += __builtin_amdgcn_update_dpp(0, v, 0x118, 0xf, 0xf, true);
    y[2 * l] = v;
    y[2 * l + 1] = __builtin_amdgcn_update_dpp(-1, x[l], 0x15f, 0xf, 0xf, false);       // row_share:15
}
