#version 460
layout(local_size_x = 32) in;
layout(std430, binding = 1) buffer B { uint b[]; };
void main() { atomicAdd(b[gl_LocalInvocationIndex], 1u + (gl_WorkGroupID.y << 8)); }
