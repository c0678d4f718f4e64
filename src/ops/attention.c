/* attention.c - causal attention of MLA (arXiv 2405.04434). A head's query is [nope | rope] of width q, its
 * keys [k_nope | k_rope], where k_rope is shared by all heads; kv holds [k_nope | v] of width c = (q - r) + v.
 * Blocks of query rows against all keys up to their last row; backward makes P again from lse. Every task
 * has its own slice of c->work; at most SLOTS tasks are under way, whatever the number of threads. */
#include "base/blas.h"
#include "base/num.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/kernel.h"
#include "ops/vector.h"
enum { QUERY, KV, K_ROPE, O, LSE, B = 0, S, A, Q, C, R, V };
enum { ROWS = 64, SLOTS = 64 };
struct wave {
    const struct call *c;
    int64_t first; /* task of slot 0 */
};
/* One head of one sequence: pointers to its first row and the strides of rows. */
struct head {
    int64_t s, nope, rope, v, q_stride, kv_stride, o_stride;
    const float *q, *k, *k_rope, *value;
    int64_t at_q, at_kv, at_o, at_rope, at_lse; /* offsets of the same places in arg[] and grad[] */
    float scale;
};

static struct head head_of(const struct call *c, int64_t index)
{
    const int64_t *d = c->dim, b = index / d[A], a = index % d[A];
    struct head h = { .s = d[S], .nope = d[C] - d[V], .rope = d[R], .v = d[V] };
    h.q_stride = d[A] * d[Q];
    h.kv_stride = d[A] * d[C];
    h.o_stride = d[A] * d[V];
    h.at_q = b * d[S] * h.q_stride + a * d[Q];
    h.at_kv = b * d[S] * h.kv_stride + a * d[C];
    h.at_o = b * d[S] * h.o_stride + a * d[V];
    h.at_rope = b * d[S] * d[R];
    h.at_lse = index * d[S];
    h.q = (const float *)c->arg[QUERY] + h.at_q;
    h.k = (const float *)c->arg[KV] + h.at_kv;
    h.value = h.k + h.nope;
    h.k_rope = (const float *)c->arg[K_ROPE] + h.at_rope;
    h.scale = (float)c->attr[3];
    return h;
}

/* Floats from one row of scores to the next: whole vectors. */
static int64_t stride_of(int64_t keys)
{
    return round_up(keys, STEP);
}

/* x[rows, keys] = q k^T, not yet scaled, for the rows of span and the keys up to the last of them */
static void scores(const struct head *h, struct span rows, float *x)
{
    const float *q = h->q + rows.from * h->q_stride;
    const int64_t n = rows.to - rows.from, keys = rows.to, stride = stride_of(keys);
    gemm(NO, TR, n, keys, h->nope, 1, q, h->q_stride, h->k, h->kv_stride, 0, x, stride);
    gemm(NO, TR, n, keys, h->rope, 1, q + h->nope, h->q_stride, h->k_rope, h->rope, 1, x, stride);
}

/* Hides the keys behind the first `seen` of a row, up to a whole vector: they add nothing to a sum of
 * exponentials (at most 2^-125). Returns the length of what is left. */
static int64_t hide_tail(float *row, int64_t seen)
{
    const int64_t n = stride_of(seen);
    for (int64_t i = seen; i < n; i++)
        row[i] = -INFINITY;
    return n;
}

/* One block of query rows: o and lse; x has room for ROWS * S floats. */
static void fwd_block(const struct call *c, int64_t index, struct span rows, float *x)
{
    const struct head h = head_of(c, index);
    const int64_t n = rows.to - rows.from, keys = rows.to, stride = stride_of(keys);
    float *o = (float *)c->arg[O] + h.at_o + rows.from * h.o_stride, *lse = (float *)c->arg[LSE] + h.at_lse;
    float sum[ROWS];
    scores(&h, rows, x);
    for (int64_t i = 0; i < n; i++) {
        float *row = x + i * stride;
        const int64_t seen = rows.from + i + 1, padded = hide_tail(row, seen);
        const float top = h.scale * vector_max(row, padded);
        sum[i] = vector_exp_sum(row, padded, h.scale, top);
        lse[seen - 1] = top + logf(sum[i]);
        memset(row + seen, 0, (size_t)(stride - seen) * sizeof *row);
    }
    gemm(NO, NO, n, h.v, keys, 1, x, stride, h.value, h.kv_stride, 0, o, h.o_stride);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < h.v; j++)
            o[i * h.o_stride + j] /= sum[i];
}

static int64_t n_heads(const struct call *c)
{
    return c->dim[B] * c->dim[A];
}

static int64_t fwd_tasks(const struct call *c)
{
    return n_heads(c) * cut_parts(c->dim[S], ROWS);
}

