/* rope_half.c - rotates each head's h entries in pairs (i, i + h/2) by the angle of the position, as models do whose
 * checkpoints store heads by halves; a row of the table holds h/2 cosines, then h/2 sines. Backward turns the other
 * way. y may be x. */
#include "base/err.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/kernel.h"
#include "ops/rope.h"
enum { X, TABLE, Y, B = 0, S, A, H };
struct turn {
    const struct call *c;
    float *y;
    const float *x;
    float sign;
    bool add;
};

/* One head: the halves a and b of its entries. In place, these are x's. */
WIDE static void head_in_place(float *restrict a, float *restrict b, const float *restrict table,
                               int64_t half, float sign)
{
    for (int64_t i = 0; i < half; i++) {
        const float cosine = table[i], sine = sign * table[half + i], first = a[i], second = b[i];
        a[i] = first * cosine - second * sine;
        b[i] = second * cosine + first * sine;
    }
}

WIDE static void head(float *restrict y, const float *restrict x, const float *restrict table, int64_t half,
                      float sign)
{
    for (int64_t i = 0; i < half; i++) {
        const float cosine = table[i], sine = sign * table[half + i];
        y[i] = x[i] * cosine - x[half + i] * sine;
        y[half + i] = x[half + i] * cosine + x[i] * sine;
    }
}

static void head_add(float *y, const float *x, const float *table, int64_t half, float sign)
{
    for (int64_t i = 0; i < half; i++) {
        const float cosine = table[i], sine = sign * table[half + i];
        y[i] += x[i] * cosine - x[half + i] * sine;
        y[half + i] += x[half + i] * cosine + x[i] * sine;
    }
}

static void rows(void *context, int64_t task)
{
    const struct turn *t = context;
    const int64_t *d = t->c->dim, half = d[H] / 2, width = d[A] * d[H];
    const struct span s = cut_span(d[B] * d[S], cut_rows(width), task);
    for (int64_t at = s.from * width; at < s.to * width; at += d[H]) {
        const float *table = (const float *)t->c->arg[TABLE] + at / width % d[S] * d[H];
        if (t->y == t->x)
            head_in_place(t->y + at, t->y + at + half, table, half, t->sign);
        else
            (t->add ? head_add : head)(t->y + at, t->x + at, table, half, t->sign);
    }
}

static void run(const struct call *c, float *y, const float *x, float sign, bool add)
{
    CHECK(c->dim[H] % 2 == 0, "heads of %lld entries: expected pairs", (long long)c->dim[H]);
    pool_run(cut_parts(c->dim[B] * c->dim[S], cut_rows(c->dim[A] * c->dim[H])), rows,
             &(struct turn){ c, y, x, sign, add });
}

static void fwd(const struct call *c)
{
    run(c, c->arg[Y], c->arg[X], 1, false);
}

static void bwd(const struct call *c)
{
    if (c->grad[X])
        run(c, c->grad[X], c->grad[Y], -1, adds(c, X));
}

static void fill(const struct call *c, uint64_t seed)
{
    (void)seed;
    rope_fill_table(c->arg[TABLE], c->dim[S], c->dim[H] / 2);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[B] * (double)c->dim[S] * (double)c->dim[A] * (double)c->dim[H];
    flops[0] = flops[1] = 3 * n;
    bytes[0] = bytes[1] = 8 * n;
}

CUDA_KERNELS(rope_half);
const struct op op_rope_half = {
    .name = "rope_half",
    .anno = "x: b s^ (a h^), table: s^ h^ @f32 -> y: b s^ (a h^)",
    .attrs = "h",
    .saved = "table",
    .cost = cost,
    .work = { [CUDA] = rope_half_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = rope_half_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = rope_half_bwd_cuda },
    .fill = fill,
    .in_place = true,
    .cases = (const struct op_case[]){ { { 1, 1, 1, 2 }, { 2 } },
                                       { { 2, 5, 3, 6 }, { 6 } },
                                       { { 3, 40, 4, 64 }, { 64 } },
                                       { { 1, 3, 2, 142 }, { 142 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 1, 8 }, { 8 } },
                                            { { 2, 5, 3, 24 }, { 24 } },
                                            { { 3, 41, 1, 64 }, { 64 } },
                                            { { 2, 37, 12, 128 }, { 128 } },
                                            { .dim = { 0 } } },
};
