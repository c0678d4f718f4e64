/* attention_mma.cuh - what forward and backward of attention on mma.m16n8k16 share: tiles as they come into shared memory,
 * and products of tiles. Kernels are made for widths Q and V of tiles, in multiples of 64; what a head has less than that
 * is zeros. A block has WARPS warps, each with its own rows of the tile that the block owns; two blocks share a
 * multiprocessor, so that one computes while the other waits or does its exponentials. */
#pragma once
#include "cuda/mma.cuh"
#include "ops/attention.cuh"
#include "ops/attention_tile.h"
enum { WARPS = 4, THREADS = WARPS * WARP };

/* The head and the first row of this block's tile. */
struct place {
    int b, a, first;
};

template <int ROWS>
__device__ static inline struct place place_of(const struct attention *z, bool longest_last)
{
    const int64_t tiles = cut_parts(z->s, ROWS);
    const struct attention_spot at = attention_spot(blockIdx.x, z->b * z->a, tiles);
    const struct place p = { (int)(at.head / z->a), (int)(at.head % z->a),
                             (int)(longest_last ? tiles - 1 - at.turn : at.turn) * ROWS };
    return p;
}

/* Copies ROWS rows of a tile, WIDTH wide, later: of `from`, zeros behind the first n rows, n > 0, and `width` columns.
 * Eight threads copy 128 bytes of a row. */
template <int WIDTH, int ROWS>
__device__ static inline void load_rows(bf16 *tile, const bf16 *from, int stride, int n, int width)
{
    const int line = threadIdx.x / 8, at = threadIdx.x % 8;
#pragma unroll
    for (int row = line; row < line + ROWS; row += THREADS / 8)
#pragma unroll
        for (int v = at; v < at + WIDTH / VECTOR; v += 8) {
            const bool there = row < n && v * VECTOR < width;
            copy_later(tile + rows_at(WIDTH, row, v), there ? from + row * stride + v * VECTOR : from, there);
        }
}

template <int WIDTH, int ROWS>
__device__ static inline void load_q(const struct attention_tensors *x, const struct place *p, int first,
                                     bf16 *tile)
{
    load_rows<WIDTH, ROWS>(tile, x->q + at_row(&x->z, p->b, p->a, first, x->z.q), (int)(x->z.a * x->z.q),
                           (int)x->z.s - first, (int)x->z.q);
}

template <int WIDTH, int ROWS>
__device__ static inline void load_do(const struct attention_tensors *x, const struct place *p, int first,
                                      bf16 *tile)
{
    load_rows<WIDTH, ROWS>(tile, x->d_o + at_row(&x->z, p->b, p->a, first, x->z.v), (int)(x->z.a * x->z.v),
                           (int)x->z.s - first, (int)x->z.v);
}

template <int WIDTH, int ROWS>
__device__ static inline void load_values(const struct attention_tensors *x, const struct place *p, int first,
                                          bf16 *tile)
{
    load_rows<WIDTH, ROWS>(tile, x->kv + at_row(&x->z, p->b, p->a, first, x->z.c) + x->z.nope,
                           (int)(x->z.a * x->z.c), (int)x->z.s - first, (int)x->z.v);
}

/* [k_nope | k_rope] */
template <int WIDTH, int ROWS>
__device__ static inline void load_keys(const struct attention_tensors *x, const struct place *p, int first,
                                        bf16 *tile)
{
    const int line = threadIdx.x / 8, at = threadIdx.x % 8, n = (int)x->z.s - first, r = (int)x->z.r;
    const int nope = (int)x->z.nope, width = (int)x->z.q;
    const bf16 *kv = x->kv + at_row(&x->z, p->b, p->a, first, x->z.c);
    const bf16 *k_rope = x->k_rope + (p->b * x->z.s + first) * r;
    const int stride = (int)(x->z.a * x->z.c);
#pragma unroll
    for (int row = line; row < line + ROWS; row += THREADS / 8)
#pragma unroll
        for (int v = at; v < at + WIDTH / VECTOR; v += 8) {
            const int column = v * VECTOR;
            const bool there = row < n && column < width;
            const bf16 *from = column < nope ? kv + row * stride + column : k_rope + row * r + column - nope;
            copy_later(tile + rows_at(WIDTH, row, v), there ? from : kv, there);
        }
}

