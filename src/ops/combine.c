/* combine.c - y[t] = sum over j, in this order, of z[place[t,j]]; the rows carry their gates already. row[i] is
 * negative where row i has no copy (sort.c). */
#include "ops/combine.h"
#include "graph/op.h"
enum { Z, ROW, PLACE, Y, R = 0, N, D, K };

static void fwd(const struct call *c)
{
    struct combine m = combine_of(c, -1, PLACE, Y);
    combine_sum(&m);
}

static void bwd(const struct call *c)
{
    struct combine m = combine_of(c, -1, PLACE, Y);
    if (m.dz)
        combine_spread(&m, adds(c, Z));
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
    .grad_copies = { .of = Z, .row = ROW, .place = PLACE, .each = K },
    .sums = 1 << Z,
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
