#version 460
layout(local_size_x = 256) in;
layout(std430, binding = 0) buffer A { uint a[]; };
layout(std430, binding = 1) buffer B { uint b[]; };
shared uint part[256];
void main() {
    uint l = gl_LocalInvocationIndex;
    part[l] = a[gl_GlobalInvocationID.x] * 3u;
    barrier();
    for (uint step = 128u; step > 0u; step >>= 1) {
        if (l < step) part[l] += part[l + step];
        barrier();
    }
    if (l == 0u) b[gl_WorkGroupID.x] = part[0];
}
