/* norm.cuh - RMS norm with a row in registers, what rmsnorm and add_norm share: a team of warps per row, so that each
 * array is read once. Backward: a block walks over its rows and sums their parts of dw in registers; a second kernel adds
 * the blocks' sums in order. */
#pragma once
#include "cuda/cuda.cuh"
enum {
    EACH = 4,          /* vectors of 8 elements per thread, a team apart */
    BLOCK = 256,       /* threads that blocks of several teams have at most */
    WIDEST = 512,      /* threads of a team at most: rows of 16384 */
    PARTS = 264,       /* blocks of backward at most: two for each of 132 multiprocessors */
    SHARED_TEAM = 128, /* widest team that shares its block */
    SUM_X = 32,
    SUM_Y = 32 /* columns, and parts at a time, of a block that adds parts */
};

/* x: threads of a team; y: teams of a block. A function of h alone. */
static inline dim3 norm_block(int64_t h)
{
    CHECK(h % VEC == 0 && h <= WIDEST * EACH * VEC,
          "rows of %lld elements, expected a multiple of 8 up to %d", (long long)h, WIDEST * EACH * VEC);
    const unsigned team = (unsigned)round_up(cut_parts(h / VEC, EACH), 32);
    return dim3(team, team < BLOCK ? BLOCK / team : 1);
}

/* Blocks of backward for n rows of h. */
static inline int64_t norm_parts(int64_t n, int64_t h)
{
    const int64_t blocks = cut_parts(n, norm_block(h).y);
    return blocks < PARTS ? blocks : (int64_t)PARTS;
}

/* Over the threads of a team; each gets the same bits. room: a float for each warp of the block, which may be used
 * again behind the next barrier. */
__device__ static inline float team_sum(float x, float *room)
{
    const int warps = blockDim.x / 32;
    float *mine = room + threadIdx.y * warps;
    x = warp_sum(x);
    if (warps == 1)
        return x;
    if (threadIdx.x % 32 == 0)
        mine[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < warps; i++)
        x += mine[i];
    return x;
}

/* This thread's vectors of a row of n vectors; zeros where there is none. */
__device__ static inline void load_row(uint4 raw[EACH], const bf16 *row, bool live, int n)
{
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        raw[k] = live && i < n ? ((const uint4 *)row)[i] : make_uint4(0, 0, 0, 0);
    }
}

/* 1 / sqrt(mean(x^2) + eps) of a row of h elements */
__device__ static inline float norm_of_row(const uint4 raw[EACH], int h, float eps, float *room)
{
    float sum = 0, v[VEC];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        unpack8(v, raw[k]);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            sum += v[j] * v[j];
    }
    return 1 / sqrtf(team_sum(sum, room) / h + eps);
}

/* y = w x scale for this thread's part of a row of n vectors */
__device__ static inline void norm_scale_row(bf16 *y, const uint4 raw[EACH], const bf16 *w, float scale,
                                             int n)
{
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        float v[VEC], u[VEC];
        if (i >= n)
            return;
        unpack8(v, raw[k]);
        load8(u, w + i * VEC);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            v[j] *= u[j] * scale;
        store8(y + i * VEC, v);
    }
}

/* dw of the block: the teams' sums in order of the teams, in those of the first. */
__device__ static inline void join_teams(float dw[EACH][VEC])
{
    __shared__ float room[EACH * VEC * SHARED_TEAM];
    for (int team = 1; team < blockDim.y; team++) {
        __syncthreads();
        if (threadIdx.y == team)
#pragma unroll
            for (int k = 0; k < EACH * VEC; k++)
                room[k * blockDim.x + threadIdx.x] = dw[k / VEC][k % VEC];
        __syncthreads();
        if (threadIdx.y == 0)
#pragma unroll
            for (int k = 0; k < EACH * VEC; k++)
                dw[k / VEC][k % VEC] += room[k * blockDim.x + threadIdx.x];
    }
}

