/* rows.cuh - rows of bfloat16 between tokens and places, what dispatch and combine share. place [n_tokens,
 * k] holds rows that are all different. width: elements of a row, a multiple of 8. A warp works on one
 * token. */
#pragma once
#include "cuda/cuda.cuh"
enum { ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / 32 };
enum { ROW_HELD = 8, ROW_SUMMED = 6 }; /* 16-byte loads in flight per thread */
enum { CLEAR_ROWS = 8 };               /* rows that a warp looks at for those without a copy */

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
        sum[2 * i] += low_of(w[i]);
        sum[2 * i + 1] += high_of(w[i]);
    }
}

/* Rows of tokens to the places of their copies, and zeros in the rows that no copy has. */
struct row_spread {
    bf16 *to;         /* [n_rows, width] */
    const bf16 *from; /* [n_tokens, width] */
    const int32_t *place;
    const int32_t *row; /* [n_rows], as sort leaves it: rows with -1 become zeros; NULL: no rows do */
    float *gates;       /* [n_rows], of the copies in the rows; NULL = none */
    const float *gate;  /* [n_tokens, k] */
    int64_t n_tokens, n_rows;
    int k, width;
    bool add; /* to `to` */
};

/* to[32 i] = held[i], or += where 32 i < n */
__device__ static inline void put_held(uint4 *to, const uint4 held[ROW_HELD], int n)
{
    const bool all = n > 32 * (ROW_HELD - 1);
#pragma unroll
    for (int i = 0; all && i < ROW_HELD; i++)
        __stcs(to + 32 * i, held[i]);
#pragma unroll
    for (int i = 0; !all && i < ROW_HELD; i++)
        if (32 * i < n)
            __stcs(to + 32 * i, held[i]);
}
__device__ static inline void add_held(uint4 *to, const uint4 held[ROW_HELD], int n)
{
#pragma unroll
    for (int i = 0; i < ROW_HELD; i++)
        if (32 * i < n) {
            float sum[VEC];
            unpack8(sum, to[32 * i]);
            add8(sum, held[i]);
            to[32 * i] = pack8(sum);
        }
}

/* to[place[t,j]] (+)= from[t] for every j: each token is read once. What is only written is not kept in the caches. */
__device__ static inline void spread_token(const struct row_spread &s, int64_t t)
{
    const int n = s.width / VEC, lane = threadIdx.x % 32;
    const int32_t *place = s.place + t * s.k;
    const uint4 *token = (const uint4 *)(s.from + t * s.width);
    for (int v = lane; v < n; v += 32 * ROW_HELD) {
        uint4 held[ROW_HELD];
#pragma unroll
        for (int i = 0; i < ROW_HELD; i++)
            if (v + 32 * i < n)
                held[i] = token[v + 32 * i];
        for (int j = 0; j < s.k; j++) {
            uint4 *row = (uint4 *)(s.to + (int64_t)place[j] * s.width) + v;
            if (s.add)
                add_held(row, held, n - v);
            else
                put_held(row, held, n - v);
        }
    }
    for (int j = lane; s.gates && j < s.k; j += 32)
        s.gates[place[j]] = s.gate[t * s.k + j];
}

/* Zeros in those of CLEAR_ROWS rows that have no copy and lie in a tile. */
__device__ static inline void clear_rows(const struct row_spread &s, int64_t first)
{
    const int lane = threadIdx.x % 32;
    const bool empty = lane < CLEAR_ROWS && first + lane < s.n_rows && s.row[first + lane] == -1;
    for (unsigned left = __ballot_sync(0xffffffffu, empty); left; left &= left - 1) {
        uint4 *at = (uint4 *)(s.to + (first + __ffs((int)left) - 1) * s.width);
        for (int v = lane; v < s.width / VEC; v += 32)
            __stcs(at + v, make_uint4(0, 0, 0, 0));
    }
    if (empty && s.gates)
        s.gates[first + lane] = 0;
}

