#version 460
layout(local_size_x = 32) in;
layout(std430, binding = 0) buffer A { dvec2 a[]; };
layout(std430, binding = 1) buffer B { double b[]; };
void main() {
    uint i = gl_GlobalInvocationID.x, at = 16 * i;
    double x = a[i].x, y = a[i].y;
    precise double sum = x + y, difference = x - y, product = x * y;
    b[at] = sum; b[at + 1] = difference; b[at + 2] = product; b[at + 3] = x > y ? x : -y;
    b[at + 4] = floor(x); b[at + 5] = ceil(x); b[at + 6] = trunc(x); b[at + 7] = roundEven(x); b[at + 8] = abs(x);
    b[at + 9] = min(x, y); b[at + 10] = max(x, y); b[at + 11] = double(int(x)); b[at + 12] = double(float(x));
    b[at + 13] = x < y ? 1.0lf : 2.0lf; b[at + 14] = double(uint(abs(x)));
    b[at + 15] = packDouble2x32(unpackDouble2x32(x) ^ uvec2(1u, 0u));
}
