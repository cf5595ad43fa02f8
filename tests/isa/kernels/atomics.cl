// Atomics of every kind: LDS and global, with and without the old value, 32 and 64 bits, floats, compare and swap.

#pragma OPENCL EXTENSION cl_khr_fp64 : enable

#define RELAXED __ATOMIC_RELAXED
#define WORKGROUP 3
#define AGENT 4

static uint item(void) {
    return __builtin_amdgcn_workgroup_id_x() * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x();
}

// Each work-item's contribution to a word of its group; what came before is kept, to be checked as a set.
__kernel void lds_integers(__global const uint *x, __global uint *out, __global uint *old) {
    __local uint word[8];
    uint l = __builtin_amdgcn_workitem_id_x(), i = item();
    if (l < 8) word[l] = l == 3 || l == 5 ? 0xffffffffu : 0;
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    old[i] = __hip_atomic_fetch_add(&word[0], 1, RELAXED, WORKGROUP);
    __hip_atomic_fetch_add(&word[1], x[i], RELAXED, WORKGROUP);
    __hip_atomic_fetch_max(&word[2], x[i], RELAXED, WORKGROUP);
    __hip_atomic_fetch_min(&word[3], x[i], RELAXED, WORKGROUP);
    __hip_atomic_fetch_or(&word[4], x[i], RELAXED, WORKGROUP);
    __hip_atomic_fetch_and(&word[5], x[i], RELAXED, WORKGROUP);
    __hip_atomic_fetch_xor(&word[6], x[i], RELAXED, WORKGROUP);
    __hip_atomic_fetch_sub(&word[7], x[i], RELAXED, WORKGROUP);
    __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "workgroup");
    __builtin_amdgcn_s_barrier();
    if (l < 8) out[8 * __builtin_amdgcn_workgroup_id_x() + l] = word[l];
}

__kernel void lds_wide(__global const ulong *x, __global ulong *out, __global ulong *old) {
    __local ulong word[3];
    uint l = __builtin_amdgcn_workitem_id_x(), i = item();
    if (l < 3) word[l] = 0;
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    old[i] = __hip_atomic_fetch_add(&word[0], 1ul << 33, RELAXED, WORKGROUP);
    __hip_atomic_fetch_max(&word[1], x[i], RELAXED, WORKGROUP);
    __hip_atomic_fetch_xor(&word[2], x[i], RELAXED, WORKGROUP);
    __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "workgroup");
    __builtin_amdgcn_s_barrier();
    if (l < 3) out[3 * __builtin_amdgcn_workgroup_id_x() + l] = word[l];
}

// Whole numbers in floats: sums do not depend on the order.
__kernel void floats(__global const float *x, __global float *out, __global float *lds_out) {
    __local float word;
    uint i = item();
    if (!__builtin_amdgcn_workitem_id_x()) word = 0;
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __hip_atomic_fetch_add(&out[0], x[i], RELAXED, AGENT);
    __hip_atomic_fetch_add(&word, x[i], RELAXED, WORKGROUP);
    __hip_atomic_fetch_max(&out[1], x[i], RELAXED, AGENT);
    __hip_atomic_fetch_min(&out[2], x[i], RELAXED, AGENT);
    __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "workgroup");
    __builtin_amdgcn_s_barrier();
    if (!__builtin_amdgcn_workitem_id_x()) lds_out[__builtin_amdgcn_workgroup_id_x()] = word;
}

__kernel void doubles(__global const double *x, __global double *out) {
    __hip_atomic_fetch_add(&out[0], x[item()], RELAXED, AGENT);
}

// A list built by exchange: every item is behind another, and the last is in the head.
__kernel void exchange(__global uint *head, __global uint *behind) {
    uint i = item();
    behind[i] = __hip_atomic_exchange(head, i, RELAXED, AGENT);
}

__kernel void exchange_wide(__global ulong *head, __global ulong *behind) {
    uint i = item();
    behind[i] = __hip_atomic_exchange(head, (ulong)i << 32 | 7, RELAXED, AGENT);
}

// Multiplication by compare and swap; the product of odd numbers modulo 2^32 does not depend on the order.
__kernel void multiply(__global const uint *x, __global uint *out, __global ulong *wide) {
    uint i = item(), seen = out[0];
    while (!__hip_atomic_compare_exchange_strong(&out[0], &seen, seen * x[i], RELAXED, RELAXED, AGENT)) {}
    ulong wide_seen = wide[0];
    while (!__hip_atomic_compare_exchange_strong(&wide[0], &wide_seen, wide_seen * x[i], RELAXED, RELAXED, AGENT)) {}
}
