// Matrix tiles, one wave a workgroup: D = A x B + C.

#pragma OPENCL EXTENSION cl_khr_fp16 : enable

typedef half half16_t __attribute__((ext_vector_type(16)));
typedef short short16_t __attribute__((ext_vector_type(16)));
typedef float float8_t __attribute__((ext_vector_type(8)));
typedef int int8_t_ __attribute__((ext_vector_type(8)));
typedef int int4_t __attribute__((ext_vector_type(4)));
typedef int int2_t __attribute__((ext_vector_type(2)));

__kernel void f32_f16(__global const half *a, __global const half *b, __global float *c) {
    uint l = __builtin_amdgcn_workitem_id_x(), r = l & 15;
    half16_t x, y;
    for (int k = 0; k < 16; k++) { x[k] = a[16 * r + k]; y[k] = b[16 * k + r]; }
    float8_t acc;
    for (int i = 0; i < 8; i++) acc[i] = c[16 * (2 * i + l / 16) + r];
    acc = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(x, y, acc);
    for (int i = 0; i < 8; i++) c[16 * (2 * i + l / 16) + r] = acc[i];
}

__kernel void f32_bf16(__global const short *a, __global const short *b, __global float *c) {
    uint l = __builtin_amdgcn_workitem_id_x(), r = l & 15;
    short16_t x, y;
    for (int k = 0; k < 16; k++) { x[k] = a[16 * r + k]; y[k] = b[16 * k + r]; }
    float8_t acc;
    for (int i = 0; i < 8; i++) acc[i] = c[16 * (2 * i + l / 16) + r];
    acc = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(x, y, acc);
    for (int i = 0; i < 8; i++) c[16 * (2 * i + l / 16) + r] = acc[i];
}

__kernel void f16_f16(__global const half *a, __global const half *b, __global half *c) {
    uint l = __builtin_amdgcn_workitem_id_x(), r = l & 15;
    half16_t x, y, acc = (half16_t)(0);
    for (int k = 0; k < 16; k++) { x[k] = a[16 * r + k]; y[k] = b[16 * k + r]; }
    for (int i = 0; i < 8; i++) acc[2 * i + 1] = c[16 * (2 * i + l / 16) + r];
    acc = __builtin_amdgcn_wmma_f16_16x16x16_f16_w32(x, y, acc, true);
    for (int i = 0; i < 8; i++) c[16 * (2 * i + l / 16) + r] = acc[2 * i + 1];
}

__kernel void i32_iu8(__global const int *a, __global const int *b, __global int *c) {
    uint l = __builtin_amdgcn_workitem_id_x(), r = l & 15;
    int4_t x, y;
    for (int k = 0; k < 4; k++) { x[k] = a[4 * r + k]; y[k] = b[4 * r + k]; }       // b is given by columns
    int8_t_ acc;
    for (int i = 0; i < 8; i++) acc[i] = c[16 * (2 * i + l / 16) + r];
    acc = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, x, false, y, acc, false);
    for (int i = 0; i < 8; i++) c[16 * (2 * i + l / 16) + r] = acc[i];
}

__kernel void i32_iu4(__global const int *a, __global const int *b, __global int *c) {
    uint l = __builtin_amdgcn_workitem_id_x(), r = l & 15;
    int2_t x, y;
    for (int k = 0; k < 2; k++) { x[k] = a[2 * r + k]; y[k] = b[2 * r + k]; }
    int8_t_ acc;
    for (int i = 0; i < 8; i++) acc[i] = c[16 * (2 * i + l / 16) + r];
    acc = __builtin_amdgcn_wmma_i32_16x16x16_iu4_w32(false, x, true, y, acc, true);
    for (int i = 0; i < 8; i++) c[16 * (2 * i + l / 16) + r] = acc[i];
}
