/* latent.c - what MLA makes of its compressed keys (arXiv 2405.04434): a row of x is [latent | rope key]. y is the
 * latent after rmsnorm, k_rope the key with its pairs turned (rope.h); r = 1/sqrt(...) is kept for backward. */
#include "base/err.h"
#include "base/pool.h"
#include "ops/norm.h"
#include "ops/rope.h"
enum { X, W, TABLE, Y, K_ROPE, R, B = 0, S, C, H, T };

static int64_t rows_of(const struct call *c)
{
    CHECK(c->dim[C] == c->dim[H] + c->dim[T], "rows of %lld elements: expected %lld + %lld",
          (long long)c->dim[C], (long long)c->dim[H], (long long)c->dim[T]);
    return c->dim[B] * c->dim[S];
}

static const float *table_row(const struct call *c, int64_t n)
{
    return (const float *)c->arg[TABLE] + n % c->dim[S] * c->dim[T];
}

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t h = c->dim[H], t = c->dim[T];
    const struct span s = cut_span(rows_of(c), cut_rows(c->dim[C]), task);
    float *r = c->arg[R];
    for (int64_t n = s.from; n < s.to; n++) {
        const float *x = (const float *)c->arg[X] + n * c->dim[C];
        r[n] = norm_of_row(x, h, c->attr[0]);
        norm_scale_row((float *)c->arg[Y] + n * h, x, c->arg[W], r[n], h);
        rope_turn((float *)c->arg[K_ROPE] + n * t, x + h, table_row(c, n), t / 2, 1);
    }
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(rows_of(c), cut_rows(c->dim[C])), fwd_rows, (void *)c);
}

/* n numbers that nothing flows into */
static void put_zeros(float *dx, int64_t n, bool add)
{
    if (!add)
        memset(dx, 0, (size_t)n * sizeof *dx);
}

/* The gradient of the key in row n of x. */
static void key_bwd(const struct call *c, int64_t n, float *dx)
{
    const int64_t t = c->dim[T];
    const float *dk = c->grad[K_ROPE];
    if (!dk)
        put_zeros(dx, t, adds(c, X));
    else
        (adds(c, X) ? rope_turn_add : rope_turn)(dx, dk + n * t, table_row(c, n), t / 2, -1);
}

static void bwd_part(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t h = c->dim[H], rows = rows_of(c);
    const struct span s = cut_span(rows, norm_bwd_rows(rows), task);
    const float *dy = c->grad[Y], *r = c->arg[R];
    float *dw = (float *)c->work + task * h;
    memset(dw, 0, (size_t)h * sizeof *dw);
    for (int64_t n = s.from; n < s.to; n++) {
        const float *x = (const float *)c->arg[X] + n * c->dim[C];
        float *dx = c->grad[X] ? (float *)c->grad[X] + n * c->dim[C] : NULL;
        if (dy && dx)
            norm_bwd_row(dx, dy + n * h, x, c->arg[W], r[n], h, adds(c, X));
        if (dy)
            norm_weight_row(dw, dy + n * h, x, r[n], h);
        else if (dx)
            put_zeros(dx, h, adds(c, X));
        if (dx)
            key_bwd(c, n, dx + h);
    }
}

static void bwd(const struct call *c)
{
    const int64_t parts = norm_bwd_parts(rows_of(c));
    pool_run(parts, bwd_part, (void *)c);
    if (c->grad[W])
        norm_add_parts(c->grad[W], adds(c, W), c->work, parts, c->dim[H]);
}

static void work(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(norm_bwd_parts(rows_of(c)) * c->dim[H]) * sizeof(float);
}

static void fill(const struct call *c, uint64_t seed)
{
    (void)seed;
    rope_fill_table(c->arg[TABLE], c->dim[S], c->dim[T] / 2);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)(c->dim[B] * c->dim[S]), h = (double)c->dim[H], t = (double)c->dim[T];
    flops[0] = n * (4 * h + 3 * t);
    flops[1] = n * (11 * h + 3 * t);
    bytes[0] = n * 8 * (h + t);
    bytes[1] = n * (12 * h + 8 * t);
}

CUDA_KERNELS(latent);
const struct op op_latent = {
    .name = "latent",
    .anno = "x: b s^ c^, w: h^, table: s^ t^ @f32 -> y: b s^ h^, k_rope: b s^ t^, r: b s^ @f32",
    .attrs = "eps",
    .saved = "x w table r",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = latent_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = latent_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = latent_bwd_cuda },
    .fill = fill,
    /* b s c h t */
    .cases = (const struct op_case[]){ { { 1, 1, 10, 8, 2 }, { 1e-6 } },
                                       { { 2, 5, 37, 33, 4 }, { 1e-2 } },
                                       { { 3, 41, 536, 520, 16 }, { 1e-6 } },
                                       { { 4, 150, 82, 16, 66 }, { 1e-6 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 16, 8, 8 }, { 1e-6 } },
                                            { { 3, 41, 64, 40, 24 }, { 1e-2 } },
                                            { { 2, 601, 576, 512, 64 }, { 1e-6 } },
                                            { { 1, 4523, 80, 16, 64 }, { 1e-6 } },
                                            { { 2, 150, 1792, 1536, 256 }, { 1e-6 } },
                                            { { 1, 5, 5184, 5120, 64 }, { 1e-6 } },
                                            { .dim = { 0 } } },
};
