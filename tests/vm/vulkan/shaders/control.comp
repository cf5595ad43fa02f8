#version 460
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { uint a[]; };
layout(std430, binding = 1) buffer B { uint b[]; };
uint collatz(uint n) {
    uint steps = 0u;
    while (n > 1u && steps < 500u) { n = (n & 1u) != 0u ? 3u * n + 1u : n >> 1; steps++; }
    return steps;
}
uint pick(uint x) {
    switch (x & 7u) {
    case 0u: return x * 3u;
    case 1u: case 2u: x ^= 0x55u;
    case 3u: return x + 7u;
    case 4u: for (uint i = 0u; i < (x >> 3 & 15u); i++) { if (i == 9u) break; if ((i & 1u) != 0u) continue; x += i; } return x;
    case 5u: if ((x & 64u) != 0u) return 1u; return 2u;
    default: return ~x;
    }
}
void main() {
    uint i = gl_GlobalInvocationID.x;
    b[2 * i] = collatz(a[i] & 0xFFFu);
    b[2 * i + 1] = pick(a[i]);
}
