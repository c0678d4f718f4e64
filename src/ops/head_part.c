/* head_part.c - what a part of the columns tells of the loss. The vocabulary is m parts of c columns; of p of them, from
 * number `first` on, w is there. lse[t][j] = log(sum exp(logit)) over part j, logit[t] = that of the label; both are 0
 * where the part, or the label's, is not here (a label below 0 is nowhere), so that sums over calls complete them.
 * The logits are made in chunks of rows. Backward finds them where one chunk holds all rows; otherwise it makes them
 * again, which is one product more than the three that a head needs. */
#include "base/err.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/head.h"
enum { X, W, LABEL, LSE, LOGIT, LOGITS, N = 0, D, P, C, M, ROWS, FIRST = 3 };
struct chunk {
    const struct call *c;
    struct span rows;
};

static int64_t columns_of(const struct call *c)
{
    return c->dim[P] * c->dim[C];
}

static int64_t rows_per_task(const struct call *c)
{
    return cut_rows(columns_of(c) / 2 + 1);
}

static int64_t first_of(const struct call *c)
{
    return (int64_t)c->attr[FIRST];
}

/* Column of the label of a row here; -1: none, as of a label below 0. */
static int64_t label_column(const struct call *c, int64_t t)
{
    const int64_t label = ((const int32_t *)c->arg[LABEL])[t], at = label - first_of(c) * c->dim[C];
    CHECK(label < c->dim[M] * c->dim[C], "label %lld of %lld", (long long)label,
          (long long)(c->dim[M] * c->dim[C]));
    return at >= 0 && at < columns_of(c) ? at : -1;
}

static void make_logits(const struct call *c, struct span rows)
{
    head_logits(c, rows, c->dim[D], columns_of(c), c->arg[LOGITS]);
}

static float lse_of(const float *logit, int64_t n)
{
    const float top = vector_max(logit, n);
    return top + logf(vector_sum_exp(logit, n, top));
}

static void forward_rows(void *context, int64_t task)
{
    const struct chunk *k = context;
    const struct call *c = k->c;
    const struct span s = cut_span(k->rows.to - k->rows.from, rows_per_task(c), task);
    for (int64_t i = s.from; i < s.to; i++) {
        const int64_t t = k->rows.from + i, at = label_column(c, t);
        const float *row = (const float *)c->arg[LOGITS] + i * columns_of(c);
        float *lse = (float *)c->arg[LSE] + t * c->dim[M];
        memset(lse, 0, (size_t)c->dim[M] * sizeof *lse);
        for (int64_t p = 0; p < c->dim[P]; p++)
            lse[first_of(c) + p] = lse_of(row + p * c->dim[C], c->dim[C]);
        ((float *)c->arg[LOGIT])[t] = at < 0 ? 0 : row[at];
    }
}

static void for_rows(const struct call *c, struct span rows, pool_task *f)
{
    pool_run(cut_parts(rows.to - rows.from, rows_per_task(c)), f, &(struct chunk){ c, rows });
}

static void fwd(const struct call *c)
{
    for (int64_t i = 0; i < cut_parts(c->dim[N], c->dim[ROWS]); i++) {
        const struct span rows = cut_span(c->dim[N], c->dim[ROWS], i);
        make_logits(c, rows);
        for_rows(c, rows, forward_rows);
    }
}

static void dlogits_rows(void *context, int64_t task)
{
    const struct chunk *k = context;
    const struct call *c = k->c;
    const struct span s = cut_span(k->rows.to - k->rows.from, rows_per_task(c), task);
    const float *dlse = c->grad[LSE], *dlogit = c->grad[LOGIT];
    for (int64_t i = s.from; i < s.to; i++) {
        const int64_t t = k->rows.from + i, at = label_column(c, t);
        float *row = (float *)c->arg[LOGITS] + i * columns_of(c);
        for (int64_t p = 0; p < c->dim[P]; p++) {
            float *part = row + p * c->dim[C];
            softmax_scaled(part, c->dim[C], lse_of(part, c->dim[C]),
                           dlse ? dlse[t * c->dim[M] + first_of(c) + p] : 0);
        }
        if (at >= 0 && dlogit)
            row[at] += dlogit[t];
    }
}