static int64_t slots(int64_t n_tasks)
{
    return n_tasks < SLOTS ? n_tasks : SLOTS;
}

/* Floats of one block of scores. */
static int64_t block_elements(const struct call *c)
{
    return (c->dim[S] < ROWS ? c->dim[S] : ROWS) * stride_of(c->dim[S]);
}

/* The longest blocks come first, so that threads end together. */
static void fwd_task(void *context, int64_t slot)
{
    const struct wave *w = context;
    const struct call *c = w->c;
    const int64_t blocks = cut_parts(c->dim[S], ROWS), task = w->first + slot;
    const struct span rows = cut_span(c->dim[S], ROWS, blocks - 1 - task / n_heads(c));
    fwd_block(c, task % n_heads(c), rows, (float *)c->work + slot * block_elements(c));
}

static void waves(const struct call *c, int64_t n_tasks, pool_task *f)
{
    for (int64_t i = 0; i < n_tasks; i += SLOTS)
        pool_run(slots(n_tasks - i), f, &(struct wave){ c, i });
}

static void fwd(const struct call *c)
{
    waves(c, fwd_tasks(c), fwd_task);
}

/* p: q k^T of one row -> P; ds: dO v^T -> scale P (dO v^T - delta) */
WIDE static void row_bwd(float *restrict p, float *restrict ds, int64_t n, float scale, float lse,
                         float delta)
{
    for (int64_t i = 0; i < n; i++) {
        p[i] = vector_exp(scale * p[i] - lse);
        ds[i] = scale * p[i] * (ds[i] - delta);
    }
}

/* x: q k^T -> P; y: dO v^T -> dS; delta = rowsum(dO O) */
static void softmax_bwd(const struct call *c, const struct head *h, struct span rows, float *x, float *y)
{
    const float *o = (const float *)c->arg[O] + h->at_o, *d_o = (const float *)c->grad[O] + h->at_o;
    const float *lse = (const float *)c->arg[LSE] + h->at_lse;
    const int64_t stride = stride_of(rows.to);
    for (int64_t t = rows.from; t < rows.to; t++, x += stride, y += stride) {
        const float delta = dot(d_o + t * h->o_stride, o + t * h->o_stride, h->v);
        const int64_t hidden = stride - t - 1;
        row_bwd(x, y, hide_tail(x, t + 1), h->scale, lse[t], delta);
        memset(x + t + 1, 0, (size_t)hidden * sizeof *x);
        memset(y + t + 1, 0, (size_t)hidden * sizeof *y);
    }
}

/* Where one head writes its gradients; rope is a slice of c->work, the same for all blocks of the head. */
struct out {
    float *q, *kv, *rope;
};

/* dQ of the rows, and their part of dK and dV. The last block of rows comes first: it sees all keys, so it is
 * the one that may overwrite. */
static void bwd_block(const struct call *c, const struct head *h, struct out out, struct span rows, float *x,
                      float *y)
{
    const int64_t n = rows.to - rows.from, keys = rows.to, stride = stride_of(keys);
    const float *q = h->q + rows.from * h->q_stride;
    const float *d_o = (const float *)c->grad[O] + h->at_o + rows.from * h->o_stride;
    const float beta = rows.to < h->s ? 1 : beta_of(c, KV);
    scores(h, rows, x);
    gemm(NO, TR, n, keys, h->v, 1, d_o, h->o_stride, h->value, h->kv_stride, 0, y, stride);
    softmax_bwd(c, h, rows, x, y);
    if (out.q) {
        float *dq = out.q + rows.from * h->q_stride;
        gemm(NO, NO, n, h->nope, keys, 1, y, stride, h->k, h->kv_stride, beta_of(c, QUERY), dq, h->q_stride);
        gemm(NO, NO, n, h->rope, keys, 1, y, stride, h->k_rope, h->rope, beta_of(c, QUERY), dq + h->nope,
             h->q_stride);
    }
    if (out.kv) {
        gemm(TR, NO, keys, h->nope, n, 1, y, stride, q, h->q_stride, beta, out.kv, h->kv_stride);
        gemm(TR, NO, keys, h->v, n, 1, x, stride, d_o, h->o_stride, beta, out.kv + h->nope, h->kv_stride);
    }
    if (out.rope)
        gemm(TR, NO, keys, h->rope, n, 1, y, stride, q + h->nope, h->q_stride, rows.to < h->s ? 1 : 0,
             out.rope, h->rope);
}

/* c->work of backward: [B A S R] parts of dk_rope, then two blocks of scores per slot. */
static float *rope_part(const struct call *c, int64_t index)
{
    return (float *)c->work + index * c->dim[S] * c->dim[R];
}

static int64_t rope_elements(const struct call *c)
{
    return round_up(n_heads(c) * c->dim[S] * c->dim[R], 16);
}

