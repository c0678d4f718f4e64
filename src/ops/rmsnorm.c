/* rmsnorm.c - y = w x / sqrt(mean(x^2) + eps) for each token (arXiv 1910.07467); r = 1/sqrt(...) is kept for
 * backward. */
#include "base/pool.h"
#include "graph/op.h"
#include "ops/norm.h"
enum { X, W, Y, R, N = 0, H };

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t h = c->dim[H];
    const struct span s = cut_span(c->dim[N], cut_rows(h), task);
    const float *w = c->arg[W], *x = (const float *)c->arg[X] + s.from * h;
    float *y = (float *)c->arg[Y] + s.from * h, *r = c->arg[R];
    for (int64_t n = s.from; n < s.to; n++, x += h, y += h) {
        r[n] = norm_of_row(x, h, c->attr[0]);
        norm_scale_row(y, x, w, r[n], h);
    }
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[H])), fwd_rows, (void *)c);
}

static void bwd_part(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t h = c->dim[H];
    const struct span s = cut_span(c->dim[N], norm_bwd_rows(c->dim[N]), task);
    const float *x = c->arg[X], *w = c->arg[W], *r = c->arg[R], *dy = c->grad[Y];
    float *dx = c->grad[X], *dw = (float *)c->work + task * h;
    memset(dw, 0, (size_t)h * sizeof *dw);
    for (int64_t n = s.from; n < s.to; n++) {
        const float *xn = x + n * h, *dyn = dy + n * h;
        if (dx)
            norm_bwd_row(dx + n * h, dyn, xn, w, r[n], h, adds(c, X));
        norm_weight_row(dw, dyn, xn, r[n], h);
    }
}

static void bwd(const struct call *c)
{
    const int64_t h = c->dim[H], parts = norm_bwd_parts(c->dim[N]);
    pool_run(parts, bwd_part, (void *)c);
    if (c->grad[W])
        norm_add_parts(c->grad[W], adds(c, W), c->work, parts, h);
}

static void work(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(norm_bwd_parts(c->dim[N]) * c->dim[H]) * sizeof(float);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], h = (double)c->dim[H];
    flops[0] = 4 * n * h;
    flops[1] = 11 * n * h;
    bytes[0] = 8 * n * h;
    bytes[1] = 12 * n * h;
}

CUDA_KERNELS(rmsnorm);
const struct op op_rmsnorm = {
    .name = "rmsnorm",
    .anno = "x: n h^, w: h^ -> y: n h^, r: n @f32",
    .attrs = "eps",
    .saved = "x w r",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = rmsnorm_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = rmsnorm_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = rmsnorm_bwd_cuda },
    .cases = (const struct op_case[]){ { { 1, 8 }, { 1e-6 } },
                                       { { 3, 520 }, { 1e-6 } },
                                       { { 67, 33 }, { 1e-2 } },
                                       { { 600, 16 }, { 1e-6 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 8 }, { 1e-6 } },
                                            { { 3, 520 }, { 1e-6 } },
                                            { { 67, 40 }, { 1e-2 } },
                                            { { 2111, 16 }, { 1e-6 } },
                                            { { 301, 1536 }, { 1e-6 } },
                                            { { 1201, 512 }, { 1e-6 } },
                                            { { 531, 2048 }, { 1e-6 } },
                                            { { 5, 5120 }, { 1e-6 } },
                                            { { 3, 16384 }, { 1e-6 } },
                                            { .dim = { 0 } } },
};
