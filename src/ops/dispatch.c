/* dispatch.c - copies tokens to their rows: xs[i] = x[row[i] / k], zeros where row[i] = -1. */
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { X, ROW, PLACE, XS, N = 0, D, R, K };

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t d = c->dim[D], k = c->dim[K];
    const struct span s = cut_span(c->dim[R], cut_rows(d), task);
    const int32_t *row = c->arg[ROW];
    const float *x = c->arg[X];
    float *xs = c->arg[XS];
    for (int64_t i = s.from; i < s.to; i++)
        if (row[i] < 0)
            memset(xs + i * d, 0, (size_t)d * sizeof *xs);
        else
            memcpy(xs + i * d, x + row[i] / k * d, (size_t)d * sizeof *xs);
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[R], cut_rows(c->dim[D])), fwd_rows, (void *)c);
}

static void bwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t d = c->dim[D], k = c->dim[K];
    const struct span s = cut_span(c->dim[N], cut_rows(d), task);
    const int32_t *place = c->arg[PLACE];
    const float *dxs = c->grad[XS];
    for (int64_t t = s.from; t < s.to; t++) {
        float *dx = (float *)c->grad[X] + t * d;
        if (!adds(c, X))
            memset(dx, 0, (size_t)d * sizeof *dx);
        for (int64_t j = 0; j < k; j++) {
            const float *from = dxs + place[t * k + j] * d;
            for (int64_t i = 0; i < d; i++)
                dx[i] += from[i];
        }
    }
}

static void bwd(const struct call *c)
{
    if (c->grad[X])
        pool_run(cut_parts(c->dim[N], cut_rows(c->dim[D])), bwd_rows, (void *)c);
}

static void fill(const struct call *c, uint64_t seed)
{
    const int64_t copies = c->dim[N] * c->dim[K];
    int32_t *row = c->arg[ROW], *place = c->arg[PLACE];
    fill_place(place, copies, c->dim[R], seed);
    for (int64_t i = 0; i < c->dim[R]; i++)
        row[i] = -1;
    for (int64_t i = 0; i < copies; i++)
        row[place[i]] = (int32_t)i;
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], d = (double)c->dim[D], k = (double)c->dim[K];
    flops[0] = 0;
    flops[1] = n * k * d;
    bytes[0] = 4 * d * (n * k + (double)c->dim[R]);
    bytes[1] = 4 * d * (n * k + n);
}

const struct op op_dispatch = {
    .name = "dispatch",
    .anno = "x: n d^, row: r(n) @i32, place: n k^ @i32 -> xs: r(n) d^",
    .saved = "place",
    .cost = cost,
    .fwd = { [CPU] = fwd },
    .bwd = { [CPU] = bwd },
    .fill = fill,
    .cases = (const struct op_case[]){ { .dim = { 1, 1, 1, 1 } },
                                       { .dim = { 5, 9, 17, 3 } },
                                       { .dim = { 50, 70, 160, 3 } },
                                       { .dim = { 0 } } },
};
