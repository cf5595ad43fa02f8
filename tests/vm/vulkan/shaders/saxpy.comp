#version 460
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { float a[]; };
layout(std430, binding = 1) buffer B { float b[]; };
layout(push_constant) uniform Push { float scale; float offset; uint count; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i < count) {
        precise float product = a[i] * scale;
        precise float sum = product + offset;
        b[i] = sum;
    }
}
