#version 460
layout(local_size_x = 32) in;
layout(std430, binding = 0) buffer A { uint a[]; };             // 16 words a message block
layout(std430, binding = 1) buffer B { uint b[]; };             // 8 words a digest state
layout(std430, binding = 2) buffer K { uint k[64]; };
uint turn(uint x, uint n) { return x >> n | x << (32u - n); }
void main() {
    uint i = gl_GlobalInvocationID.x, w[64];
    for (uint t = 0u; t < 16u; t++) w[t] = a[16u * i + t];
    for (uint t = 16u; t < 64u; t++)
        w[t] = w[t - 16u] + (turn(w[t - 15u], 7u) ^ turn(w[t - 15u], 18u) ^ w[t - 15u] >> 3) + w[t - 7u]
             + (turn(w[t - 2u], 17u) ^ turn(w[t - 2u], 19u) ^ w[t - 2u] >> 10);
    uint h[8] = uint[8](0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au, 0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u);
    uint v[8] = h;
    for (uint t = 0u; t < 64u; t++) {
        uint one = v[7] + (turn(v[4], 6u) ^ turn(v[4], 11u) ^ turn(v[4], 25u)) + (v[4] & v[5] ^ ~v[4] & v[6]) + k[t] + w[t];
        uint two = (turn(v[0], 2u) ^ turn(v[0], 13u) ^ turn(v[0], 22u)) + (v[0] & v[1] ^ v[0] & v[2] ^ v[1] & v[2]);
        v[7] = v[6]; v[6] = v[5]; v[5] = v[4]; v[4] = v[3] + one; v[3] = v[2]; v[2] = v[1]; v[1] = v[0]; v[0] = one + two;
    }
    for (uint t = 0u; t < 8u; t++) b[8u * i + t] = h[t] + v[t];
}