/* sum += 16 steps of a product: a times two operands b side by side, of N columns of sums. */
template <int N>
__device__ static inline void add_step(float (&sum)[N / 8][4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                       int pair)
{
    multiply_add(sum[2 * pair], a, b[0], b[1]);
    multiply_add(sum[2 * pair + 1], a, b[2], b[3]);
}

/* sum += x y^T of 16 rows of tile x from `row` on, and all N rows of tile y */
template <int WIDTH, int N>
__device__ static inline void add_scores(float (&sum)[N / 8][4], const bf16 *x, int row, const bf16 *y,
                                         int lane)
{
#pragma unroll
    for (int step = 0; step < WIDTH; step += 16) {
        uint32_t a[4], b[4];
        load_matrices<false>(a, x + rows_a(WIDTH, row, step, lane));
#pragma unroll
        for (int j = 0; j < N / 16; j++) {
            load_matrices<false>(b, y + rows_b(WIDTH, 16 * j, step, lane));
            add_step<N>(sum, a, b, j);
        }
    }
}

/* The same with the rows of x in registers. */
template <int WIDTH, int N>
__device__ static inline void add_held_scores(float (&sum)[N / 8][4], const uint32_t (&x)[WIDTH / 16][4],
                                              const bf16 *y, int lane)
{
#pragma unroll
    for (int step = 0; step < WIDTH; step += 16)
#pragma unroll
        for (int j = 0; j < N / 16; j++) {
            uint32_t b[4];
            load_matrices<false>(b, y + rows_b(WIDTH, 16 * j, step, lane));
            add_step<N>(sum, x[step / 16], b, j);
        }
}

/* sum += weight y, of 16 rows of weights [16, N] and all N rows of tile y */
template <int WIDTH, int N>
__device__ static inline void add_weighted(float (&sum)[WIDTH / 8][4], const uint32_t (&weight)[N / 16][4],
                                           const bf16 *y, int lane)
{
#pragma unroll
    for (int i = 0; i < N / 16; i++)
#pragma unroll
        for (int j = 0; j < WIDTH / 16; j++) {
            uint32_t b[4];
            load_matrices<true>(b, y + rows_b_turned(WIDTH, 16 * i, 16 * j, lane));
            add_step<WIDTH>(sum, weight[i], b, j);
        }
}

/* Sums as operands: [16, N], rounded to bfloat16. */
template <int N>
__device__ static inline void operands_of_sums(uint32_t (&a)[N / 16][4], const float (&sum)[N / 8][4])
{
#pragma unroll
    for (int i = 0; i < N / 16; i++)
        operand_of_sums(a[i], sum[2 * i], sum[2 * i + 1]);
}

/* Blocks of `rows` rows each, with so many bytes of shared memory. */
static inline void attention_launch(void (*kernel)(struct attention_tensors), const struct call *c,
                                    const struct attention_tensors *x, int rows, int bytes)
{
    const unsigned blocks = blocks_for(x->z.b * x->z.a * cut_parts(x->z.s, rows), 1);
    CUDA_DO(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    kernel<<<blocks, THREADS, (size_t)bytes, stream_of(c)>>>(*x);
    LAUNCHED();
}

/* Tiles of the least widths that hold a head: kernels are KERNEL<Q, V>, KERNEL##_bytes their shared memory. */
#define ATTENTION_LAUNCH(KERNEL, c_, x_, rows_)                                                              \
    do {                                                                                                     \
        if ((x_)->z.q <= 64 && (x_)->z.v <= 64)                                                              \
            attention_launch(KERNEL<64, 64>, c_, x_, rows_, KERNEL##_bytes(64, 64));                         \
        else if ((x_)->z.q <= 128)                                                                           \
            attention_launch(KERNEL<128, 128>, c_, x_, rows_, KERNEL##_bytes(128, 128));                     \
        else                                                                                                 \
            attention_launch(KERNEL<192, 128>, c_, x_, rows_, KERNEL##_bytes(192, 128));                     \
    } while (0)
