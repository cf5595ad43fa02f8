// Loops around what a loop of plain arithmetic has not: LDS, memory, branches that lanes take apart.

#define N 64

__attribute__((reqd_work_group_size(256, 1, 1)))
kernel void lds_loop(global float *out, int turns) {
    local float tile[256 + N];
    int i = __builtin_amdgcn_workitem_id_x();
    tile[i] = i;
    if (i < N)
        tile[256 + i] = -i;
    __builtin_amdgcn_s_waitcnt(0);
    __builtin_amdgcn_s_barrier();
    float sum = 0;
    for (int t = 0; t < turns; t++)
        sum = sum * 0.5f + tile[i + (t & (N - 1))] * tile[t & (N - 1)];
    out[__builtin_amdgcn_workgroup_id_x() * 256 + i] = sum;
}

__attribute__((reqd_work_group_size(256, 1, 1)))
kernel void memory_loop(global float *out, global const float *in, int turns) {
    int i = __builtin_amdgcn_workitem_id_x();
    float sum = 0;
    for (int t = 0; t < turns; t++)
        sum += in[256 * (t & (N - 1)) + i] * 0.5f;
    out[__builtin_amdgcn_workgroup_id_x() * 256 + i] = sum;
}

__attribute__((reqd_work_group_size(256, 1, 1)))
kernel void divergent_loop(global float *out, int turns) {
    int i = __builtin_amdgcn_workitem_id_x();
    unsigned x = i * 2654435761u;
    float sum = 0;
    for (int t = 0; t < turns + (i & 15); t++) {
        x = x * 1664525u + 1013904223u;
        if (x & 0x10000)
            sum = sum * 0.5f + (float)(x >> 20);
        else if (x & 0x20000)
            sum -= 1.0f;
    }
    out[__builtin_amdgcn_workgroup_id_x() * 256 + i] = sum;
}
