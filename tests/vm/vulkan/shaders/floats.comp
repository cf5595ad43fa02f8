#version 460
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { vec2 a[]; };
layout(std430, binding = 1) buffer B { float b[]; };
void main() {
    uint i = gl_GlobalInvocationID.x, at = 24 * i;
    float x = a[i].x, y = a[i].y;
    precise float sum = x + y, difference = x - y, product = x * y;
    b[at] = sum; b[at + 1] = difference; b[at + 2] = product; b[at + 3] = x > y ? x : -y;
    b[at + 4] = floor(x); b[at + 5] = ceil(x); b[at + 6] = trunc(x); b[at + 7] = roundEven(x);
    b[at + 8] = fract(x); b[at + 9] = abs(x); b[at + 10] = sign(x); b[at + 11] = min(x, y); b[at + 12] = max(x, y);
    b[at + 13] = clamp(x, -1.0, 1.0); b[at + 14] = float(int(x)); b[at + 15] = float(uint(abs(x) * 16.0));
    int exponent; float part = frexp(x, exponent);
    b[at + 16] = part; b[at + 17] = float(exponent); b[at + 18] = ldexp(y, 3);
    b[at + 19] = uintBitsToFloat(floatBitsToUint(x) ^ 0x00100000u);
    b[at + 20] = isnan(x) ? 1.0 : isinf(x) ? 2.0 : 3.0; b[at + 21] = step(x, y);
    uint half2 = packHalf2x16(vec2(float(int(clamp(x, -99.0, 99.0))), y))  /* exact: the rounding is anybody's */; b[at + 22] = unpackHalf2x16(half2).x;
    b[at + 23] = uintBitsToFloat(packUnorm4x8(vec4(x, y, 0.25, 1.0)) & 0x3F7F7F7Fu);
}
