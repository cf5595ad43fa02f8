#version 460
layout(local_size_x = 4, local_size_y = 3, local_size_z = 2) in;
layout(std430, binding = 0) buffer B { uvec4 b[]; };
void main() {
    uvec3 size = gl_NumWorkGroups * gl_WorkGroupSize, at = gl_GlobalInvocationID;
    uint i = (at.z * size.y + at.y) * size.x + at.x;
    b[2 * i] = uvec4(gl_WorkGroupID, gl_LocalInvocationIndex);
    b[2 * i + 1] = uvec4(gl_LocalInvocationID, gl_NumWorkGroups.x * 100u + gl_NumWorkGroups.y * 10u + gl_NumWorkGroups.z);
}
