// Kernels that exercise what compilers emit: control flow, LDS, barriers, atomics, scratch, i64, fp16, fp64, calls.

#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION cl_khr_fp64 : enable

#define WORKGROUP 3     // scopes of the __hip_atomic builtins
#define AGENT 4

#if __AMDGCN_WAVEFRONT_SIZE == 64
#define BALLOT __builtin_amdgcn_ballot_w64
#else
#define BALLOT __builtin_amdgcn_ballot_w32
#endif

static uint item(void) {
    return __builtin_amdgcn_workgroup_id_x() * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x();
}

__kernel void saxpy(__global const float *x, __global float *y, float a, int n) {
    uint i = item();
    if (i < n) y[i] = a * x[i] + y[i];
}

__kernel void collatz(__global const uint *start, __global uint *steps, int n) {
    uint i = item();
    if (i >= n) return;
    uint x = start[i], count = 0;
    while (x != 1) {
        x = x & 1 ? 3 * x + 1 : x >> 1;
        if (++count > 1000) break;
    }
    steps[i] = count;
}

__kernel void divide_f32(__global const float *a, __global const float *b, __global float *c, int n) {
    uint i = item();
    if (i < n) c[i] = a[i] / b[i];
}

__kernel void divide_f64(__global const double *a, __global const double *b, __global double *c, int n) {
    uint i = item();
    if (i < n) c[i] = a[i] / b[i];
}

__kernel void root_f32(__global const float *a, __global float *c, int n) {
    uint i = item();
    if (i < n) c[i] = __builtin_sqrtf(a[i]);
}

__kernel void root_f64(__global const double *a, __global double *c, int n) {
    uint i = item();
    if (i < n) c[i] = __builtin_sqrt(a[i]);
}

__kernel void divide_i32(__global const int *a, __global const int *b, __global int *q, __global int *r, int n) {
    uint i = item();
    if (i < n) { q[i] = a[i] / b[i]; r[i] = a[i] % b[i]; }
}

__kernel void divide_u64(__global const ulong *a, __global const ulong *b, __global ulong *q, __global ulong *r, int n) {
    uint i = item();
    if (i < n) { q[i] = a[i] / b[i]; r[i] = a[i] % b[i]; }
}

__kernel void arithmetic_i64(__global const long *a, __global const long *b, __global long *c, int n) {
    uint i = item();
    if (i >= n) return;
    long x = a[i], y = b[i];
    c[4 * i] = x * y + (x >> (y & 63));
    c[4 * i + 1] = (x << (y & 31)) ^ (long)((ulong)y >> (x & 63));
    c[4 * i + 2] = x < y ? x - y : y - x;
    c[4 * i + 3] = (ulong)x > (ulong)y ? ~x : -y;
}

__kernel void half_math(__global const half *a, __global const half *b, __global half *c, int n) {
    uint i = item();
    if (i >= n) return;
    half x = a[i], y = b[i];
    c[3 * i] = x + y;
    c[3 * i + 1] = x * y - x;
    c[3 * i + 2] = x < y ? x : (half)((float)y * 0.5f);
}

__kernel void half2_math(__global const half2 *a, __global const half2 *b, __global half2 *c, int n) {
    uint i = item();
    if (i < n) c[i] = a[i] * b[i] + a[i];
}

__kernel void double_math(__global const double *a, __global const double *b, __global double *c, int n) {
    uint i = item();
    if (i >= n) return;
    c[2 * i] = __builtin_fma(a[i], b[i], a[i]);
    c[2 * i + 1] = a[i] * b[i] - b[i] + (double)(int)a[i];
}

__kernel void conversions(__global const float *a, __global int *to_int, __global uint *to_uint, __global float *back,
                          __global double *wide, __global uchar *bytes, int n) {
    uint i = item();
    if (i >= n) return;
    to_int[i] = (int)a[i];
    to_uint[i] = (uint)__builtin_fabsf(a[i]);
    back[i] = (float)(to_int[i] * 3) + (float)to_uint[i];
    wide[i] = (double)a[i] * 1.5;
    bytes[i] = (uchar)to_int[i];
}

__kernel void reduce(__global const float *x, __global float *sums) {
    __local float part[256];
    uint l = __builtin_amdgcn_workitem_id_x();
    part[l] = x[item()];
    for (uint step = 128; step; step >>= 1) {
        __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
        __builtin_amdgcn_s_barrier();
        __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
        if (l < step) part[l] += part[l + step];
    }
    if (l == 0) sums[__builtin_amdgcn_workgroup_id_x()] = part[0];
}

#define TILE 16
__kernel void matmul(__global const float *a, __global const float *b, __global float *c, int n) {
    __local float ta[TILE][TILE], tb[TILE][TILE];
    uint x = __builtin_amdgcn_workitem_id_x(), y = __builtin_amdgcn_workitem_id_y();
    uint col = __builtin_amdgcn_workgroup_id_x() * TILE + x, row = __builtin_amdgcn_workgroup_id_y() * TILE + y;
    float sum = 0;
    for (int k = 0; k < n; k += TILE) {
        ta[y][x] = a[row * n + k + x];
        tb[y][x] = b[(k + y) * n + col];
        __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
        __builtin_amdgcn_s_barrier();
        __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
        for (int i = 0; i < TILE; i++) sum = __builtin_fmaf(ta[y][i], tb[i][x], sum);
        __builtin_amdgcn_s_barrier();
    }
    c[row * n + col] = sum;
}

