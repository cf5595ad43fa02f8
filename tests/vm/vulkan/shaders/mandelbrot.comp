#version 460
layout(local_size_x = 8, local_size_y = 8) in;
layout(std430, binding = 0) buffer B { uint b[]; };
layout(push_constant) uniform Push { float left, top, step_size; uint width; };
void main() {
    float x = left + float(gl_GlobalInvocationID.x) * step_size, y = top + float(gl_GlobalInvocationID.y) * step_size;
    precise float u = 0.0, v = 0.0;
    uint n = 0u;
    for (; n < 64u; n++) {
        precise float uu = u * u, vv = v * v, uv = u * v;
        precise float length2 = uu + vv;
        if (length2 > 4.0) break;
        precise float rest = uu - vv, twice = uv + uv;
        u = rest + x; v = twice + y;
    }
    b[gl_GlobalInvocationID.y * width + gl_GlobalInvocationID.x] = n;
}
