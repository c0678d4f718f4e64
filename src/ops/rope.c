/* rope.c - rotates the last c entries of each head's h in interleaved pairs (2i, 2i+1) by the angle of the
 * position; a row of the table holds c/2 cosines, then c/2 sines. Backward turns the other way. In place, the other
 * entries are not touched. */
#include "ops/rope.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/kernel.h"
enum { X, TABLE, Y, B = 0, S, A, H, C };

/* One head of one position. */
static void head(const struct call *c, float *y, const float *x, const float *table, float sign, bool add)
{
    const int64_t plain = c->dim[H] - c->dim[C], half = c->dim[C] / 2;
    if (y == x) {
        rope_turn_in_place(y + plain, table, half, sign);
        return;
    }
    if (!add) {
        memcpy(y, x, (size_t)plain * sizeof *y);
        rope_turn(y + plain, x + plain, table, half, sign);
        return;
    }
    for (int64_t i = 0; i < plain; i++)
        y[i] += x[i];
    rope_turn_add(y + plain, x + plain, table, half, sign);
}

static void rows(const struct call *c, int64_t task, float *y, const float *x, float sign, bool add)
{
    const int64_t width = c->dim[A] * c->dim[H];
    const struct span s = cut_span(c->dim[B] * c->dim[S], cut_rows(width), task);
    for (int64_t n = s.from; n < s.to; n++) {
        const float *table = (const float *)c->arg[TABLE] + n % c->dim[S] * c->dim[C];
        for (int64_t a = 0; a < c->dim[A]; a++) {
            const int64_t at = n * width + a * c->dim[H];
            head(c, y + at, x + at, table, sign, add);
        }
    }
}

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    rows(c, task, c->arg[Y], c->arg[X], 1, false);
}

static void bwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    rows(c, task, c->grad[X], c->grad[Y], -1, adds(c, X));
}

static int64_t tasks(const struct call *c)
{
    return cut_parts(c->dim[B] * c->dim[S], cut_rows(c->dim[A] * c->dim[H]));
}

static void fwd(const struct call *c)
{
    pool_run(tasks(c), fwd_rows, (void *)c);
}

static void bwd(const struct call *c)
{
    if (c->grad[X])
        pool_run(tasks(c), bwd_rows, (void *)c);
}

static void fill(const struct call *c, uint64_t seed)
{
    (void)seed;
    rope_fill_table(c->arg[TABLE], c->dim[S], c->dim[C] / 2);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double heads = (double)c->dim[B] * (double)c->dim[S] * (double)c->dim[A];
    flops[0] = flops[1] = 3 * heads * (double)c->dim[C];
    bytes[0] = bytes[1] = 8 * heads * (double)c->dim[H];
}

CUDA_KERNELS(rope);
const struct op op_rope = {
    .name = "rope",
    .anno = "x: b s^ (a h^), table: s^ c^ @f32 -> y: b s^ (a h^)",
    .attrs = "h",
    .saved = "table",
    .cost = cost,
    .work = { [CUDA] = rope_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = rope_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = rope_bwd_cuda },
    .fill = fill,
    .in_place = true,
    .cases = (const struct op_case[]){ { { 1, 1, 1, 2, 2 }, { 2 } },
                                       { { 2, 5, 3, 7, 4 }, { 7 } },
                                       { { 3, 40, 4, 48, 16 }, { 48 } },
                                       { { 2, 9, 1, 64, 64 }, { 64 } },
                                       { { 1, 3, 2, 145, 142 }, { 145 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 1, 8, 8 }, { 8 } },
                                            { { 2, 5, 3, 24, 8 }, { 24 } },
                                            { { 3, 41, 1, 64, 64 }, { 64 } },
                                            { { 2, 37, 16, 192, 64 }, { 192 } },
                                            { .dim = { 0 } } },
};
