/* rows.cuh - rows of bfloat16 between tokens and places, what dispatch and combine share. place [n_tokens,
 * k] holds rows that are all different. width: elements of a row, a multiple of 8. A warp works on one
 * token. */
#pragma once
#include "cuda/cuda.cuh"
enum { ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / 32 };
enum { ROW_HELD = 8, ROW_SUMMED = 6 }; /* 16-byte loads in flight per thread */
enum { CLEAR_ROWS = 8 };               /* rows that a warp of rows_clear looks at */

/* Number of the warp in the grid. */
__device__ static inline int64_t row_warp(void)
{
    return blockIdx.x * (int64_t)ROW_WARPS + threadIdx.x / 32;
}

/* sum += the 8 numbers of raw */
__device__ static inline void add8(float sum[VEC], uint4 raw)
{
    const uint32_t w[4] = { raw.x, raw.y, raw.z, raw.w };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum[2 * i] += __uint_as_float(w[i] << 16);
        sum[2 * i + 1] += __uint_as_float(w[i] & 0xffff0000u);
    }
}

/* to (+)= raw, 8 numbers */
__device__ static inline void put8(bf16 *to, uint4 raw, bool add)
{
    float sum[VEC];
    if (!add) {
        *(uint4 *)to = raw;
        return;
    }
    load8(sum, to);
    add8(sum, raw);
    store8(to, sum);
}

/* to[place[t,j]] (+)= from[t] for every j: each token is read once. */
static __global__ void rows_spread_kernel(bf16 *__restrict__ to, const bf16 *__restrict__ from,
                                          const int32_t *__restrict__ place, int64_t n_tokens, int64_t k,
                                          int64_t width, bool add)
{
    const int64_t t = row_warp();
    const int n = (int)(width / VEC);
    if (t >= n_tokens)
        return;
    const uint4 *token = (const uint4 *)(from + t * width);
    for (int v = threadIdx.x % 32; v < n; v += 32 * ROW_HELD) {
        uint4 held[ROW_HELD];
#pragma unroll
        for (int i = 0; i < ROW_HELD; i++)
            if (v + 32 * i < n)
                held[i] = token[v + 32 * i];
        for (int64_t j = t * k; j < (t + 1) * k; j++) {
            bf16 *row = to + place[j] * width;
#pragma unroll
            for (int i = 0; i < ROW_HELD; i++)
                if (v + 32 * i < n)
                    put8(row + (v + 32 * i) * VEC, held[i], add);
        }
    }
}

/* to[t] (+)= sum over j, in this order, of from[place[t,j]]: in float32, rounded once. */
static __global__ void rows_sum_kernel(bf16 *__restrict__ to, const bf16 *__restrict__ from,
                                       const int32_t *__restrict__ place, int64_t n_tokens, int64_t k,
                                       int64_t width, bool add)
{
    const int64_t t = row_warp();
    if (t >= n_tokens)
        return;
    for (int64_t v = threadIdx.x % 32 * VEC; v < width; v += 32 * VEC) {
        float sum[VEC] = { 0 };
        if (add)
            load8(sum, to + t * width + v);
        for (int64_t j = 0; j < k; j += ROW_SUMMED) {
            uint4 held[ROW_SUMMED];
#pragma unroll
            for (int i = 0; i < ROW_SUMMED; i++) /* a row again rather than a branch between loads */
                held[i] = *(const uint4 *)(from + place[t * k + min(j + i, k - 1)] * width + v);
#pragma unroll
            for (int i = 0; i < ROW_SUMMED; i++)
                add8(sum, j + i < k ? held[i] : make_uint4(0, 0, 0, 0));
        }
        store8(to + t * width + v, sum);
    }
}

/* Zeros in the rows i of `to` where row[i] is negative. */
static __global__ void rows_clear_kernel(bf16 *__restrict__ to, const int32_t *__restrict__ row,
                                         int64_t n_rows, int64_t width)
{
    const int64_t first = row_warp() * CLEAR_ROWS, mine = first + threadIdx.x % 32;
    const bool empty = threadIdx.x % 32 < CLEAR_ROWS && mine < n_rows && row[mine] < 0;
    for (unsigned left = __ballot_sync(0xffffffffu, empty); left; left &= left - 1) {
        bf16 *at = to + (first + __ffs((int)left) - 1) * width;
        for (int64_t v = threadIdx.x % 32 * VEC; v < width; v += 32 * VEC)
            *(uint4 *)(at + v) = make_uint4(0, 0, 0, 0);
    }
}

static inline void rows_spread(cudaStream_t stream, void *to, const void *from, const int32_t *place,
                               int64_t n_tokens, int64_t k, int64_t width, bool add)
{
    rows_spread_kernel<<<blocks_for(n_tokens, ROW_WARPS), ROW_THREADS, 0, stream>>>(
        (bf16 *)to, (const bf16 *)from, place, n_tokens, k, width, add);
    LAUNCHED();
}

static inline void rows_sum(cudaStream_t stream, void *to, const void *from, const int32_t *place,
                            int64_t n_tokens, int64_t k, int64_t width, bool add)
{
    rows_sum_kernel<<<blocks_for(n_tokens, ROW_WARPS), ROW_THREADS, 0, stream>>>(
        (bf16 *)to, (const bf16 *)from, place, n_tokens, k, width, add);
    LAUNCHED();
}

static inline void rows_clear(cudaStream_t stream, void *to, const int32_t *row, int64_t n_rows,
                              int64_t width)
{
    rows_clear_kernel<<<blocks_for(n_rows, ROW_WARPS * CLEAR_ROWS), ROW_THREADS, 0, stream>>>((bf16 *)to, row,
                                                                                              n_rows, width);
    LAUNCHED();
}
