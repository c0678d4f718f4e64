/* add.c - z = x + y: the residual stream and the sum of expert paths. */
#include "base/pool.h"
#include "graph/op.h"
#include "ops/kernel.h"
enum { X, Y, Z, N = 0, H };
enum { EACH = 16384 }; /* elements of a task */

static void fwd_part(void *context, int64_t task)
{
    const struct call *c = context;
    const struct span s = cut_span(c->dim[N] * c->dim[H], EACH, task);
    const float *x = c->arg[X], *y = c->arg[Y];
    float *z = c->arg[Z];
    for (int64_t i = s.from; i < s.to; i++)
        z[i] = x[i] + y[i];
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N] * c->dim[H], EACH), fwd_part, (void *)c);
}

static void pass(const struct call *c, int arg, struct span s)
{
    const float *dz = c->grad[Z];
    float *out = c->grad[arg];
    if (out && adds(c, arg))
        for (int64_t i = s.from; i < s.to; i++)
            out[i] += dz[i];
    else if (out)
        memcpy(out + s.from, dz + s.from, (size_t)(s.to - s.from) * sizeof *out);
}

static void bwd_part(void *context, int64_t task)
{
    const struct call *c = context;
    const struct span s = cut_span(c->dim[N] * c->dim[H], EACH, task);
    pass(c, X, s);
    pass(c, Y, s);
}

static void bwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N] * c->dim[H], EACH), bwd_part, (void *)c);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N] * (double)c->dim[H];
    flops[0] = n;
    flops[1] = 0;
    bytes[0] = 12 * n;
    bytes[1] = 16 * n;
}

CUDA_KERNELS(add);
const struct op op_add = {
    .name = "add",
    .anno = "x: n h, y: n h -> z: n h",
    .cost = cost,
    .work = { [CUDA] = add_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = add_fwd_cuda },
    .passes = 1 << X | 1 << Y,
    .bwd = { [CPU] = bwd, [CUDA] = add_bwd_cuda },
    .cases =
        (const struct op_case[]){
            { .dim = { 1, 1 } }, { .dim = { 7, 9 } }, { .dim = { 300, 57 } }, { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { .dim = { 1, 8 } },
                                            { .dim = { 7, 72 } },
                                            { .dim = { 300, 56 } },
                                            { .dim = { 33, 2048 } },
                                            { .dim = { 0 } } },
};
