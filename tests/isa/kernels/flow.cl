// Control flow and calls: switches, nested and divergent loops, early returns, functions that stay functions.

#define NOINLINE __attribute__((noinline))

static uint item(void) {
    return __builtin_amdgcn_workgroup_id_x() * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x();
}

__kernel void dense_switch(__global const int *x, __global int *y, int n) {
    uint i = item();
    if (i >= n) return;
    int v = x[i], r;
    switch (v & 15) {
        case 0: r = v * 3; break;
        case 1: r = v ^ 0x55; break;
        case 2: r = v >> 2; break;
        case 3: r = ~v; break;
        case 4: r = v * v; break;
        case 5: r = v + 1000;               // falls through
        case 6: r = v - 7; break;
        case 7: r = v & 0xff; break;
        case 9: r = v | 0x1000; break;
        case 10: r = -v; break;
        case 11: r = v % 13; break;
        case 14: r = v / 5; break;
        default: r = 42;
    }
    y[i] = r;
}

__kernel void sparse_switch(__global const int *x, __global int *y, int n) {
    uint i = item();
    if (i >= n) return;
    switch (x[i]) {
        case -1000000: y[i] = 1; return;
        case 0: y[i] = 2; break;
        case 17: y[i] = 3; break;
        case 0x7fffffff: y[i] = 4; return;
        default: y[i] = 5;
    }
    y[i] += 100;
}

// Loops in a loop, left and gone on with at different places by different lanes.
__kernel void nested(__global const uint *x, __global uint *y, int n) {
    uint i = item();
    if (i >= n) return;
    uint v = x[i], sum = 0;
    for (uint a = 0; a < (v & 15); a++) {
        if (a == 3 && (v & 16)) continue;
        uint b = 0;
        do {
            if ((a ^ b) == (v >> 8 & 7)) { sum += 1000; break; }
            if (b > 20) goto out;
            sum += a * b;
        } while (++b < (v >> 4 & 31));
    }
out:
    y[i] = sum;
}

__kernel void binary_search(__global const uint *sorted, __global const uint *x, __global uint *y, int length, int n) {
    uint i = item();
    if (i >= n) return;
    uint low = 0, high = length;
    while (low < high) {
        uint middle = (low + high) / 2;
        if (sorted[middle] < x[i]) low = middle + 1; else high = middle;
    }
    y[i] = low;
}

NOINLINE static uint gcd(uint a, uint b) {
    while (b) { uint t = a % b; a = b; b = t; }
    return a;
}

NOINLINE static ulong power(uint base, uint exponent, uint modulus) {
    ulong result = 1, factor = base % modulus;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1) result = result * factor % modulus;
        factor = factor * factor % modulus;
    }
    return result;
}

NOINLINE static void both(uint a, uint b, uint *divisor, ulong *remainder) {
    *divisor = gcd(a, b);
    *remainder = power(a, b & 255, 1000003);
}

// Calls within calls, under a condition, with pointers to private memory.
__kernel void calls(__global const uint *a, __global const uint *b, __global uint *divisors, __global ulong *remainders,
                    int n) {
    uint i = item();
    if (i >= n) return;
    uint divisor = 0;
    ulong remainder = 0;
    if (a[i] & 1) both(a[i], b[i], &divisor, &remainder);
    else remainder = power(b[i], 3, 65537);
    divisors[i] = divisor;
    remainders[i] = remainder;
}

NOINLINE static float step_up(float x) { return x + 1.0f; }
NOINLINE static float step_down(float x) { return x - 2.0f; }
NOINLINE static float halve(float x) { return x * 0.5f; }

// Functions chosen at run time, by every lane for itself.
__kernel void pointers(__global const uint *x, __global float *y, int n) {
    uint i = item();
    if (i >= n) return;
    float v = i;
    for (uint k = 0; k < 8; k++) {
        uint which = x[i] >> 2 * k & 3;
        v = which == 0 ? step_up(v) : which == 1 ? step_down(v) : which == 2 ? halve(v) : v;
    }
    y[i] = v;
}
