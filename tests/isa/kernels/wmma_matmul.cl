// C = A * B with f16 inputs and f32 sums, n x n, by v_wmma_f32_16x16x16_f16. A wave makes 64 x 64 results. In a wave of
// 32 lanes, lane i % 16 holds row i of A's tile and column i of B's (RDNA3 ISA, "WMMA").
#pragma OPENCL EXTENSION cl_khr_fp16 : enable

typedef half v16h __attribute__((ext_vector_type(16)));
typedef float v8f __attribute__((ext_vector_type(8)));

#define TILES 4

__attribute__((reqd_work_group_size(32, 1, 1)))
kernel void wmma_matmul(global const half *a, global const half *b, global float *c, int n) {
    int lane = __builtin_amdgcn_workitem_id_x(), at = lane & 15, half_wave = lane >> 4;
    int row = __builtin_amdgcn_workgroup_id_y() * 16 * TILES, column = __builtin_amdgcn_workgroup_id_x() * 16 * TILES;
    v8f sums[TILES][TILES];
    for (int i = 0; i < TILES; i++)
        for (int j = 0; j < TILES; j++)
            sums[i][j] = 0.0f;
    for (int k = 0; k < n; k += 16) {
        v16h rows[TILES], columns[TILES];
        for (int i = 0; i < TILES; i++)
            rows[i] = *(global const v16h *)(a + (row + 16 * i + at) * n + k);
        for (int j = 0; j < TILES; j++)
            for (int e = 0; e < 16; e++)
                columns[j][e] = b[(k + e) * n + column + 16 * j + at];
        for (int i = 0; i < TILES; i++)
            for (int j = 0; j < TILES; j++)
                sums[i][j] = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(rows[i], columns[j], sums[i][j]);
    }
    for (int i = 0; i < TILES; i++)
        for (int j = 0; j < TILES; j++)
            for (int e = 0; e < 8; e++)
                c[(row + 16 * i + 2 * e + half_wave) * n + column + 16 * j + at] = sums[i][j][e];
}
