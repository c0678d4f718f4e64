/* rmsnorm.cu - a team of warps per row holds the row in registers: x (and dy) are read once. Backward: a block
 * walks over its rows and sums their parts of dw in registers; a second kernel adds the blocks' sums in order. */
#include "cuda/cuda.cuh"
enum { X, W, Y, R, N = 0, H };
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
static dim3 block_of(int64_t h)
{
    CHECK(h % VEC == 0 && h <= WIDEST * EACH * VEC,
          "rows of %lld elements, expected a multiple of 8 up to %d", (long long)h, WIDEST * EACH * VEC);
    const unsigned team = (unsigned)round_up(cut_parts(h / VEC, EACH), 32);
    return dim3(team, team < BLOCK ? BLOCK / team : 1);
}

static int64_t parts_of(const struct call *c)
{
    const int64_t blocks = cut_parts(c->dim[N], block_of(c->dim[H]).y);
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

__global__ static void __launch_bounds__(WIDEST)
    rmsnorm_fwd(bf16 *y, float *r, const bf16 *x, const bf16 *w, int64_t n, int h, float eps)
{
    __shared__ float room[WIDEST / 32];
    const int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    uint4 raw[EACH];
    float sum = 0, v[VEC], u[VEC];
    load_row(raw, x + row * h, row < n, h / VEC);
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        unpack8(v, raw[k]);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            sum += v[j] * v[j];
    }
    const float scale = 1 / sqrtf(team_sum(sum, room) / h + eps);
    if (row >= n)
        return;
    if (threadIdx.x == 0)
        r[row] = scale;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        if (i >= h / VEC)
            return;
        unpack8(v, raw[k]);
        load8(u, w + i * VEC);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            v[j] *= u[j] * scale;
        store8(y + row * h + i * VEC, v);
    }
}

/* dw of the block: the teams' sums in order of the teams, in those of the first. */
__device__ static void join_teams(float dw[EACH][VEC])
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

struct rmsnorm_row {
    uint4 x[EACH], dy[EACH];
};

/* sum of dy w x over this thread's part of a row; w, the same for all rows, comes from the cache each time */
__device__ static inline float product(const struct rmsnorm_row *row, const bf16 *w, int n)
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

/* Adds to dw and writes dx (where it is not NULL). mean: of dy w x r over the row. */
__device__ static inline void finish_row(const struct rmsnorm_row *row, const bf16 *w, float r, float mean,
                                         float dw[EACH][VEC], bf16 *dx, bool add, int n)
{
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        float dy[VEC], u[VEC], x[VEC];
        if (i >= n)
            break;
        unpack8(dy, row->dy[k]);
        load8(u, w + i * VEC);
        unpack8(x, row->x[k]);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            x[j] *= r;
            dw[k][j] += dy[j] * x[j];
            dy[j] = r * (dy[j] * u[j] - x[j] * mean);
        }
        if (dx)
            grad_put8(dx, false, add, i * VEC, dy);
    }
}

/* part [gridDim.x, h], NULL when dw is not wanted. */
__global__ static void __launch_bounds__(WIDEST)
    rmsnorm_bwd(bf16 *dx, float *part, const bf16 *dy, const bf16 *x, const bf16 *w, const float *r,
                int64_t n, int h, bool add)
{
    __shared__ float room[2][WIDEST / 32];
    const int64_t step = (int64_t)gridDim.x * blockDim.y, rounds = cut_parts(n, step);
    struct rmsnorm_row now;
    float dw[EACH][VEC] = {};
    for (int64_t i = 0; i < rounds; i++) {
        const int64_t row = i * step + (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
        const bool live = row < n;
        load_row(now.x, x + row * h, live, h / VEC);
        load_row(now.dy, dy + row * h, live, h / VEC);
        const float scale = live ? r[row] : 0;
        const float mean = team_sum(product(&now, w, h / VEC), room[i % 2]) * scale / h;
        finish_row(&now, w, scale, mean, dw, dx && live ? dx + row * h : NULL, add, h / VEC);
    }
    if (!part)
        return;
    join_teams(dw);
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        if (threadIdx.y == 0 && i < h / VEC)
            grad_put8(part, true, false, (int64_t)blockIdx.x * h + i * VEC, dw[k]);
    }
}

__global__ static void __launch_bounds__(SUM_X *SUM_Y)
    rmsnorm_add_parts(void *dw, bool wide, bool add, const float *part, int n_parts, int h)
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

extern "C" void rmsnorm_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], h = c->dim[H];
    const dim3 block = block_of(h);
    rmsnorm_fwd<<<blocks_for(n, block.y), block, 0, stream_of(c)>>>(
        (bf16 *)c->arg[Y], (float *)c->arg[R], (const bf16 *)c->arg[X], (const bf16 *)c->arg[W], n, (int)h,
        (float)c->attr[0]);
    LAUNCHED();
}

extern "C" void rmsnorm_bwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], h = c->dim[H], parts = parts_of(c);
    float *part = c->grad[W] ? (float *)c->work : NULL;
    if (!c->grad[Y]) {
        grad_clear(c, X, n * h);
        grad_clear(c, W, h);
        return;
    }
    rmsnorm_bwd<<<(unsigned)parts, block_of(h), 0, stream_of(c)>>>(
        (bf16 *)c->grad[X], part, (const bf16 *)c->grad[Y], (const bf16 *)c->arg[X], (const bf16 *)c->arg[W],
        (const float *)c->arg[R], n, (int)h, adds(c, X));
    LAUNCHED();
    if (!part)
        return;
    rmsnorm_add_parts<<<blocks_for(h, SUM_X), dim3(SUM_X, SUM_Y), 0, stream_of(c)>>>(
        c->grad[W], is_wide(c, W), adds(c, W), part, (int)parts, (int)h);
    LAUNCHED();
}

extern "C" void rmsnorm_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(parts_of(c) * c->dim[H]) * sizeof(float);
}
