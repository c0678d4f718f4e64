/* combine.c - y[t] = sum over j, in this order, of gate[t,j] z[place[t,j]]. */
#include "base/num.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { Z, GATE, PLACE, Y, R = 0, N, D, K };

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t d = c->dim[D], k = c->dim[K];
    const struct span s = cut_span(c->dim[N], cut_rows(d), task);
    const int32_t *place = c->arg[PLACE];
    const float *z = c->arg[Z], *gate = c->arg[GATE];
    for (int64_t t = s.from; t < s.to; t++) {
        float *y = (float *)c->arg[Y] + t * d;
        memset(y, 0, (size_t)d * sizeof *y);
        for (int64_t j = t * k; j < (t + 1) * k; j++) {
            const float *from = z + place[j] * d;
            for (int64_t i = 0; i < d; i++)
                y[i] += gate[j] * from[i];
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
    const float *z = c->arg[Z], *gate = c->arg[GATE], *dy = c->grad[Y];
    float *dz = c->grad[Z], *dgate = c->grad[GATE];
    for (int64_t j = s.from * k; j < s.to * k; j++) {
        const float *from = dy + j / k * d;
        if (dgate)
            dgate[j] = (adds(c, GATE) ? dgate[j] : 0) + dot(from, z + place[j] * d, d);
        for (int64_t i = 0; i < d && dz; i++)
            dz[place[j] * d + i] += gate[j] * from[i]; /* no other copy has this row */
    }
}

static void bwd(const struct call *c)
{
    if (c->grad[Z] && !adds(c, Z))
        pool_run(cut_parts(c->dim[R], cut_rows(c->dim[D])), zero_rows, (void *)c);
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[D])), bwd_rows, (void *)c);
}

static void fill(const struct call *c, uint64_t seed)
{
    fill_place(c->arg[PLACE], c->dim[N] * c->dim[K], c->dim[R], seed);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], d = (double)c->dim[D], k = (double)c->dim[K];
    flops[0] = 2 * n * k * d;
    flops[1] = 3 * n * k * d;
    bytes[0] = 4 * d * (n * k + n);
    bytes[1] = 4 * d * (3 * n * k + n + (double)c->dim[R]);
}

const struct op op_combine = {
    .name = "combine",
    .anno = "z: r(n) d^, gate: n k^ @f32, place: n k^ @i32 -> y: n d^",
    .saved = "z gate place",
    .cost = cost,
    .fwd = { [CPU] = fwd },
    .bwd = { [CPU] = bwd },
    .fill = fill,
    .cases = (const struct op_case[]){ { .dim = { 1, 1, 1, 1 } },
                                       { .dim = { 17, 5, 9, 3 } },
                                       { .dim = { 160, 50, 70, 3 } },
                                       { .dim = { 0 } } },
};
