/* dispatch.c - copies tokens and their gates to their rows: xs[i] = x[row[i] / k], gates[i] = gate[row[i]]; zeros
 * where row[i] = -1; rows behind the last tile (-2) are left open on CUDA. */
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { X, GATE, ROW, PLACE, XS, GATES, N = 0, D, K, R };

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t d = c->dim[D], k = c->dim[K];
    const struct span s = cut_span(c->dim[R], cut_rows(d), task);
    const int32_t *row = c->arg[ROW];
    const float *x = c->arg[X];
    float *xs = c->arg[XS], *gates = c->arg[GATES];
    for (int64_t i = s.from; i < s.to; i++) {
        gates[i] = row[i] < 0 ? 0 : ((const float *)c->arg[GATE])[row[i]];
        if (row[i] < 0)
            memset(xs + i * d, 0, (size_t)d * sizeof *xs);
        else
            memcpy(xs + i * d, x + row[i] / k * d, (size_t)d * sizeof *xs);
    }
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
        for (int64_t j = 0; j < k && dxs; j++) {
            const float *from = dxs + place[t * k + j] * d;
            for (int64_t i = 0; i < d; i++)
                dx[i] += from[i];
        }
    }
}

static void bwd_gates(const struct call *c)
{
    const int32_t *place = c->arg[PLACE];
    const float *from = c->grad[GATES];
    float *dgate = c->grad[GATE];
    for (int64_t i = 0; i < c->dim[N] * c->dim[K]; i++) {
        const float g = from ? from[place[i]] : 0;
        dgate[i] = adds(c, GATE) ? dgate[i] + g : g;
    }
}

static void bwd(const struct call *c)
{
    if (c->grad[X])
        pool_run(cut_parts(c->dim[N], cut_rows(c->dim[D])), bwd_rows, (void *)c);
    if (c->grad[GATE])
        bwd_gates(c);
}

static void fill(const struct call *c, uint64_t seed)
{
    fill_rows(c->arg[ROW], c->arg[PLACE], c->dim[N] * c->dim[K], c->dim[R], seed);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], d = (double)c->dim[D], k = (double)c->dim[K];
    flops[0] = 0;
    flops[1] = n * k * d;
    bytes[0] = 4 * d * (n * k + (double)c->dim[R]);
    bytes[1] = 4 * d * (n * k + n);
}

CUDA_KERNELS(dispatch);
const struct op op_dispatch = {
    .name = "dispatch",
    .anno = "x: n d^, gate: n k^ @f32, row: r(n) @i32, place: n k^ @i32 -> xs: r(n) d^, gates: r(n) @f32",
    .saved = "place",
    .copies = { .of = XS, .row = ROW, .place = PLACE, .each = K },
    .cost = cost,
    .fwd = { [CPU] = fwd, [CUDA] = dispatch_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = dispatch_bwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { .dim = { 1, 1, 1, 1 } },
                                       { .dim = { 5, 9, 3, 17 } },
                                       { .dim = { 50, 70, 3, 160 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { .dim = { 1, 8, 1, 1 } },
                                            { .dim = { 5, 24, 3, 17 } },
                                            { .dim = { 50, 72, 3, 160 } },
                                            { .dim = { 37, 520, 9, 400 } },
                                            { .dim = { 129, 264, 6, 1000 } },
                                            { .dim = { 7, 2056, 6, 64 } },
                                            { .dim = { 0 } } },
};
