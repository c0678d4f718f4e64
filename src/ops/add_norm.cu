/* add_norm.cu - s = x + y and z = w s r in one pass: norm.cuh. r and z are those of s as it is stored. Backward: one pass
 * makes the gradient of both summands, in place over that of s where the caller gives one buffer for them. */
#include "ops/norm.cuh"
enum { X, Y, W, S, Z, R, N = 0, H };

/* s = x + y for this thread's part of a row of n vectors, in x and in memory. */
__device__ static inline void add_rows(uint4 x[EACH], const uint4 y[EACH], bf16 *s, bool live, int n)
{
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        float a[VEC], b[VEC];
        unpack8(a, x[k]);
        unpack8(b, y[k]);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            a[j] += b[j];
        x[k] = pack8(a);
        if (live && i < n)
            ((uint4 *)s)[i] = x[k];
    }
}

__global__ static void __launch_bounds__(WIDEST)
    add_norm_fwd(bf16 *s, bf16 *z, float *r, const bf16 *x, const bf16 *y, const bf16 *w, int64_t n, int h,
                 float eps)
{
    __shared__ float room[WIDEST / 32];
    const int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    uint4 sum[EACH], other[EACH];
    load_row(sum, x + row * h, row < n, h / VEC);
    load_row(other, y + row * h, row < n, h / VEC);
    add_rows(sum, other, s + row * h, row < n, h / VEC);
    const float scale = norm_of_row(sum, h, eps, room);
    if (row >= n)
        return;
    if (threadIdx.x == 0)
        r[row] = scale;
    norm_scale_row(z + row * h, sum, w, scale, h / VEC);
}

/* z from s and r */
__global__ static void __launch_bounds__(WIDEST)
    add_norm_again(bf16 *z, const bf16 *s, const float *r, const bf16 *w, int64_t n, int h)
{
    const int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    uint4 raw[EACH];
    if (row >= n)
        return;
    load_row(raw, s + row * h, true, h / VEC);
    norm_scale_row(z + row * h, raw, w, r[row], h / VEC);
}

/* Where the gradient of both summands goes; NULL = nowhere (else). Either may be ds. */
struct targets {
    bf16 *x, *y;
    bool add_x, add_y;
};

/* Adds to dw and writes the gradient; ds: of this row, as it was before. */
__device__ static inline void finish_row(const struct norm_row *row, const uint4 ds[EACH], const bf16 *w,
                                         float r, float mean, float dw[EACH][VEC], const struct targets *to,
                                         int64_t at, int n)
{
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        float g[VEC], d[VEC];
        if (i >= n)
            break;
        norm_gradient(g, dw[k], row->x[k], row->dy[k], w + i * VEC, r, mean);
        unpack8(d, ds[k]);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            g[j] += d[j];
        if (to->x)
            grad_put8(to->x, false, to->add_x, at + i * VEC, g);
        if (to->y)
            grad_put8(to->y, false, to->add_y, at + i * VEC, g);
    }
}

/* part [gridDim.x, h], NULL when dw is not wanted; ds, dz: NULL = zeros. */
__global__ static void __launch_bounds__(WIDEST)
    add_norm_bwd(struct targets to, float *part, const bf16 *ds, const bf16 *dz, const bf16 *s, const bf16 *w,
                 const float *r, int64_t n, int h)
{
    __shared__ float room[2][WIDEST / 32];
    const int64_t step = (int64_t)gridDim.x * blockDim.y, rounds = cut_parts(n, step);
    struct norm_row now;
    uint4 straight[EACH];
    float dw[EACH][VEC] = {};
    for (int64_t i = 0; i < rounds; i++) {
        const int64_t row = i * step + (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
        const bool live = row < n;
        load_row(now.x, s + row * h, live, h / VEC);
        load_row(now.dy, dz + row * h, live && dz, h / VEC);
        load_row(straight, ds + row * h, live && ds, h / VEC);
        const float scale = live ? r[row] : 0;
        const float mean = team_sum(norm_product(&now, w, h / VEC), room[i % 2]) * scale / h;
        finish_row(&now, straight, w, scale, mean, dw, &to, row * h, live ? h / VEC : 0);
    }
    if (part)
        store_part(part, dw, h);
}

extern "C" void add_norm_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], h = c->dim[H];
    const dim3 block = norm_block(h);
    add_norm_fwd<<<blocks_for(n, block.y), block, 0, stream_of(c)>>>(
        (bf16 *)c->arg[S], (bf16 *)c->arg[Z], (float *)c->arg[R], (const bf16 *)c->arg[X],
        (const bf16 *)c->arg[Y], (const bf16 *)c->arg[W], n, (int)h, (float)c->attr[0]);
    LAUNCHED();
}

extern "C" void add_norm_again_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], h = c->dim[H];
    const dim3 block = norm_block(h);
    add_norm_again<<<blocks_for(n, block.y), block, 0, stream_of(c)>>>(
        (bf16 *)c->arg[Z], (const bf16 *)c->arg[S], (const float *)c->arg[R], (const bf16 *)c->arg[W], n,
        (int)h);
    LAUNCHED();
}

extern "C" void add_norm_bwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], h = c->dim[H], parts = norm_parts(n, h);
    float *part = c->grad[W] ? (float *)c->work : NULL;
    struct targets to = { (bf16 *)c->grad[X], (bf16 *)c->grad[Y], adds(c, X), adds(c, Y) };
    CHECK(to.x != to.y || !to.x || (!to.add_x && !to.add_y), "a shared gradient that is added to");
    if (to.x == to.y)
        to.y = NULL;
    add_norm_bwd<<<(unsigned)parts, norm_block(h), 0, stream_of(c)>>>(
        to, part, (const bf16 *)c->grad[S], (const bf16 *)c->grad[Z], (const bf16 *)c->arg[S],
        (const bf16 *)c->arg[W], (const float *)c->arg[R], n, (int)h);
    LAUNCHED();
    if (part)
        norm_weight_gradient(c, W, part, parts, h);
}

extern "C" void add_norm_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(norm_parts(c->dim[N], c->dim[H]) * c->dim[H]) * sizeof(float);
}