/* The first token_blocks blocks have the tokens, the others the rows. */
static __global__ void __launch_bounds__(ROW_THREADS, 4)
    rows_spread_kernel(const struct row_spread s, unsigned token_blocks)
{
    const int64_t warp = row_warp();
    if (blockIdx.x >= token_blocks)
        clear_rows(s, (warp - (int64_t)token_blocks * ROW_WARPS) * CLEAR_ROWS);
    else if (warp < s.n_tokens)
        spread_token(s, warp);
}

/* Sums of the rows at a token's places. */
struct row_sum {
    bf16 *to;          /* [n_tokens, width] */
    const bf16 *first; /* [n_tokens, width], which the rows are added to; may be `to`; NULL = zeros */
    const bf16 *from;  /* [rows, width]; width 0: no sums are wanted */
    const int32_t *place;
    float *gate;        /* [n_tokens, k] (+)= the gates at the places; NULL = not wanted */
    const float *gates; /* [rows]; NULL = zeros */
    int64_t n_tokens;
    int k, width;
    bool add_gate;
};

/* Places j, j + 1, ...; the last of all again rather than a branch between loads. */
__device__ static inline void places_of(int32_t at[ROW_SUMMED], const int32_t *place, int j, int k)
{
#pragma unroll
    for (int i = 0; i < ROW_SUMMED; i++)
        at[i] = place[min(j + i, k - 1)];
}

/* to[t] = first[t] + sum over j, in this order, of from[place[t,j]]: in float32, rounded once. Without the bound on
 * registers the compiler moves each load behind the sums of the one before, and one is in flight. */
static __global__ void __launch_bounds__(ROW_THREADS, 4) rows_sum_kernel(const struct row_sum s)
{
    const int64_t t = row_warp();
    const int lane = threadIdx.x % 32;
    const int32_t *place = s.place + t * s.k;
    int32_t at[ROW_SUMMED];
    if (t >= s.n_tokens)
        return;
    places_of(at, place, 0, s.k);
    for (int v = lane * VEC; v < s.width; v += 32 * VEC) {
        const uint4 zero = make_uint4(0, 0, 0, 0);
        const uint4 first = s.first ? __ldcs((const uint4 *)(s.first + t * s.width + v)) : zero;
        float sum[VEC];
        for (int j = 0; j < s.k; j += ROW_SUMMED) {
            uint4 held[ROW_SUMMED];
            if (s.k > ROW_SUMMED)
                places_of(at, place, j, s.k);
#pragma unroll
            for (int i = 0; i < ROW_SUMMED; i++)
                held[i] = __ldcs((const uint4 *)(s.from + (int64_t)at[i] * s.width + v));
            if (j == 0)
                unpack8(sum, first);
#pragma unroll
            for (int i = 0; i < ROW_SUMMED; i++)
                add8(sum, j + i < s.k ? held[i] : zero);
        }
        store8(s.to + t * s.width + v, sum);
    }
    for (int j = lane; s.gate && j < s.k; j += 32)
        grad_put(s.gate, true, s.add_gate, t * s.k + j, s.gates ? s.gates[place[j]] : 0);
}

static inline void rows_spread(cudaStream_t stream, const struct row_spread *s)
{
    const unsigned tokens = blocks_for(s->n_tokens, ROW_WARPS),
                   others = s->row ? blocks_for(s->n_rows, ROW_WARPS * CLEAR_ROWS) : 0;
    rows_spread_kernel<<<tokens + others, ROW_THREADS, 0, stream>>>(*s, tokens);
    LAUNCHED();
}

static inline void rows_sum(cudaStream_t stream, const struct row_sum *s)
{
    rows_sum_kernel<<<blocks_for(s->n_tokens, ROW_WARPS), ROW_THREADS, 0, stream>>>(*s);
    LAUNCHED();
}
