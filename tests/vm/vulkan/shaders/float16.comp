#version 460
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int16 : require
#extension GL_EXT_shader_16bit_storage : require
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { f16vec2 a[]; };
layout(std430, binding = 1) buffer B { float16_t b[]; };
void main() {
    uint i = gl_GlobalInvocationID.x, at = 12 * i;
    float16_t x = a[i].x, y = a[i].y;
    precise float16_t sum = x + y, difference = x - y, product = x * y;
    b[at] = sum; b[at + 1] = difference; b[at + 2] = product; b[at + 3] = x > y ? x : -y;
    b[at + 4] = floor(x); b[at + 5] = trunc(x); b[at + 6] = roundEven(x); b[at + 7] = abs(x); b[at + 8] = min(x, y);
    b[at + 9] = max(x, y); b[at + 10] = float16_t(int16_t(x)); b[at + 11] = float16_t(float(x) * 0.5);
}
