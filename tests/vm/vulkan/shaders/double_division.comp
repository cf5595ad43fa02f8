#version 460
layout(local_size_x = 32) in;
layout(std430, binding = 0) buffer A { dvec2 a[]; };
layout(std430, binding = 1) buffer B { double b[]; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    double x = a[i].x, y = abs(a[i].y) + 0.125lf;
    b[4 * i] = x / y; b[4 * i + 1] = sqrt(y); b[4 * i + 2] = inversesqrt(y); b[4 * i + 3] = mod(x, y);
}
