/* add_norm.c - a residual sum and the norm of it: s = x + y; z = w s r, r = 1 / sqrt(mean(s^2) + eps) for each token.
 * The gradients of x and y are the same: that of s, and what flows back through the norm. */
#include "base/pool.h"
#include "graph/op.h"
#include "ops/norm.h"
enum { X, Y, W, S, Z, R, N = 0, H };

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t h = c->dim[H];
    const struct span rows = cut_span(c->dim[N], cut_rows(h), task);
    const float *x = c->arg[X], *y = c->arg[Y];
    float *s = c->arg[S], *z = c->arg[Z], *r = c->arg[R];
    for (int64_t n = rows.from; n < rows.to; n++) {
        for (int64_t i = n * h; i < (n + 1) * h; i++)
            s[i] = x[i] + y[i];
        r[n] = norm_of_row(s + n * h, h, c->attr[0]);
        norm_scale_row(z + n * h, s + n * h, c->arg[W], r[n], h);
    }
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[H])), fwd_rows, (void *)c);
}

static void again_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t h = c->dim[H];
    const struct span rows = cut_span(c->dim[N], cut_rows(h), task);
    for (int64_t n = rows.from; n < rows.to; n++)
        norm_scale_row((float *)c->arg[Z] + n * h, (const float *)c->arg[S] + n * h, c->arg[W],
                       ((const float *)c->arg[R])[n], h);
}

/* z from s and r */
static void again(const struct call *c)
{
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[H])), again_rows, (void *)c);
}

/* g = ds + gradient through the norm; either of ds and dz may be missing */
static void gradient_row(float *g, const float *ds, const float *dz, const float *s, const float *w, float r,
                         int64_t h)
{
    if (dz)
        norm_bwd_row(g, dz, s, w, r, h, false);
    else
        memset(g, 0, (size_t)h * sizeof *g);
    for (int64_t i = 0; ds && i < h; i++)
        g[i] += ds[i];
}

static void put_row(const struct call *c, int arg, int64_t row, const float *g)
{
    const int64_t h = c->dim[H];
    float *out = c->grad[arg] ? (float *)c->grad[arg] + row * h : NULL;
    if (out && adds(c, arg))
        for (int64_t i = 0; i < h; i++)
            out[i] += g[i];
    else if (out)
        memcpy(out, g, (size_t)h * sizeof *out);
}

/* grad[S], grad[X] and grad[Y] may be one buffer: a row is written when all of it has been read. */
static void bwd_part(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t h = c->dim[H];
    const struct span rows = cut_span(c->dim[N], norm_bwd_rows(c->dim[N]), task);
    const float *s = c->arg[S], *r = c->arg[R], *ds = c->grad[S], *dz = c->grad[Z];
    float *dw = (float *)c->work + task * h, *g = (float *)c->work + (norm_bwd_parts(c->dim[N]) + task) * h;
    memset(dw, 0, (size_t)h * sizeof *dw);
    for (int64_t n = rows.from; n < rows.to; n++) {
        const float *dz_row = dz ? dz + n * h : NULL;
        gradient_row(g, ds ? ds + n * h : NULL, dz_row, s + n * h, c->arg[W], r[n], h);
        if (dz)
            norm_weight_row(dw, dz_row, s + n * h, r[n], h);
        put_row(c, X, n, g);
        put_row(c, Y, n, g);
    }
}

static void bwd(const struct call *c)
{
    const int64_t h = c->dim[H], parts = norm_bwd_parts(c->dim[N]);
    pool_run(parts, bwd_part, (void *)c);
    if (c->grad[W])
        norm_add_parts(c->grad[W], adds(c, W), c->work, parts, h);
}

/* parts of dw, then a row for each task */
static void work(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(2 * norm_bwd_parts(c->dim[N]) * c->dim[H]) * sizeof(float);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], h = (double)c->dim[H];
    flops[0] = 5 * n * h;
    flops[1] = 12 * n * h;
    bytes[0] = 16 * n * h;
    bytes[1] = 16 * n * h;
}

CUDA_KERNELS(add_norm);
const struct op op_add_norm = {
    .name = "add_norm",
    .anno = "x: n h^, y: n h^, w: h^ -> s: n h^, z: n h^, r: n @f32",
    .attrs = "eps",
    .saved = "w s r",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = add_norm_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = add_norm_fwd_cuda },
    .again = { [CPU] = again, [CUDA] = add_norm_again_cuda },
    .joins = true,
    .bwd = { [CPU] = bwd, [CUDA] = add_norm_bwd_cuda },
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
                                            { { 2201, 2048 }, { 1e-6 } },
                                            { { 5, 5120 }, { 1e-6 } },
                                            { { 3, 16384 }, { 1e-6 } },
                                            { .dim = { 0 } } },
};
