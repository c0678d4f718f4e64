/* grouped_back.cuh - from dy, in registers, and h, in shared memory, to the gradients of h, y again, and the gradient
 * of the rows' weights: 64 rows x 64 columns of a warpgroup at a time. The gradients take the place of h, from where
 * the copy engine fetches them: registers and shared memory are few. */
#pragma once
#include "cuda/grouped_store.cuh"
/* Two columns of a row: gate and up become their gradients; `dy` of both. Returns y. */
__device__ static __forceinline__ uint32_t back_pair(uint32_t *gate, uint32_t *up, const float dy[2],
                                                     float weight, float *sum)
{
    const struct swiglu_back low = swiglu_bwd(low_of(*gate), low_of(*up), weight, dy[0]),
                             high = swiglu_bwd(high_of(*gate), high_of(*up), weight, dy[1]);
    *gate = pack_pair(low.gate, high.gate);
    *up = pack_pair(low.up, high.up);
    *sum += low.weight;
    *sum += high.weight;
    return pack_pair(low.y, high.y);
}

/* With dy in d[FIRST] and the 31 behind it. box: of the gate half of h, that of the up half follows; y: another one;
 * weight, sum: of the thread's two rows. */
template <int FIRST>
__device__ static inline void back_slice(const float (&d)[128], uint32_t box, uint32_t y,
                                         const float weight[2], float sum[2])
{
    const uint32_t gate_at = matrices_at(box, (int)threadIdx.x), y_at = matrices_at(y, (int)threadIdx.x);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t at = gate_at ^ 32 * i;
        uint32_t gate[4], up[4], word[4];
        shared_get_matrices(gate, at);
        shared_get_matrices(up, at + BOX_BYTES);
#pragma unroll
        for (int k = 0; k < 4; k++)
            word[k] = back_pair(&gate[k], &up[k], &d[FIRST + 8 * i + 2 * k], weight[k % 2], &sum[k % 2]);
        shared_put_matrices(at, gate[0], gate[1], gate[2], gate[3]);
        shared_put_matrices(at + BOX_BYTES, up[0], up[1], up[2], up[3]);
        shared_put_matrices(y_at ^ 32 * i, word[0], word[1], word[2], word[3]);
    }
}

/* As matrices_at(), in boxes of 32 columns, for two matrices (shared_put_pair()): of the first 8 columns; those 8 i further
 * are at that ^ 16 i. */
__host__ __device__ static inline uint32_t pair_at(uint32_t box, int thread)
{
    const int line = thread % WARPGROUP / WARP * 16 + thread % 16;
    return box + line * 64 + line / 2 % 4 * 16;
}

/* 16 of 32 columns, the first or the second: dy in dy[FIRST] and the 3 behind it, packed. At `piece` there are the boxes of
 * gate and up, then room for y. 8 columns at a time: few registers are left. */
template <int FIRST>
__device__ static __forceinline__ void back_piece(const uint32_t (&dy)[64], uint32_t piece, int half,
                                                  const float weight[2], float sum[2])
{
    enum { BOX = BOX_BYTES / 2 };
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t at = pair_at(piece, (int)thread_now()) ^ 16 * (2 * half + i);
        uint32_t gate[2], up[2], word[2];
        shared_get_pair(gate, at);
        shared_get_pair(up, at + BOX);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const uint32_t both = dy[FIRST + 2 * i + k];
            const float d[2] = { low_of(both), high_of(both) };
            word[k] = back_pair(&gate[k], &up[k], d, weight[k], &sum[k]);
        }
        shared_put_pair(at, gate);
        shared_put_pair(at + BOX, up);
        shared_put_pair(at + 2 * BOX, word);
    }
}

/* to[0], to[8] = the sums of the two rows over the four threads that have their columns. */
__device__ static inline void put_row_sums(float *to, const float sum[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float x = sum[i];
        x += __shfl_xor_sync(0xffffffffu, x, 1);
        x += __shfl_xor_sync(0xffffffffu, x, 2);
        if (threadIdx.x % 4 == 0)
            to[8 * i] = x;
    }
}
