#version 460
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { uint a[]; };
layout(std430, binding = 1) buffer B { uint b[]; };
layout(push_constant) uniform Push { uint from_a, count; };
uint rule(uint l, uint c, uint r) { return 110u >> (l << 2 | c << 1 | r) & 1u; }
void main() {
    uint i = gl_GlobalInvocationID.x, before = (i + count - 1u) % count, after = (i + 1u) % count;
    if (from_a != 0u) b[i] = rule(a[before], a[i], a[after]); else a[i] = rule(b[before], b[i], b[after]);
}
