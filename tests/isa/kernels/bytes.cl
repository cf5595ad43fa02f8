// Small and odd accesses: bytes, shorts, halves, vectors of three, structs that are packed, LDS and private memory too.

#pragma OPENCL EXTENSION cl_khr_fp16 : enable

static uint item(void) {
    return __builtin_amdgcn_workgroup_id_x() * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x();
}

__kernel void widen(__global const char *a, __global const uchar *b, __global const short *c, __global const ushort *d,
                    __global long *out, int n) {
    uint i = item();
    if (i < n) out[i] = (long)a[i] * 1000003 + (long)b[i] * 10007 + (long)c[i] * 101 + d[i];
}

__kernel void narrow(__global const int *x, __global char *a, __global ushort *b, int n) {
    uint i = item();
    if (i >= n) return;
    a[i] = x[i] >> 3;
    b[i] = x[i] >> 7;
}

__kernel void reverse(__global const uchar *x, __global uchar *y, int n) {
    __local uchar block[256];
    uint l = __builtin_amdgcn_workitem_id_x(), i = item();
    block[l] = i < n ? x[i] : 0;
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    if (i < n) y[i] = block[255 - l];
}

__kernel void shorts_in_lds(__global const ushort *x, __global ushort *y) {
    __local ushort block[257];
    uint l = __builtin_amdgcn_workitem_id_x(), i = item();
    block[l + 1] = x[i];
    if (!l) block[0] = 0x1234;
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    y[i] = block[l] ^ block[l + 1];
}

typedef struct __attribute__((packed)) { uchar tag; uint value; ushort more; uchar tail[3]; } Record;

// Ten bytes a record: nothing is aligned.
__kernel void records(__global const Record *x, __global uint *y, int n) {
    uint i = item();
    if (i < n) y[i] = x[i].tag * 7u + x[i].value * 3u + x[i].more + x[i].tail[1];
}

__kernel void threes(__global const float3 *x, __global float *packed, int n) {
    uint i = item();
    if (i >= n) return;
    float3 v = x[i];
    packed[3 * i] = v.z;
    packed[3 * i + 1] = v.x + v.y;
    packed[3 * i + 2] = v.y;
}

// A table of bytes in private memory, read and written where data says.
__kernel void private_bytes(__global const uchar *x, __global uchar *y, int n) {
    uint i = item();
    if (i >= n) return;
    uchar table[64];
    for (int k = 0; k < 64; k++) table[k] = k * 3;
    for (int k = 0; k < 16; k++) {
        uchar at = x[i] + k * x[i] & 63;
        table[at] = table[at + 7 & 63] + k;
    }
    uchar sum = 0;
    for (int k = 0; k < 64; k++) sum = sum * 5 + table[k];
    y[i] = sum;
}

__kernel void halves(__global const half *x, __global const uchar *pick, __global half *y, int n) {
    uint i = item();
    if (i >= n) return;
    half4 v = ((__global const half4 *)x)[i];
    half chosen = pick[i] & 1 ? v.x : v.w;
    y[i] = chosen + v.y * v.z;
}
