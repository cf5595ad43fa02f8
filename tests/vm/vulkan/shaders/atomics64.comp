#version 460
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#extension GL_EXT_shader_atomic_int64 : require
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { uint64_t a[]; };
layout(std430, binding = 1) buffer B { uint64_t sum, low, high, all, any, odd; };
void main() {
    uint64_t x = a[gl_GlobalInvocationID.x];
    atomicAdd(sum, x); atomicMin(low, x); atomicMax(high, x); atomicAnd(all, x | 0xFFul); atomicOr(any, x); atomicXor(odd, x);
}
