#version 460
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
layout(local_size_x = 32) in;
layout(std430, binding = 0) buffer A { u64vec2 a[]; };
layout(std430, binding = 1) buffer B { uint64_t b[]; };
void main() {
    uint i = gl_GlobalInvocationID.x, at = 16 * i;
    uint64_t x = a[i].x, y = a[i].y | 1ul;
    int64_t sx = int64_t(x), sy = int64_t(y);
    int n = int(uint(y) & 63u);
    b[at] = x + y; b[at + 1] = x - y; b[at + 2] = x * y; b[at + 3] = x / y; b[at + 4] = x % y;
    b[at + 5] = uint64_t(sx / sy); b[at + 6] = x << n; b[at + 7] = x >> n; b[at + 8] = uint64_t(sx >> n);
    b[at + 9] = min(x, y); b[at + 10] = uint64_t(max(sx, sy)); b[at + 11] = ~x & y; b[at + 12] = x ^ y;
    b[at + 13] = uint64_t(x < y) | uint64_t(sx < sy) << 1; b[at + 14] = uint64_t(uint(x)) * uint64_t(uint(y));
    b[at + 15] = uint64_t(abs(sx));
}