__kernel void histogram(__global const uchar *data, __global uint *bins, int n) {
    __local uint local_bins[256];
    uint l = __builtin_amdgcn_workitem_id_x();
    local_bins[l] = 0;
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    uint i = item();
    if (i < n) __hip_atomic_fetch_add(&local_bins[data[i]], 1u, __ATOMIC_RELAXED, WORKGROUP);
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
    if (local_bins[l]) __hip_atomic_fetch_add(&bins[l], local_bins[l], __ATOMIC_RELAXED, AGENT);
}

__kernel void atomics(__global const int *x, __global int *out, __global ulong *wide, int n) {
    uint i = item();
    if (i >= n) return;
    __hip_atomic_fetch_min(&out[0], x[i], __ATOMIC_RELAXED, AGENT);
    __hip_atomic_fetch_max(&out[1], x[i], __ATOMIC_RELAXED, AGENT);
    __hip_atomic_fetch_xor(&out[2], x[i], __ATOMIC_RELAXED, AGENT);
    __hip_atomic_fetch_or(&out[3], x[i], __ATOMIC_RELAXED, AGENT);
    __hip_atomic_fetch_and(&out[4], x[i], __ATOMIC_RELAXED, AGENT);
    __hip_atomic_fetch_add(&wide[0], (ulong)(uint)x[i] << 7, __ATOMIC_RELAXED, AGENT);
    // An increment by compare-and-swap, so that every lane succeeds once.
    int old = __hip_atomic_load(&out[5], __ATOMIC_RELAXED, AGENT);
    while (!__hip_atomic_compare_exchange_strong(&out[5], &old, old + 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED,
                                                 AGENT)) {}
}

__kernel void ticket(__global uint *counter, __global uint *taken, int n) {
    uint i = item();
    if (i < n) taken[i] = __hip_atomic_fetch_add(counter, 1u, __ATOMIC_RELAXED, AGENT);
}

__kernel void scratch_sort(__global const int *x, __global int *y, int n) {
    uint i = item();
    if (i >= n) return;
    int v[16];
    for (int k = 0; k < 16; k++) v[k] = x[16 * i + k];
    for (int k = 1; k < 16; k++) {
        int key = v[k], j = k - 1;
        while (j >= 0 && v[j] > key) { v[j + 1] = v[j]; j--; }
        v[j + 1] = key;
    }
    for (int k = 0; k < 16; k++) y[16 * i + k] = v[(k * 7) & 15];
}

__kernel void generic_pointers(__global int *out, __global int *data, int n) {
    __local int shared[64];
    int mine[4];
    uint l = __builtin_amdgcn_workitem_id_x();
    shared[l] = l * 3;
    for (int k = 0; k < 4; k++) mine[k] = l + k;
    __builtin_amdgcn_s_barrier();
    int *p = l % 3 == 0 ? (int *)&shared[l] : l % 3 == 1 ? (int *)&mine[l & 3] : (int *)&data[l];
    *p += 1000;
    out[l] = *p;
}

__attribute__((noinline)) static int gcd(int a, int b) {
    while (b) { int t = a % b; a = b; b = t; }
    return a;
}

__kernel void calls(__global const int *a, __global const int *b, __global int *c, int n) {
    uint i = item();
    if (i < n) c[i] = gcd(a[i], b[i]) + gcd(a[i], 360);
}

__kernel void cross_lane(__global const int *x, __global int *y) {
    uint l = __builtin_amdgcn_workitem_id_x();
    int v = x[l];
    y[8 * l + 0] = __builtin_amdgcn_ds_bpermute(4 * (l ^ 5), v);
    y[8 * l + 1] = __builtin_amdgcn_update_dpp(-1, v, 0x111, 0xf, 0xf, false);      // row_shr:1
    y[8 * l + 2] = __builtin_amdgcn_mov_dpp(v, 0x1b, 0xf, 0xf, true);               // quad_perm reversed
    y[8 * l + 3] = __builtin_amdgcn_readfirstlane(v);
    y[8 * l + 4] = __builtin_amdgcn_ds_swizzle(v, 0x041f);                          // xor 1
    y[8 * l + 5] = __builtin_amdgcn_permlanex16(v, v, 0x76543210, 0xfedcba98, false, false);
    y[8 * l + 6] = __builtin_amdgcn_mov_dpp8(v, 0x77d39c % 0x1000000);
    y[8 * l + 7] = __builtin_popcountl(BALLOT(v > 0));
}

__kernel void bits(__global const uint *x, __global uint *y, int n) {
    uint i = item();
    if (i >= n) return;
    uint v = x[i];
    y[8 * i + 0] = __builtin_popcount(v);
    y[8 * i + 1] = v ? __builtin_clz(v) : 32;
    y[8 * i + 2] = v ? __builtin_ctz(v) : 32;
    y[8 * i + 3] = __builtin_bitreverse32(v);
    y[8 * i + 4] = (v >> 5 & 0x7f) | (v << 20);
    y[8 * i + 5] = __builtin_rotateleft32(v, i & 31);
    y[8 * i + 6] = __builtin_bswap32(v);
    y[8 * i + 7] = (uint)(((ulong)v * 0x9e3779b9u) >> 32);
}
