// Functions as a library would have them, out of what the hardware offers: fp32, fp64 and fp16.

#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION cl_khr_fp64 : enable

static uint item(void) {
    return __builtin_amdgcn_workgroup_id_x() * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x();
}

// e^x by the hardware's exp2 and one by a polynomial; log and sine likewise.
__kernel void functions(__global const float *x, __global float *y, int n) {
    uint i = item();
    if (i >= n) return;
    float v = x[i], r = v * 1.44269504f;
    y[6 * i] = __builtin_amdgcn_exp2f(r);
    float whole = __builtin_rintf(r), f = (r - whole) * 0.693147181f;
    float p = 1.0f + f * (1.0f + f * (0.5f + f * (1.0f / 6 + f * (1.0f / 24 + f * (1.0f / 120)))));
    y[6 * i + 1] = __builtin_amdgcn_ldexpf(p, (int)whole);
    float a = __builtin_fabsf(v) + 0.5f;
    y[6 * i + 2] = __builtin_amdgcn_logf(a) * 0.693147181f;
    y[6 * i + 3] = __builtin_amdgcn_sinf(v * 0.159154943f);
    y[6 * i + 4] = __builtin_amdgcn_rsqf(a);
    y[6 * i + 5] = __builtin_amdgcn_fractf(v) + __builtin_amdgcn_frexp_mantf(v) + __builtin_amdgcn_frexp_expf(v);
}

// Newton's method to the last place, and a sum of many terms.
__kernel void double_functions(__global const double *x, __global double *y, int n) {
    uint i = item();
    if (i >= n) return;
    double v = __builtin_fabs(x[i]) + 0.25, root = v;
    for (int k = 0; k < 60; k++) {
        double next = 0.5 * (root + v / root);
        if (next == root) break;
        root = next;
    }
    double sum = 0, term = 1;
    for (int k = 1; k < 30; k++) { sum += term; term *= x[i] / k; }
    y[4 * i] = root;
    y[4 * i + 1] = sum;
    y[4 * i + 2] = __builtin_floor(x[i]) + __builtin_trunc(x[i] * 3) + __builtin_ceil(x[i] * 7) + __builtin_rint(x[i] * 9);
    y[4 * i + 3] = __builtin_fma(x[i], x[i], -v) + __builtin_fmin(x[i], v) * __builtin_fmax(x[i], -1.0);
}

__kernel void half_polynomial(__global const half *x, __global half *y, int n) {
    uint i = item();
    if (i >= n) return;
    half2 v = ((__global const half2 *)x)[i], r = (half2)(0.25h);
    for (int k = 0; k < 5; k++) r = __builtin_elementwise_fma(r, v, (half2)(0.5h));
    ((__global half2 *)y)[i] = __builtin_elementwise_max(r, -r);
}

__kernel void wide_integers(__global const ulong *a, __global const ulong *b, __global ulong *y, int n) {
    uint i = item();
    if (i >= n) return;
    ulong x = a[i], z = b[i];
    ulong low = x * z;
    ulong high = (x >> 32) * (z >> 32) + ((x >> 32) * (z & 0xffffffff) >> 32) + ((x & 0xffffffff) * (z >> 32) >> 32);
    y[4 * i] = low;
    y[4 * i + 1] = high;
    y[4 * i + 2] = __builtin_popcountl(x) + 64 * __builtin_clzl(x | 1) + 4096 * __builtin_ctzl(z | 1ul << 63);
    y[4 * i + 3] = x << (z & 63) | x >> (64 - (z & 63) & 63);
}

__kernel void conversions(__global const double *x, __global long *whole, __global ulong *natural, __global float *f,
                          __global half *h, int n) {
    uint i = item();
    if (i >= n) return;
    whole[i] = (long)(x[i] * 1e12);
    natural[i] = (ulong)(__builtin_fabs(x[i]) * 1e15);
    f[i] = (float)whole[i] + (float)natural[i];
    h[i] = (half)(float)x[i];
}
