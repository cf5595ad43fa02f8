#version 460
layout(local_size_x = 32) in;
layout(std430, binding = 0) buffer A { uvec2 a[]; };
layout(std430, binding = 1) buffer B { uint b[]; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    uint x = a[i].x, y = a[i].y, at = 32 * i;
    int sx = int(x), sy = int(y), n = int(y & 31u);
    uint high, low, carry, borrow;
    int shigh, slow;
    umulExtended(x, y, high, low);
    imulExtended(sx, sy, shigh, slow);
    uint total = uaddCarry(x, y, carry), rest = usubBorrow(x, y, borrow);
    b[at] = x / (y | 1u); b[at + 1] = x % (y | 1u);
    b[at + 2] = uint(sx / int(y | 1u)); b[at + 3] = uint(sx - sx / int(y | 1u) * int(y | 1u));
    b[at + 4] = x << n; b[at + 5] = x >> n; b[at + 6] = uint(sx >> n);
    b[at + 7] = high; b[at + 8] = low; b[at + 9] = uint(shigh); b[at + 10] = uint(slow);
    b[at + 11] = total; b[at + 12] = carry; b[at + 13] = rest; b[at + 14] = borrow;
    b[at + 15] = uint(bitCount(x)); b[at + 16] = uint(findLSB(x)); b[at + 17] = uint(findMSB(x));
    b[at + 18] = uint(findMSB(sx)); b[at + 19] = bitfieldReverse(x);
    b[at + 20] = bitfieldExtract(x, n & 15, 7); b[at + 21] = uint(bitfieldExtract(sx, n & 15, 9));
    b[at + 22] = bitfieldInsert(x, y, n & 15, 11); b[at + 23] = min(x, y); b[at + 24] = uint(max(sx, sy));
    b[at + 25] = uint(abs(sx)); b[at + 26] = uint(sign(sx)); b[at + 27] = uint(clamp(sx, -1000, 1000));
    b[at + 28] = ~x ^ (y & 0xF0F0u); b[at + 29] = x * y + 12345u; b[at + 30] = uint(x > y) | uint(sx > sy) << 1;
    b[at + 31] = uint(mix(sx, sy, (x & 1u) != 0u));
}
