#version 460
// Sums whose products are not rounded on their own; lavapipe rounds them, so exact sums are computed by the test.
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { vec4 a[]; };
layout(std430, binding = 1) buffer B { float b[]; };
layout(std430, binding = 2) buffer C { dvec4 c[]; };
layout(std430, binding = 3) buffer D { double d[]; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    b[i] = fma(a[i].x, a[i].y, a[i].z);
    d[i] = fma(c[i].x, c[i].y, c[i].z);
}