/* dw of a block to its row of part [gridDim.x, h] */
__device__ static inline void store_part(float *part, float dw[EACH][VEC], int h)
{
    join_teams(dw);
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        if (threadIdx.y == 0 && i < h / VEC)
            grad_put8(part, true, false, (int64_t)blockIdx.x * h + i * VEC, dw[k]);
    }
}

struct norm_row {
    uint4 x[EACH], dy[EACH];
};

/* sum of dy w x over this thread's part of a row; w, the same for all rows, comes from the cache each time */
__device__ static inline float norm_product(const struct norm_row *row, const bf16 *w, int n)
{
    float sum = 0;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        float a[VEC], b[VEC], c[VEC];
        if (i >= n)
            break;
        unpack8(a, row->dy[k]);
        load8(b, w + i * VEC);
        unpack8(c, row->x[k]);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            sum += a[j] * b[j] * c[j];
    }
    return sum;
}

/* dx of 8 elements, whose part of dw is added. w: those of the row; mean: of dy w x r over the row. */
__device__ static inline void norm_gradient(float dx[VEC], float dw[VEC], uint4 raw_x, uint4 raw_dy,
                                            const bf16 *w, float r, float mean)
{
    float u[VEC], x[VEC];
    unpack8(dx, raw_dy);
    load8(u, w);
    unpack8(x, raw_x);
#pragma unroll
    for (int j = 0; j < VEC; j++) {
        x[j] *= r;
        dw[j] += dx[j] * x[j];
        dx[j] = r * (dx[j] * u[j] - x[j] * mean);
    }
}

/* Adds to dw and writes dx (where it is not NULL). */
__device__ static inline void norm_finish_row(const struct norm_row *row, const bf16 *w, float r, float mean,
                                              float dw[EACH][VEC], bf16 *dx, bool add, int n)
{
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        float g[VEC];
        if (i >= n)
            break;
        norm_gradient(g, dw[k], row->x[k], row->dy[k], w + i * VEC, r, mean);
        if (dx)
            grad_put8(dx, false, add, i * VEC, g);
    }
}

/* Backward of one row of h elements for every team: adds its part to dw. dx: NULL where it is not wanted, dy: where it is
 * zero; r: the row's scale, 0 where there is no row (not live). room as in team_sum. */
__device__ static inline void norm_bwd_row(bf16 *dx, float dw[EACH][VEC], const bf16 *dy, const bf16 *x,
                                           const bf16 *w, float r, bool live, int h, bool add, float *room)
{
    struct norm_row now;
    load_row(now.x, x, live, h / VEC);
    load_row(now.dy, dy, live && dy, h / VEC);
    const float mean = team_sum(norm_product(&now, w, h / VEC), room) * r / h;
    norm_finish_row(&now, w, r, mean, dw, live ? dx : NULL, add, h / VEC);
}

static __global__ void __launch_bounds__(SUM_X *SUM_Y)
    norm_add_parts(void *dw, bool wide, bool add, const float *part, int n_parts, int h)
{
    __shared__ float room[SUM_Y][SUM_X];
    const int column = blockIdx.x * SUM_X + threadIdx.x;
    float sum = 0;
    for (int p = threadIdx.y; p < n_parts && column < h; p += SUM_Y)
        sum += part[(int64_t)p * h + column];
    room[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= h)
        return;
    for (int y = 1; y < SUM_Y; y++)
        sum += room[y][threadIdx.x];
    grad_put(dw, wide, add, column, sum);
}

/* grad[w] from the parts of backward's blocks */
static inline void norm_weight_gradient(const struct call *c, int w, const float *part, int64_t n_parts,
                                        int64_t h)
{
    norm_add_parts<<<blocks_for(h, SUM_X), dim3(SUM_X, SUM_Y), 0, stream_of(c)>>>(
        c->grad[w], is_wide(c, w), adds(c, w), part, (int)n_parts, (int)h);
    LAUNCHED();
}
