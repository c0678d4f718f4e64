/* attention.h - causal attention of one head on the CPU, for the operators that have heads of one kind or another. A
 * query is [nope | rope]; its keys are [k | k_rope], and k_rope (of width `rope`, which may be 0) lies apart. Blocks of
 * ROWS query rows against all keys up to their last row; backward makes P again from lse. Every task has its own slice
 * of c->work; at most SLOTS tasks are under way, whatever the number of threads. */
#pragma once
#include "base/blas.h"
#include "base/num.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/kernel.h"
#include "ops/vector.h"
enum { ATTENTION_ROWS = 64, ATTENTION_SLOTS = 64 };
/* Pointers to the head's first row, and floats from row to row. */
struct attention_head {
    int64_t s, nope, rope, v, q_stride, k_stride, v_stride, o_stride;
    const float *q, *k, *k_rope, *value, *d_o;
    float *o, *lse;
    float scale;
};
/* Where backward writes; NULL: not wanted. add_*: 1 = to what is there, 0 = over it. */
struct attention_grads {
    float *q, *k, *value, *rope;
    float add_q, add_k, add_value;
};
struct attention_wave {
    const struct call *c;
    int64_t first; /* task of slot 0 */
};

/* Floats from one row of scores to the next: whole vectors. */
static inline int64_t attention_stride(int64_t keys)
{
    return round_up(keys, STEP);
}

/* Floats of one block of scores, for sequences of s. */
static inline int64_t attention_block(int64_t s)
{
    return (s < ATTENTION_ROWS ? s : ATTENTION_ROWS) * attention_stride(s);
}

static inline int64_t attention_slots(int64_t n_tasks)
{
    return n_tasks < ATTENTION_SLOTS ? n_tasks : ATTENTION_SLOTS;
}

/* Calls f with (struct attention_wave *, slot) for tasks 0 to n - 1. */
static inline void attention_waves(const struct call *c, int64_t n_tasks, pool_task *f)
{
    for (int64_t i = 0; i < n_tasks; i += ATTENTION_SLOTS)
        pool_run(attention_slots(n_tasks - i), f, &(struct attention_wave){ c, i });
}

/* x[rows, keys] = q k^T, not yet scaled, for the rows of span and the keys up to the last of them */
static inline void attention_scores(const struct attention_head *h, struct span rows, float *x)
{
    const float *q = h->q + rows.from * h->q_stride;
    const int64_t n = rows.to - rows.from, keys = rows.to, stride = attention_stride(keys);
    gemm(NO, TR, n, keys, h->nope, 1, q, h->q_stride, h->k, h->k_stride, 0, x, stride);
    if (h->rope)
        gemm(NO, TR, n, keys, h->rope, 1, q + h->nope, h->q_stride, h->k_rope, h->rope, 1, x, stride);
}

/* Hides the keys behind the first `seen` of a row, up to a whole vector: they add nothing to a sum of
 * exponentials (at most 2^-125). Returns the length of what is left. */
static inline int64_t attention_hide_tail(float *row, int64_t seen)
{
    const int64_t n = attention_stride(seen);
    for (int64_t i = seen; i < n; i++)
        row[i] = -INFINITY;
    return n;
}

/* One block of query rows: o and lse; x has room for a block of scores. */
static inline void attention_fwd_block(const struct attention_head *h, struct span rows, float *x)
{
    const int64_t n = rows.to - rows.from, keys = rows.to, stride = attention_stride(keys);
    float *o = h->o + rows.from * h->o_stride, sum[ATTENTION_ROWS];
    attention_scores(h, rows, x);
    for (int64_t i = 0; i < n; i++) {
        float *row = x + i * stride;
        const int64_t seen = rows.from + i + 1, padded = attention_hide_tail(row, seen);
        const float top = h->scale * vector_max(row, padded);
        sum[i] = vector_exp_sum(row, padded, h->scale, top);
        h->lse[seen - 1] = top + logf(sum[i]);
        memset(row + seen, 0, (size_t)(stride - seen) * sizeof *row);
    }
    gemm(NO, NO, n, h->v, keys, 1, x, stride, h->value, h->v_stride, 0, o, h->o_stride);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < h->v; j++)
            o[i * h->o_stride + j] /= sum[i];
}

/* p: q k^T of one row -> P; ds: dO v^T -> scale P (dO v^T - delta) */
WIDE static inline void attention_row_bwd(float *restrict p, float *restrict ds, int64_t n, float scale,
                                          float lse, float delta)
{
    for (int64_t i = 0; i < n; i++) {
        p[i] = vector_exp(scale * p[i] - lse);
        ds[i] = scale * p[i] * (ds[i] - delta);
    }
}

/* x: q k^T -> P; y: dO v^T -> dS; delta = rowsum(dO O) */
static inline void attention_softmax_bwd(const struct attention_head *h, struct span rows, float *x, float *y)
{
    const int64_t stride = attention_stride(rows.to);
    for (int64_t t = rows.from; t < rows.to; t++, x += stride, y += stride) {
        const float delta = dot(h->d_o + t * h->o_stride, h->o + t * h->o_stride, h->v);
        const int64_t hidden = stride - t - 1;
        attention_row_bwd(x, y, attention_hide_tail(x, t + 1), h->scale, h->lse[t], delta);
        memset(x + t + 1, 0, (size_t)hidden * sizeof *x);
        memset(y + t + 1, 0, (size_t)hidden * sizeof *y);
    }
}

/* dQ of the rows, and their part of dK and dV. */
static inline void attention_bwd_block(const struct attention_head *h, const struct attention_grads *g,
                                       struct span rows, float *x, float *y)
{
    const int64_t n = rows.to - rows.from, keys = rows.to, stride = attention_stride(keys);
    const float *q = h->q + rows.from * h->q_stride, *d_o = h->d_o + rows.from * h->o_stride;
    const bool last = rows.to == h->s;
    attention_scores(h, rows, x);
    gemm(NO, TR, n, keys, h->v, 1, d_o, h->o_stride, h->value, h->v_stride, 0, y, stride);
    attention_softmax_bwd(h, rows, x, y);
    if (g->q) {
        float *dq = g->q + rows.from * h->q_stride;
        gemm(NO, NO, n, h->nope, keys, 1, y, stride, h->k, h->k_stride, g->add_q, dq, h->q_stride);
        if (h->rope)
            gemm(NO, NO, n, h->rope, keys, 1, y, stride, h->k_rope, h->rope, g->add_q, dq + h->nope,
                 h->q_stride);
    }
    if (g->k)
        gemm(TR, NO, keys, h->nope, n, 1, y, stride, q, h->q_stride, last ? g->add_k : 1, g->k, h->k_stride);
    if (g->value)
        gemm(TR, NO, keys, h->v, n, 1, x, stride, d_o, h->o_stride, last ? g->add_value : 1, g->value,
             h->v_stride);
    if (g->rope)
        gemm(TR, NO, keys, h->rope, n, 1, y, stride, q + h->nope, h->q_stride, last ? 0 : 1, g->rope,
             h->rope);
}

/* All rows of a head. The last block of rows comes first: it sees all keys, so it is the one that may overwrite.
 * x: room for two blocks of scores. */
static inline void attention_bwd_head(const struct attention_head *h, const struct attention_grads *g,
                                      float *x)
{
    for (int64_t i = cut_parts(h->s, ATTENTION_ROWS) - 1; i >= 0; i--)
        attention_bwd_block(h, g, cut_span(h->s, ATTENTION_ROWS, i), x, x + attention_block(h->s));
}
