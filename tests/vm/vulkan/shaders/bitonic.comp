#version 460
layout(local_size_x = 128) in;
layout(std430, binding = 0) buffer A { uint a[]; };
shared uint part[256];
void main() {
    uint l = gl_LocalInvocationIndex, first = gl_WorkGroupID.x * 256u;
    part[l] = a[first + l];
    part[l + 128u] = a[first + l + 128u];
    for (uint size = 2u; size <= 256u; size <<= 1)
        for (uint stride = size >> 1; stride > 0u; stride >>= 1) {
            barrier();
            uint low = 2u * l - (l & (stride - 1u)), high = low + stride;
            bool up = (low & size) == 0u;
            uint x = part[low], y = part[high];
            if ((x > y) == up) { part[low] = y; part[high] = x; }
        }
    barrier();
    a[first + l] = part[l];
    a[first + l + 128u] = part[l + 128u];
}
