/* sqsum.c - sum of squares, in float64, of each chunk of h elements; the caller adds the chunks in order. */
#include "base/num.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/kernel.h"
enum { G, SUM, C = 0, H };

static void fwd_chunks(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t h = c->dim[H];
    const struct span s = cut_span(c->dim[C], cut_rows(h), task);
    for (int64_t i = s.from; i < s.to; i++)
        ((double *)c->arg[SUM])[i] = num_sum_squares((const float *)c->arg[G] + i * h, h);
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[C], cut_rows(c->dim[H])), fwd_chunks, (void *)c);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[C] * (double)c->dim[H];
    flops[0] = 2 * n;
    bytes[0] = 4 * n;
    flops[1] = bytes[1] = 0;
}

CUDA_KERNELS(sqsum);
const struct op op_sqsum = {
    .name = "sqsum",
    .anno = "g: (c h^) -> sum: c @f64",
    .attrs = "h",
    .cost = cost,
    .work = { [CUDA] = sqsum_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = sqsum_fwd_cuda },
    .cases =
        (const struct op_case[]){
            { { 1, 1 }, { 1 } }, { { 5, 37 }, { 37 } }, { { 3, 5000 }, { 5000 } }, { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 8 }, { 8 } },
                                            { { 5, 40 }, { 40 } },
                                            { { 1003, 64 }, { 64 } },
                                            { { 7, 2056 }, { 2056 } },
                                            { { 3, 5000 }, { 5000 } },
                                            { { 2, 100008 }, { 100008 } },
                                            { .dim = { 0 } } },
};
