#version 460
layout(local_size_x = 1) in;
layout(std430, binding = 0) buffer A { uint counts[3]; };
void main() { counts[0] = 3u; counts[1] = 2u; counts[2] = 1u; }
