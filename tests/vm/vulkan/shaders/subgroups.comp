#version 460
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_KHR_shader_subgroup_shuffle_relative : require
#extension GL_KHR_shader_subgroup_clustered : require
#extension GL_KHR_shader_subgroup_quad : require
// Results that do not depend on the size of subgroups, which is any power of two from 4 on.
layout(local_size_x = 256) in;
layout(std430, binding = 0) buffer A { uint a[]; };
layout(std430, binding = 1) buffer B { uint b[]; };
layout(std430, binding = 2) buffer Totals { uint sum, low, high, bits, odd, ones, groups_odd, groups_big; };
shared uint before[256];
void main() {
    uint i = gl_GlobalInvocationID.x, x = a[i], at = 12u * i;
    uint local_sum = subgroupAdd(x), scan = subgroupExclusiveAdd(x), inclusive = subgroupInclusiveAdd(x);
    if (subgroupElect()) before[gl_SubgroupID] = local_sum;
    barrier();
    uint base = 0u;
    for (uint s = 0u; s < gl_SubgroupID; s++) base += before[s];
    b[at] = base + scan; b[at + 1] = inclusive - scan;
    uint least = subgroupMin(x), most = subgroupMax(x), some = subgroupOr(x), parity = subgroupXor(x), both = subgroupAnd(x);
    uvec4 ballot = subgroupBallot((x & 1u) != 0u);
    uint ones_here = subgroupBallotBitCount(ballot), ones_before = subgroupBallotExclusiveBitCount(ballot);
    if (subgroupElect()) {
        atomicAdd(sum, local_sum); atomicMin(low, least); atomicMax(high, most); atomicOr(bits, some); atomicXor(odd, parity);
        atomicAdd(ones, ones_here);
    }
    b[at + 2] = ones_here - ones_before - subgroupAdd(uint(gl_SubgroupInvocationID.x < 0u)) - ones_here
              + subgroupBallotExclusiveBitCount(ballot);
    b[at + 3] = subgroupShuffleXor(x, 1u); b[at + 4] = subgroupShuffleXor(x, 3u);
    b[at + 5] = subgroupShuffle(x, gl_SubgroupInvocationID ^ 2u);
    b[at + 6] = subgroupClusteredAdd(x, 4u); b[at + 7] = subgroupClusteredMax(x, 2u);
    b[at + 8] = subgroupQuadBroadcast(x, 2u); b[at + 9] = subgroupQuadSwapHorizontal(x);
    b[at + 10] = subgroupQuadSwapVertical(x) + subgroupQuadSwapDiagonal(x);
    uint up = subgroupShuffleUp(x, 1u), other = subgroupShuffleXor(x, 1u);
    b[at + 11] = uint(subgroupAll(x <= most)) | uint(subgroupAny(x == least)) << 1 | uint(subgroupAllEqual(both)) << 2
               | uint(subgroupBroadcastFirst(x) == subgroupShuffle(x, subgroupBallotFindLSB(subgroupBallot(true)))) << 3
               | uint((gl_SubgroupInvocationID & 1u) == 0u || up == other) << 4;
}