static void multiply(const struct call *c, struct span rows)
{
    head_multiply(c, rows, c->dim[D], columns_of(c), c->arg[LOGITS]);
}

static void bwd(const struct call *c)
{
    const int64_t chunks = cut_parts(c->dim[N], c->dim[ROWS]);
    for (int64_t i = 0; i < chunks; i++) {
        const struct span rows = cut_span(c->dim[N], c->dim[ROWS], i);
        if (chunks > 1)
            make_logits(c, rows);
        for_rows(c, rows, dlogits_rows);
        multiply(c, rows);
    }
}

/* Weights of 1/sqrt(d): the logits are about 1, as of a model. */
static void fill(const struct call *c, uint64_t seed)
{
    int32_t *label = c->arg[LABEL];
    float *w = c->arg[W];
    for (int64_t i = 0; i < columns_of(c) * c->dim[D]; i++)
        w[i] /= sqrtf((float)c->dim[D]);
    for (int64_t t = 0; t < c->dim[N]; t++)
        label[t] = t % 5 == 3 ? -1 : (int32_t)fill_below(c->dim[M] * c->dim[C], seed, t);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], d = (double)c->dim[D], v = (double)columns_of(c),
                 chunks = (double)cut_parts(c->dim[N], c->dim[ROWS]);
    flops[0] = 2 * n * d * v + 20 * n * v;
    flops[1] = (chunks > 1 ? 6 : 4) * n * d * v + 40 * n * v;
    bytes[0] = 4 * (n * d + v * d + 2 * n * v);
    bytes[1] = 4 * (2 * n * d + 2 * v * d * chunks + (chunks > 1 ? 6 : 5) * n * v);
}

CUDA_KERNELS(head_part);
const struct op op_head_part = {
    .name = "head_part",
    .anno = "x: n d^, w: (p+ c^) d^, label: n @i32 -> lse: n m^ @f32, logit: n @f32, logits: chunk^ (p+ c^)",
    .attrs = "chunk c m first",
    .saved = "x w label logits",
    .cost = cost,
    .work = { [CUDA] = head_part_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = head_part_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = head_part_bwd_cuda },
    .fill = fill,
    /* n d p c m chunk; chunk c m first */
    .cases = (const struct op_case[]){ { { 1, 3, 1, 2, 1, 1 }, { 1, 2, 1, 0 } },
                                       { { 13, 9, 3, 31, 3, 13 }, { 13, 31, 3, 0 } },
                                       { { 13, 9, 1, 31, 4, 5 }, { 5, 31, 4, 2 } },
                                       { { 70, 33, 1, 300, 2, 128 }, { 128, 300, 2, 1 } },
                                       { { 70, 33, 4, 75, 4, 40 }, { 40, 75, 4, 0 } },
                                       { { 41, 7, 5, 1, 8, 40 }, { 40, 1, 8, 2 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 8, 1, 8, 1, 1 }, { 1, 8, 1, 0 } },
                                            { { 13, 16, 1, 40, 3, 13 }, { 13, 40, 3, 1 } },
                                            { { 13, 16, 3, 40, 3, 5 }, { 5, 40, 3, 0 } },
                                            { { 70, 40, 1, 304, 4, 128 }, { 128, 304, 4, 3 } },
                                            { { 71, 40, 2, 152, 4, 40 }, { 40, 152, 4, 2 } },
                                            { { 3, 8, 1, 51200, 2, 2 }, { 2, 51200, 2, 1 } },
                                            { { 2, 8, 1, 131072, 2, 2 },
                                              { 2, 131072, 2, 1 } }, /* in no shared memory */
                                            { .dim = { 0 } } },
};
