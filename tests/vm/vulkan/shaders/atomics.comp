#version 460
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { uint a[]; };
layout(std430, binding = 1) buffer B { uint sum, low, high, all, any, odd, count, loops; int slow, shigh; uint taken[256]; };
void main() {
    uint x = a[gl_GlobalInvocationID.x];
    atomicAdd(sum, x); atomicMin(low, x); atomicMax(high, x); atomicAnd(all, x | 0xFFu); atomicOr(any, x); atomicXor(odd, x);
    atomicMin(slow, int(x)); atomicMax(shigh, int(x));
    uint place = atomicAdd(count, 1u);
    atomicExchange(taken[place & 255u], 1u);
    while ((gl_GlobalInvocationID.x & 31u) == 5u) {         // an increment by compare and exchange
        uint seen = loops;
        if (atomicCompSwap(loops, seen, seen + 1u) == seen) break;
    }
}
