/* combine_add.c - combine.c with a summand: y[t] = sum over j, in this order, of z[place[t,j]], + base[t]: the paths
 * of all experts, of which base are those that every token takes. */
#include "graph/op.h"
#include "ops/combine.h"
enum { Z, BASE, ROW, PLACE, Y, R = 0, N, D, K };

static void fwd(const struct call *c)
{
    struct combine m = combine_of(c, BASE, PLACE, Y);
    combine_sum(&m);
}

static void pass_part(void *context, int64_t task)
{
    const struct call *c = context;
    const struct span s = cut_span(c->dim[N], cut_rows(c->dim[D]), task);
    const float *dy = c->grad[Y];
    float *out = c->grad[BASE];
    for (int64_t i = s.from * c->dim[D]; i < s.to * c->dim[D]; i++)
        out[i] = (adds(c, BASE) ? out[i] : 0) + (dy ? dy[i] : 0);
}

static void bwd(const struct call *c)
{
    struct combine m = combine_of(c, BASE, PLACE, Y);
    if (m.dz)
        combine_spread(&m, adds(c, Z));
    if (c->grad[BASE])
        pool_run(cut_parts(c->dim[N], cut_rows(c->dim[D])), pass_part, (void *)c);
}

static void fill(const struct call *c, uint64_t seed)
{
    fill_rows(c->arg[ROW], c->arg[PLACE], c->dim[N] * c->dim[K], c->dim[R], seed);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], d = (double)c->dim[D], k = (double)c->dim[K];
    flops[0] = n * k * d + n * d;
    flops[1] = 0;
    bytes[0] = 4 * d * (n * k + 2 * n);
    bytes[1] = 4 * d * (n + (double)c->dim[R]);
}

CUDA_KERNELS(combine_add);
const struct op op_combine_add = {
    .name = "combine_add",
    .anno = "z: r(n) d^, base: n d^, row: r(n) @i32, place: n k^ @i32 -> y: n d^",
    .saved = "row place",
    .grad_copies = { .of = Z, .row = ROW, .place = PLACE, .each = K },
    .cost = cost,
    .passes = 1 << BASE,
    .sums = 1 << Z | 1 << BASE,
    .fwd = { [CPU] = fwd, [CUDA] = combine_add_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = combine_add_bwd_cuda },
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
