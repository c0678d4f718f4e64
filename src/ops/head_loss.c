/* head_loss.c - logits = x w^T in chunks of c rows, nll = lse - logit[label]; a label below 0 is ignored (its
 * nll and its gradient are 0). `both` turns the logits of a chunk into their gradient in place, and nothing is made
 * twice. Backward alone finds the logits of forward when one chunk holds all rows; otherwise it makes them again. */
#include "base/err.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/head.h"
enum { X, W, LABEL, NLL, LSE, LOGITS, N = 0, D, V, C };
struct chunk {
    const struct call *c;
    struct span rows;
};

static int64_t rows_per_task(const struct call *c)
{
    return cut_rows(c->dim[V] / 2 + 1);
}

static void make_logits(const struct call *c, struct span rows)
{
    head_logits(c, rows, c->dim[D], c->dim[V], c->arg[LOGITS]);
}

static void loss_rows(void *context, int64_t task)
{
    const struct chunk *k = context;
    const struct call *c = k->c;
    const int64_t v = c->dim[V];
    const struct span s = cut_span(k->rows.to - k->rows.from, rows_per_task(c), task);
    const int32_t *label = (const int32_t *)c->arg[LABEL] + k->rows.from;
    float *nll = (float *)c->arg[NLL] + k->rows.from, *lse = (float *)c->arg[LSE] + k->rows.from;
    for (int64_t t = s.from; t < s.to; t++) {
        const float *logit = (const float *)c->arg[LOGITS] + t * v, top = vector_max(logit, v);
        CHECK(label[t] < v, "label %d of %lld", label[t], (long long)v);
        lse[t] = top + logf(vector_sum_exp(logit, v, top));
        nll[t] = label[t] < 0 ? 0 : lse[t] - logit[label[t]];
    }
}

static void for_rows(const struct call *c, struct span rows, pool_task *f)
{
    pool_run(cut_parts(rows.to - rows.from, rows_per_task(c)), f, &(struct chunk){ c, rows });
}

static void fwd(const struct call *c)
{
    for (int64_t i = 0; i < cut_parts(c->dim[N], c->dim[C]); i++) {
        const struct span rows = cut_span(c->dim[N], c->dim[C], i);
        make_logits(c, rows);
        for_rows(c, rows, loss_rows);
    }
}

static void dlogits_rows(void *context, int64_t task)
{
    const struct chunk *k = context;
    const struct call *c = k->c;
    const int64_t v = c->dim[V];
    const struct span s = cut_span(k->rows.to - k->rows.from, rows_per_task(c), task);
    const int32_t *label = (const int32_t *)c->arg[LABEL] + k->rows.from;
    const float *dnll = (const float *)c->grad[NLL] + k->rows.from;
    const float *lse = (const float *)c->arg[LSE] + k->rows.from;
    for (int64_t t = s.from; t < s.to; t++) {
        float *logit = (float *)c->arg[LOGITS] + t * v;
        if (label[t] < 0) {
            memset(logit, 0, (size_t)v * sizeof *logit);
            continue;
        }
        softmax_scaled(logit, v, lse[t], dnll[t]);
        logit[label[t]] -= dnll[t];
    }
}

static void multiply(const struct call *c, struct span rows)
{
    head_multiply(c, rows, c->dim[D], c->dim[V], c->arg[LOGITS]);
}

static void bwd(const struct call *c)
{
    const int64_t chunks = cut_parts(c->dim[N], c->dim[C]);
    for (int64_t i = 0; i < chunks; i++) {
        const struct span rows = cut_span(c->dim[N], c->dim[C], i);
        if (chunks > 1)
            make_logits(c, rows);
        for_rows(c, rows, dlogits_rows);
        multiply(c, rows);
    }
}

static void both(const struct call *c)
{
    for (int64_t i = 0; i < cut_parts(c->dim[N], c->dim[C]); i++) {
        const struct span rows = cut_span(c->dim[N], c->dim[C], i);
        make_logits(c, rows);
        for_rows(c, rows, loss_rows);
        for_rows(c, rows, dlogits_rows);
        multiply(c, rows);
    }
}

/* Weights of 1/sqrt(d): the logits are about 1, as of a model. */
static void fill(const struct call *c, uint64_t seed)
{
    int32_t *label = c->arg[LABEL];
    float *w = c->arg[W];
    for (int64_t i = 0; i < c->dim[V] * c->dim[D]; i++)
        w[i] /= sqrtf((float)c->dim[D]);
    for (int64_t t = 0; t < c->dim[N]; t++)
        label[t] = t % 5 == 3 ? -1 : (int32_t)fill_below(c->dim[V], seed, t);
}

/* Backward as a part of `both`; every chunk reads and writes dw. */
static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], d = (double)c->dim[D], v = (double)c->dim[V];
    flops[0] = 2 * n * d * v + 20 * n * v;
    flops[1] = 4 * n * d * v + 20 * n * v;
    bytes[0] = 4 * (n * d + v * d + 2 * n * v);
    bytes[1] = 4 * (2 * n * d + 2 * v * d * (double)cut_parts(c->dim[N], c->dim[C]) + 4 * n * v);
}

CUDA_KERNELS(head_loss);
const struct op op_head_loss = {
    .name = "head_loss",
    .anno = "x: n d^, w: v^ d^, label: n @i32 -> nll: n @f32, lse: n @f32, logits: chunk^ v^",
    .attrs = "chunk",
    .saved = "x w label lse logits",
    .cost = cost,
    .work = { [CUDA] = head_loss_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = head_loss_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = head_loss_bwd_cuda },
    .both = { [CPU] = both, [CUDA] = head_loss_both_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { { 1, 3, 2, 1 }, { 1 } },
                                       { { 13, 9, 31, 13 }, { 13 } },
                                       { { 13, 9, 31, 5 }, { 5 } },
                                       { { 70, 33, 300, 128 }, { 128 } },
                                       { { 70, 33, 300, 40 }, { 40 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 8, 8, 1 }, { 1 } },
                                            { { 13, 16, 40, 13 }, { 13 } },
                                            { { 13, 16, 40, 5 }, { 5 } },
                                            { { 70, 40, 304, 128 }, { 128 } },
                                            { { 71, 40, 304, 40 }, { 40 } },
                                            { { 3, 8, 102400, 2 }, { 2 } },
                                            { { 2, 8, 131072, 2 }, { 2 } }, /* in no shared memory */
                                            { .dim = { 0 } } },
};
