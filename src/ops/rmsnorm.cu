/* rmsnorm.cu - y = w x r: norm.cuh. */
#include "ops/norm.cuh"
enum { X, W, Y, R, N = 0, H };

__global__ static void __launch_bounds__(WIDEST)
    rmsnorm_fwd(bf16 *y, float *r, const bf16 *x, const bf16 *w, int64_t n, int h, float eps)
{
    __shared__ float room[WIDEST / 32];
    const int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    uint4 raw[EACH];
    load_row(raw, x + row * h, row < n, h / VEC);
    const float scale = norm_of_row(raw, h, eps, room);
    if (row >= n)
        return;
    if (threadIdx.x == 0)
        r[row] = scale;
    norm_scale_row(y + row * h, raw, w, scale, h / VEC);
}

/* part [gridDim.x, h], NULL when dw is not wanted. */
__global__ static void __launch_bounds__(WIDEST)
    rmsnorm_bwd(bf16 *dx, float *part, const bf16 *dy, const bf16 *x, const bf16 *w, const float *r,
                int64_t n, int h, bool add)
{
    __shared__ float room[2][WIDEST / 32];
    const int64_t step = (int64_t)gridDim.x * blockDim.y, rounds = cut_parts(n, step);
    float dw[EACH][VEC] = {};
    for (int64_t i = 0; i < rounds; i++) {
        const int64_t row = i * step + (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
        const bool live = row < n;
        norm_bwd_row(dx && live ? dx + row * h : NULL, dw, dy + row * h, x + row * h, w, live ? r[row] : 0,
                     live, h, add, room[i % 2]);
    }
    if (part)
        store_part(part, dw, h);
}

extern "C" void rmsnorm_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], h = c->dim[H];
    const dim3 block = norm_block(h);
    rmsnorm_fwd<<<blocks_for(n, block.y), block, 0, stream_of(c)>>>(
        (bf16 *)c->arg[Y], (float *)c->arg[R], (const bf16 *)c->arg[X], (const bf16 *)c->arg[W], n, (int)h,
        (float)c->attr[0]);
    LAUNCHED();
}

extern "C" void rmsnorm_bwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], h = c->dim[H], parts = norm_parts(n, h);
    float *part = c->grad[W] ? (float *)c->work : NULL;
    if (!c->grad[Y]) {
        grad_clear(c, X, n * h);
        grad_clear(c, W, h);
        return;
    }
    rmsnorm_bwd<<<(unsigned)parts, norm_block(h), 0, stream_of(c)>>>(
        (bf16 *)c->grad[X], part, (const bf16 *)c->grad[Y], (const bf16 *)c->arg[X], (const bf16 *)c->arg[W],
        (const float *)c->arg[R], n, (int)h, adds(c, X));
    LAUNCHED();
    if (part)
        norm_weight_gradient(c, W, part, parts, h);
}

extern "C" void rmsnorm_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(norm_parts(c->dim[N], c->dim[H]) * c->dim[H]) * sizeof(float);
}
