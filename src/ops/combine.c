/* combine.c - y[t] = sum over j, in this order, of z[place[t,j]]; the rows carry their gates already. row[i] is
 * negative where row i has no copy (sort.c). */
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { Z, ROW, PLACE, Y, R = 0, N, D, K };

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t d = c->dim[D], k = c->dim[K];
    const struct span s = cut_span(c->dim[N], cut_rows(d), task);
    const int32_t *place = c->arg[PLACE];
    const float *z = c->arg[Z];
    for (int64_t t = s.from; t < s.to; t++) {
        float *y = (float *)c->arg[Y] + t * d;
        memset(y, 0, (size_t)d * sizeof *y);
        for (int64_t j = t * k; j < (t + 1) * k; j++) {
            const float *from = z + place[j] * d;
            for (int64_t i = 0; i < d; i++)
                y[i] += from[i];
        }
    }
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[D])), fwd_rows, (void *)c);
}

static void zero_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const struct span s = cut_span(c->dim[R], cut_rows(c->dim[D]), task);
    float *dz = c->grad[Z];
    memset(dz + s.from * c->dim[D], 0, (size_t)((s.to - s.from) * c->dim[D]) * sizeof *dz);
}

static void bwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t d = c->dim[D], k = c->dim[K];
    const struct span s = cut_span(c->dim[N], cut_rows(d), task);
    const int32_t *place = c->arg[PLACE];
    const float *dy = c->grad[Y];
    float *dz = c->grad[Z];
    for (int64_t j = s.from * k; j < s.to * k; j++)
        for (int64_t i = 0; i < d; i++)
            dz[place[j] * d + i] += dy[j / k * d + i]; /* no other copy has this row */
}

static void bwd(const struct call *c)
{
    if (!c->grad[Z])
        return;
    if (!adds(c, Z))
        pool_run(cut_parts(c->dim[R], cut_rows(c->dim[D])), zero_rows, (void *)c);
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[D])), bwd_rows, (void *)c);
}

static void fill(const struct call *c, uint64_t seed)
{
    fill_rows(c->arg[ROW], c->arg[PLACE], c->dim[N] * c->dim[K], c->dim[R], seed);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], d = (double)c->dim[D], k = (double)c->dim[K];
    flops[0] = n * k * d;
    flops[1] = 0;
    bytes[0] = 4 * d * (n * k + n);
    bytes[1] = 4 * d * (2 * n * k + n + (double)c->dim[R]);
}

CUDA_KERNELS(combine);
const struct op op_combine = {
    .name = "combine",
    .anno = "z: r(n) d^, row: r(n) @i32, place: n k^ @i32 -> y: n d^",
    .saved = "row place",
    .cost = cost,
    .fwd = { [CPU] = fwd, [CUDA] = combine_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = combine_bwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { .dim = { 1, 1, 1, 1 } },
                                       { .dim = { 17, 5, 9, 3 } },
                                       { .dim = { 160, 50, 70, 3 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { .dim = { 1, 1, 8, 1 } },
                                            { .dim = { 17, 5, 24, 3 } },
                                            { .dim = { 160, 50, 72, 3 } },
                                            { .dim = { 400, 37, 520, 9 } },
                                            { .dim = { 1000, 129, 264, 6 } },
                                            { .dim = { 64, 7, 2056, 6 } },
                                            { .dim = { 0 } } },
};
