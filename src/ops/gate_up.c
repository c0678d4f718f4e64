/* gate_up.c - first half of a dense MLP: h = x w^T with w = [gate rows, up rows], so that a row of h is [gate | up];
 * y = silu(gate) up, silu(g) = g sigmoid(g) (arXiv 2002.05202). */
#include "base/blas.h"
#include "base/err.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/kernel.h"
#include "ops/vector.h"
enum { X, W, HID, Y, N = 0, D, G, F };
struct state {
    const struct call *c;
    int64_t panel_rows;
};

WIDE static void silu_times(float *restrict y, const float *restrict h, int64_t f)
{
    for (int64_t i = 0; i < f; i++)
        y[i] = h[i] * vector_sigmoid(h[i]) * h[f + i];
}

static void activate(const struct call *c, struct span rows)
{
    const int64_t f = c->dim[F];
    for (int64_t i = rows.from; i < rows.to; i++)
        silu_times((float *)c->arg[Y] + i * f, (const float *)c->arg[HID] + i * 2 * f, f);
}

static void fwd_panel(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const int64_t d = c->dim[D], width = 2 * c->dim[F];
    const struct span rows = cut_span(c->dim[N], s->panel_rows, task);
    gemm(NO, TR, rows.to - rows.from, width, d, 1, (const float *)c->arg[X] + rows.from * d, d, c->arg[W], d,
         0, (float *)c->arg[HID] + rows.from * width, width);
    activate(c, rows);
}

static struct state state_of(const struct call *c, int64_t columns, int64_t inner)
{
    CHECK(c->dim[G] == 2, "%lld matrices in w", (long long)c->dim[G]);
    return (struct state){ c, gemm_panel_rows(c->dim[N], columns, inner) };
}

static void fwd(const struct call *c)
{
    struct state s = state_of(c, 2 * c->dim[F], c->dim[D]);
    pool_run(cut_parts(c->dim[N], s.panel_rows), fwd_panel, &s);
}

static void again_rows(void *context, int64_t task)
{
    const struct call *c = context;
    activate(c, cut_span(c->dim[N], cut_rows(c->dim[F]), task));
}

/* y from h, without the product */
static void again(const struct call *c)
{
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[F])), again_rows, (void *)c);
}

WIDE static void silu_times_bwd(float *restrict dh, const float *restrict h, const float *restrict dy,
                                int64_t f)
{
    for (int64_t i = 0; i < f; i++) {
        const float gate = h[i], up = h[f + i], sigma = vector_sigmoid(gate);
        dh[i] = dy[i] * up * sigma * (1 + gate * (1 - sigma));
        dh[f + i] = dy[i] * gate * sigma;
    }
}

/* dh in c->work, and dx = dh w while it is in the cache */
static void bwd_panel(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const int64_t d = c->dim[D], f = c->dim[F], width = 2 * f;
    const struct span rows = cut_span(c->dim[N], s->panel_rows, task);
    float *dh = c->work;
    for (int64_t i = rows.from; i < rows.to; i++)
        silu_times_bwd(dh + i * width, (const float *)c->arg[HID] + i * width,
                       (const float *)c->grad[Y] + i * f, f);
    if (c->grad[X])
        gemm(NO, NO, rows.to - rows.from, d, width, 1, dh + rows.from * width, width, c->arg[W], d,
             beta_of(c, X), (float *)c->grad[X] + rows.from * d, d);
}

static void bwd(const struct call *c)
{
    const int64_t n = c->dim[N], d = c->dim[D], width = 2 * c->dim[F];
    struct state s = state_of(c, d, width);
    pool_run(cut_parts(n, s.panel_rows), bwd_panel, &s);
    if (c->grad[W])
        gemm_panels(TR, NO, width, d, n, 1, c->work, width, c->arg[X], d, beta_of(c, W), c->grad[W], d);
}

static void work(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(c->dim[N] * 2 * c->dim[F]) * sizeof(float);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], d = (double)c->dim[D], f = (double)c->dim[F];
    flops[0] = 4 * n * d * f + 20 * n * f;
    flops[1] = 8 * n * d * f + 50 * n * f;
    bytes[0] = 4 * (n * d + 2 * f * d + 5 * n * f);
    bytes[1] = 4 * (2 * n * d + 4 * f * d + 9 * n * f);
}

CUDA_KERNELS(gate_up);
const struct op op_gate_up = {
    .name = "gate_up",
    .anno = "x: n d^, w: g^ f d^ -> h: n g^ f, y: n f",
    .saved = "x w h",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = gate_up_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = gate_up_fwd_cuda },
    .again = { [CPU] = again, [CUDA] = gate_up_again_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = gate_up_bwd_cuda },
    .cases = (const struct op_case[]){ { .dim = { 1, 1, 2, 1 } },
                                       { .dim = { 5, 33, 2, 13 } },
                                       { .dim = { 300, 24, 2, 70 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { .dim = { 1, 8, 2, 8 } },
                                            { .dim = { 5, 40, 2, 104 } },
                                            { .dim = { 299, 72, 2, 72 } },
                                            { .dim = { 3, 64, 2, 10944 } },
                                            { .dim = { 1031, 264, 2, 200 } },
                                            { .dim = { 0 } } },
};
