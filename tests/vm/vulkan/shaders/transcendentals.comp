#version 460
layout(local_size_x = 64) in;
layout(std430, binding = 0) buffer A { vec2 a[]; };
layout(std430, binding = 1) buffer B { float b[]; };
void main() {
    uint i = gl_GlobalInvocationID.x, at = 16 * i;
    float x = a[i].x, y = abs(a[i].y) + 0.125;
    b[at] = sqrt(y); b[at + 1] = inversesqrt(y); b[at + 2] = x / y; b[at + 3] = exp2(x); b[at + 4] = log2(y);
    b[at + 5] = sin(x); b[at + 6] = cos(x); b[at + 7] = exp(x); b[at + 8] = log(y); b[at + 9] = pow(y, x);
    b[at + 10] = tan(x * 0.25); b[at + 11] = atan(x, y); b[at + 12] = tanh(x); b[at + 13] = length(vec3(x, y, 1.0));
    b[at + 14] = dot(normalize(vec3(x, y, 1.0)), vec3(1.0, 2.0, 3.0)); b[at + 15] = smoothstep(-2.0, 2.0, x);
}
