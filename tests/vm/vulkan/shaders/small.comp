#version 460
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int16 : require
#extension GL_EXT_shader_8bit_storage : require
#extension GL_EXT_shader_16bit_storage : require
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { i8vec2 a[]; };
layout(std430, binding = 1) buffer B { int8_t b[]; };
layout(std430, binding = 2) buffer C { i16vec2 c[]; };
layout(std430, binding = 3) buffer D { int16_t d[]; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    int8_t x = a[i].x, y = a[i].y;
    int16_t u = c[i].x, v = c[i].y;
    b[8 * i] = x + y; b[8 * i + 1] = x * y; b[8 * i + 2] = x >> int8_t(2); b[8 * i + 3] = min(x, y);
    b[8 * i + 4] = ~x; b[8 * i + 5] = int8_t(uint8_t(x) >> 3); b[8 * i + 6] = x - y; b[8 * i + 7] = max(x, y);
    d[8 * i] = u + v; d[8 * i + 1] = u * v; d[8 * i + 2] = u >> int16_t(5); d[8 * i + 3] = min(u, v);
    d[8 * i + 4] = u << int16_t(3); d[8 * i + 5] = int16_t(uint16_t(u) / uint16_t(uint16_t(v) | uint16_t(1)));
    d[8 * i + 6] = abs(u); d[8 * i + 7] = int16_t(x) * int16_t(y);
}