static void bwd_task(void *context, int64_t slot)
{
    const struct wave *w = context;
    const struct call *c = w->c;
    const int64_t index = w->first + slot, blocks = cut_parts(c->dim[S], ROWS);
    const struct head h = head_of(c, index);
    const struct out out = { c->grad[QUERY] ? (float *)c->grad[QUERY] + h.at_q : 0,
                             c->grad[KV] ? (float *)c->grad[KV] + h.at_kv : 0,
                             c->grad[K_ROPE] ? rope_part(c, index) : 0 };
    float *x = (float *)c->work + rope_elements(c) + 2 * slot * block_elements(c);
    for (int64_t i = blocks - 1; i >= 0; i--)
        bwd_block(c, &h, out, cut_span(c->dim[S], ROWS, i), x, x + block_elements(c));
}

/* dk_rope of one sequence: the heads in their order. */
static void rope_sum(void *context, int64_t b)
{
    const struct call *c = context;
    const int64_t n = c->dim[S] * c->dim[R];
    float *out = (float *)c->grad[K_ROPE] + b * n;
    if (!adds(c, K_ROPE))
        memset(out, 0, (size_t)n * sizeof *out);
    for (int64_t a = 0; a < c->dim[A]; a++) {
        const float *part = rope_part(c, b * c->dim[A] + a);
        for (int64_t i = 0; i < n; i++)
            out[i] += part[i];
    }
}

static void bwd(const struct call *c)
{
    waves(c, n_heads(c), bwd_task);
    if (c->grad[K_ROPE])
        pool_run(c->dim[B], rope_sum, (void *)c);
}

static void work(const struct call *c, size_t bytes[2])
{
    bytes[0] = (size_t)(slots(fwd_tasks(c)) * block_elements(c)) * sizeof(float);
    bytes[1] = (size_t)(rope_elements(c) + 2 * slots(n_heads(c)) * block_elements(c)) * sizeof(float);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const int64_t *d = c->dim;
    const double rows = (double)(d[B] * d[S]), pairs = rows * (double)(d[A] * (d[S] + 1)) / 2;
    flops[0] = 2 * pairs * (double)(d[Q] + d[V]);
    flops[1] = 2 * pairs * (double)(3 * d[Q] + 2 * d[V]);
    bytes[0] = 4 * rows * (double)(d[A] * (d[Q] + d[C] + d[V]) + d[R]);
    bytes[1] = 2 * bytes[0];
}

CUDA_KERNELS(attention);
const struct op op_attention = {
    .name = "attention",
    .anno = "q: b s^ (a q^), kv: b s^ (a c^), k_rope: b s^ r^ -> o: b s^ (a v^), lse: b a s^ @f32",
    .attrs = "q c v scale",
    .saved = "q kv k_rope o lse",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = attention_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = attention_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = attention_bwd_cuda },
    .cases = (const struct op_case[]){ { { 1, 1, 1, 3, 4, 1, 2 }, { 3, 4, 2, 0.5 } },
                                       { { 2, 9, 3, 6, 9, 2, 5 }, { 6, 9, 5, 0.4 } },
                                       { { 2, 129, 2, 12, 16, 4, 8 }, { 12, 16, 8, 0.3 } },
                                       { { 1, 300, 3, 12, 18, 2, 8 }, { 12, 18, 8, 0.3 } },
                                       { .dim = { 0 } } },
    /* b s a q c r v: tails; then what is served by cuDNN */
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 1, 24, 24, 8, 8 }, { 24, 24, 8, 0.3 } },
                                            { { 2, 9, 3, 24, 24, 16, 16 }, { 24, 24, 16, 0.3 } },
                                            { { 2, 129, 2, 16, 24, 8, 16 }, { 16, 24, 16, 0.3 } },
                                            { { 2, 37, 2, 12, 8, 8, 4 }, { 12, 8, 4, 0.4 } },
                                            { { 1, 300, 3, 40, 40, 24, 24 }, { 40, 40, 24, 0.2 } },
                                            { { 1, 131, 2, 192, 256, 64, 128 }, { 192, 256, 128, 0.1 } },
                                            { { 1, 40, 1, 256, 448, 64, 256 }, { 256, 448, 256, 0.1 } },
                                            { { 3, 128, 3, 128, 192, 64, 128 }, { 128, 192, 128, 0.1 } },
                                            { { 2, 256, 4, 192, 256, 64, 128 }, { 192, 256, 128, 0.11472 } },
                                            { { 1, 128, 7, 192, 256, 64, 128 }, { 192, 256, 128, 0.1 } },
                                            { { 1, 2048, 2, 64, 96, 32, 64 }, { 64, 96, 64, 0.125 } },
                                            { .dim = { 0 } } },
};
