#version 460
layout(local_size_x = 16, local_size_y = 16) in;
layout(constant_id = 0) const uint N = 64;
layout(std430, binding = 0) buffer A { float a[]; };
layout(std430, binding = 1) buffer B { float b[]; };
layout(std430, binding = 2) buffer C { float c[]; };
shared float ta[16][16], tb[16][17];
void main() {
    uint x = gl_LocalInvocationID.x, y = gl_LocalInvocationID.y;
    uint row = gl_GlobalInvocationID.y, column = gl_GlobalInvocationID.x;
    precise float sum = 0.0;
    for (uint tile = 0u; tile < N; tile += 16u) {
        ta[y][x] = a[row * N + tile + x];
        tb[y][x] = b[(tile + y) * N + column];
        barrier();
        for (uint k = 0u; k < 16u; k++) { precise float product = ta[y][k] * tb[k][x]; sum = sum + product; }
        barrier();
    }
    c[row * N + column] = sum;
}
