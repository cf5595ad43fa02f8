#version 460
layout(local_size_x = 128) in;
layout(std430, binding = 0) buffer A { uint a[]; };
layout(std430, binding = 1) buffer B { uint bins[64]; };
shared uint mine[64];
void main() {
    uint l = gl_LocalInvocationIndex;
    if (l < 64u) mine[l] = 0u;
    barrier();
    uint x = a[gl_GlobalInvocationID.x];
    for (uint i = 0u; i < 5u; i++) atomicAdd(mine[x >> 6u * i & 63u], i + 1u);
    barrier();
    if (l < 64u) atomicAdd(bins[l], mine[l]);
}
