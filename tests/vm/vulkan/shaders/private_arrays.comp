#version 460
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { uint a[]; };
layout(std430, binding = 1) buffer B { uint b[]; };
void main() {                                           // dynamic indices: scratch memory
    uint i = gl_GlobalInvocationID.x, table[96], seed = a[i];
    for (uint k = 0u; k < 96u; k++) table[k] = k * 7u + (seed & 31u);
    for (uint k = 0u; k < 64u; k++) { seed = seed * 1664525u + 1013904223u; table[seed >> 16 & 63u] ^= table[seed >> 24 & 31u] + k; }
    uint sum = 0u;
    for (uint k = 0u; k < 96u; k++) sum = sum * 31u + table[k];
    b[i] = sum;
}
