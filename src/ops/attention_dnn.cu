/* attention_dnn.cu - attention on cuDNN's fused kernels. Keys are assembled first, as [b, s, a, q] (attention_keys.cu); values
 * are read, and their gradients written, where they lie in kv. Graphs and plans are made when sizes are met the first time.
 *
 * The backward graph is the deterministic one of Hopper: dQ is a plain product of dS, which lies in the plan's
 * workspace as bfloat16 [sequences, heads, s, s]. (With dQ summed in a float32 [sequences, heads, s, q] the workspace
 * is smaller, but blocks of keys add to it in any order; cuDNN has no note that tells the two apart.) So that the
 * workspace stays below DS_BYTES, backward takes some of the sequences at a time, or some heads of one. */
#include "cuda/dnn.cuh"
#include "ops/attention.cuh"
#include <string.h>
enum { PLANS = 64, THREADS = 128, PLAN_SPARE = 1 << 20 };
static const int64_t DS_BYTES = 512 << 20;

/* What a plan depends on: n sequences, h of their a heads (op.h: sizes of the tensors). */
struct key {
    int64_t n, h, s, a, q, c, v, backward;
};
static struct {
    struct key key;
    dnn_part plan;
} plans[PLANS];
static int n_plans;

enum uid { Q_ = 1, K_, V_, O_, LSE_, DO_, DQ_, DK_, DV_, SUM_, SCALE_, HIDDEN_, ONE_ };

/* cuDNN 9.13 to 9.15 are wrong where s is no multiple of 128 (their frontend works around it). Widths: those for which
 * plans were checked. */
bool attention_dnn_serves(const struct attention *z)
{
    return z->s % 128 == 0 && z->q % 64 == 0 && z->v % 64 == 0 && z->v <= z->q && z->q <= 256 &&
           z->r % 8 == 0;
}

/* [n, h, s, width], a row of a head being `stride` elements before the same row of the next head */
static struct dnn_shape rows_shape(const struct key *k, int64_t stride, int64_t width)
{
    const struct dnn_shape x = { { k->n, k->h, k->s, width },
                                 { k->s * k->a * stride, stride, k->a * stride, 1 } };
    return x;
}

static struct dnn_shape turned(struct dnn_shape x)
{
    const struct dnn_shape y = { { x.dim[0], x.dim[1], x.dim[3], x.dim[2] },
                                 { x.stride[0], x.stride[1], x.stride[3], x.stride[2] } };
    return y;
}

/* [n, h, s, s]: queries and keys */
static struct dnn_shape score_shape(const struct key *k)
{
    const struct dnn_shape x = { { k->n, k->h, k->s, k->s }, { k->h * k->s * k->s, k->s * k->s, k->s, 1 } };
    return x;
}

/* [n, h, s, 1] of [n, a, s] */
static struct dnn_shape row_shape(const struct key *k)
{
    const struct dnn_shape x = { { k->n, k->h, k->s, 1 }, { k->a * k->s, k->s, 1, 1 } };
    return x;
}

static dnn_part float_scores(struct dnn_graph *g, const struct key *k)
{
    return dnn_inner(g, score_shape(k), CUDNN_DATA_FLOAT);
}

static dnn_part float_rows(struct dnn_graph *g, const struct key *k)
{
    return dnn_inner(g, row_shape(k), CUDNN_DATA_FLOAT);
}

/* Hidden scores are -inf. P = exp(x - max) / sum, lse = max + log(sum). */
static void fwd_graph(struct dnn_graph *g, const struct key *k)
{
    const dnn_part q = dnn_tensor(Q_, rows_shape(k, k->q, k->q), CUDNN_DATA_BFLOAT16),
                   key = dnn_tensor(K_, turned(rows_shape(k, k->q, k->q)), CUDNN_DATA_BFLOAT16),
                   v = dnn_tensor(V_, rows_shape(k, k->c, k->v), CUDNN_DATA_BFLOAT16),
                   o = dnn_tensor(O_, rows_shape(k, k->v, k->v), CUDNN_DATA_BFLOAT16),
                   lse = dnn_tensor(LSE_, row_shape(k), CUDNN_DATA_FLOAT), scale = dnn_scalar(SCALE_),
                   hidden = dnn_scalar(HIDDEN_);
    const dnn_part product = float_scores(g, k), scaled = float_scores(g, k), x = float_scores(g, k),
                   below = float_scores(g, k), e = float_scores(g, k), top = float_rows(g, k),
                   sum = float_rows(g, k), log_sum = float_rows(g, k),
                   p = dnn_inner(g, score_shape(k), CUDNN_DATA_BFLOAT16);
    dnn_matmul(g, q, key, product);
    dnn_pointwise(g, CUDNN_POINTWISE_MUL, product, scale, NULL, scaled);
    dnn_causal(g, score_shape(k), scaled, hidden, x);
    dnn_reduce(g, CUDNN_REDUCE_TENSOR_MAX, x, top);
    dnn_pointwise(g, CUDNN_POINTWISE_SUB, x, top, NULL, below);
    dnn_pointwise(g, CUDNN_POINTWISE_EXP, below, NULL, NULL, e);
    dnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, e, sum);
    dnn_pointwise(g, CUDNN_POINTWISE_LOG, sum, NULL, NULL, log_sum);
    dnn_pointwise(g, CUDNN_POINTWISE_ADD, top, log_sum, NULL, lse);
    dnn_pointwise(g, CUDNN_POINTWISE_DIV, e, sum, NULL, p);
    dnn_matmul(g, p, v, o);
}

/* SUM = rowsum(dO O), in memory: cuDNN knows the pattern by it, and by the product with 1. */
static dnn_part sum_graph(struct dnn_graph *g, const struct key *k, dnn_part d_o, dnn_part o)
{
    const dnn_part product = dnn_inner(g, rows_shape(k, k->v, k->v), CUDNN_DATA_FLOAT),
                   sum = float_rows(g, k), out = dnn_tensor(SUM_, row_shape(k), CUDNN_DATA_FLOAT);
    dnn_pointwise(g, CUDNN_POINTWISE_MUL, d_o, o, NULL, product);
    dnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, product, sum);
    dnn_pointwise(g, CUDNN_POINTWISE_MUL, sum, dnn_scalar(ONE_), NULL, out);
    return out;
}

/* P = exp(scale q k^T - lse), 0 where hidden */
static dnn_part p_graph(struct dnn_graph *g, const struct key *k, dnn_part q, dnn_part key, dnn_part scale)
{
    const dnn_part lse = dnn_tensor(LSE_, row_shape(k), CUDNN_DATA_FLOAT), hidden = dnn_scalar(HIDDEN_);
    const dnn_part product = float_scores(g, k), scaled = float_scores(g, k), below = float_scores(g, k),
                   x = float_scores(g, k), p = float_scores(g, k);
    dnn_matmul(g, q, key, product);
    dnn_pointwise(g, CUDNN_POINTWISE_MUL, product, scale, NULL, scaled);
    dnn_pointwise(g, CUDNN_POINTWISE_SUB, scaled, lse, NULL, below);
    dnn_causal(g, score_shape(k), below, hidden, x);
    dnn_pointwise(g, CUDNN_POINTWISE_EXP, x, NULL, NULL, p);
    return p;
}

static dnn_part turned_scores(struct dnn_graph *g, const struct key *k, dnn_part x)
{
    const dnn_part y = dnn_inner(g, turned(score_shape(k)), CUDNN_DATA_BFLOAT16);
    dnn_reshape(g, x, y);
    return y;
}

/* dV = P^T dO, dS = scale P (dO v^T - SUM), dK = dS^T q, dQ = dS k */
static void bwd_graph(struct dnn_graph *g, const struct key *k)
{
    const struct dnn_shape wide = rows_shape(k, k->q, k->q), narrow = rows_shape(k, k->v, k->v),
                           in_kv = rows_shape(k, k->c, k->v);
    const cudnnDataType_t bf = CUDNN_DATA_BFLOAT16;
    const dnn_part q = dnn_tensor(Q_, wide, bf), key = dnn_tensor(K_, turned(wide), bf),
                   v = dnn_tensor(V_, turned(in_kv), bf), o = dnn_tensor(O_, narrow, bf),
                   d_o = dnn_tensor(DO_, narrow, bf), dq = dnn_tensor(DQ_, wide, bf),
                   dk = dnn_tensor(DK_, wide, bf), dv = dnn_tensor(DV_, in_kv, bf),
                   scale = dnn_scalar(SCALE_);
    const dnn_part sum = sum_graph(g, k, d_o, o), p = p_graph(g, k, q, key, scale);
    const dnn_part dp = float_scores(g, k), centred = float_scores(g, k), weighted = float_scores(g, k),
                   ds = float_scores(g, k), key_rows = dnn_inner(g, wide, bf);
    dnn_matmul(g, turned_scores(g, k, p), d_o, dv);
    dnn_matmul(g, d_o, v, dp);
    dnn_pointwise(g, CUDNN_POINTWISE_SUB, dp, sum, NULL, centred);
    dnn_pointwise(g, CUDNN_POINTWISE_MUL, centred, p, NULL, weighted);
    dnn_pointwise(g, CUDNN_POINTWISE_MUL, weighted, scale, NULL, ds);
    dnn_matmul(g, turned_scores(g, k, ds), q, dk);
    dnn_reshape(g, key, key_rows);
    dnn_matmul(g, ds, key_rows, dq);
}

static dnn_part plan_for(const struct key *k, size_t work_bytes)
{
    struct dnn_graph g;
    for (int i = 0; i < n_plans; i++)
        if (memcmp(&plans[i].key, k, sizeof *k) == 0)
            return plans[i].plan;
    CHECK(n_plans < PLANS, "more than %d sizes of attention", PLANS);
    memset(&g, 0, sizeof g);
    (k->backward ? bwd_graph : fwd_graph)(&g, k);
    plans[n_plans].key = *k;
    plans[n_plans].plan = dnn_plan(&g, work_bytes, k->backward ? "attention's backward" : "attention");
    return plans[n_plans++].plan;
}

/* Where things lie in c->work, in bytes from its start. */
struct room {
    int64_t n, h; /* sequences at a time, heads at a time */
    size_t key, d_key, d_query, d_kv, sum, plan, plan_bytes, end;
};

static size_t take(struct room *w, int64_t elements, size_t each)
{
    const size_t at = w->end;
    w->end += (size_t)round_up(elements * (int64_t)each, 256);
    return at;
}

/* The parts of n, at most `most` each, that differ least in length. */
static int64_t even_part(int64_t n, int64_t most)
{
    return cut_parts(n, cut_parts(n, most > 1 ? most : 1));
}

static struct room room_of(const struct attention *z, bool backward)
{
    struct room w;
    const int64_t ds_bytes = 2 * z->s * z->s, rows = z->s * z->a;
    memset(&w, 0, sizeof w);
    w.n = backward ? even_part(z->b, DS_BYTES / (ds_bytes * z->a)) : z->b;
    w.h = backward ? even_part(z->a, DS_BYTES / (ds_bytes * w.n)) : z->a;
    w.plan_bytes = (size_t)(backward ? w.n * w.h * ds_bytes : 0) + PLAN_SPARE;
    w.key = take(&w, w.n * rows * z->q, sizeof(bf16));
    if (backward) {
        w.d_key = take(&w, w.n * rows * z->q, sizeof(bf16));
        w.d_query = take(&w, w.n * rows * z->q, sizeof(bf16));
        w.d_kv = take(&w, w.n * rows * z->c, sizeof(bf16));
        w.sum = take(&w, w.n * rows, sizeof(float));
    }
    w.plan = take(&w, (int64_t)w.plan_bytes, 1);
    return w;
}

void attention_dnn_work(const struct attention *z, size_t bytes[2])
{
    bytes[0] = room_of(z, false).end;
    bytes[1] = room_of(z, true).end;
}

/* to[n] += x[n], n in vectors of VEC */
__global__ static void add_rows(bf16 *to, const bf16 *from, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    float x[VEC];
    if (i >= n)
        return;
    load8(x, from + i * VEC);
    grad_put8(to, false, true, i * VEC, x);
}

static struct key key_of(const struct attention *z, int64_t n, int64_t h, bool backward)
{
    const struct key k = { n, h, z->s, z->a, z->q, z->c, z->v, backward };
    return k;
}

/* Numbers by value, with the lifetime of a run's launch. */
struct scalars {
    float scale, hidden, one;
};

static void bind_scalars(struct dnn_binding *b, const struct scalars *x, bool backward)
{
    dnn_bind(b, SCALE_, &x->scale);
    dnn_bind(b, HIDDEN_, &x->hidden);
    if (backward)
        dnn_bind(b, ONE_, &x->one);
}

void attention_dnn_fwd(const struct call *c, const struct attention *z)
{
    const struct room w = room_of(z, false);
    const struct key k = key_of(z, w.n, w.h, false);
    const struct scalars x = { z->scale, -INFINITY, 1 };
    char *work = (char *)c->work;
    struct dnn_binding b;
    b.n = 0;
    attention_keys(c, z, 0, z->b, (bf16 *)(work + w.key));
    dnn_bind(&b, Q_, c->arg[QUERY]);
    dnn_bind(&b, K_, work + w.key);
    dnn_bind(&b, V_, (const bf16 *)c->arg[KV] + z->nope);
    dnn_bind(&b, O_, c->arg[O]);
    dnn_bind(&b, LSE_, c->arg[LSE]);
    bind_scalars(&b, &x, false);
    dnn_run(plan_for(&k, w.plan_bytes), stream_of(c), &b, work + w.plan);
}

/* Where backward writes dQ and dV of a part: into the gradients, or into c->work if they are added or not wanted. */
struct out {
    bf16 *dq, *dkv; /* first row of the part, [n, s, a, q] and [n, s, a, c] */
};

/* Heads [head, head + h) of n sequences from the first'th on. */
static void run_bwd(const struct call *c, const struct attention *z, const struct room *w, int64_t first,
                    int64_t n, int64_t head, int64_t h, struct out out)
{
    const struct key k = key_of(z, n, h, true);
    const struct scalars x = { z->scale, -INFINITY, 1 };
    const int64_t row = first * z->s * z->a + head;
    char *work = (char *)c->work;
    struct dnn_binding b;
    b.n = 0;
    dnn_bind(&b, Q_, (const bf16 *)c->arg[QUERY] + row * z->q);
    dnn_bind(&b, K_, (bf16 *)(work + w->key) + head * z->q);
    dnn_bind(&b, V_, (const bf16 *)c->arg[KV] + row * z->c + z->nope);
    dnn_bind(&b, O_, (const bf16 *)c->arg[O] + row * z->v);
    dnn_bind(&b, LSE_, (const float *)c->arg[LSE] + (first * z->a + head) * z->s);
    dnn_bind(&b, DO_, (const bf16 *)c->grad[O] + row * z->v);
    dnn_bind(&b, DQ_, out.dq + head * z->q);
    dnn_bind(&b, DK_, (bf16 *)(work + w->d_key) + head * z->q);
    dnn_bind(&b, DV_, out.dkv + head * z->c + z->nope);
    dnn_bind(&b, SUM_, (float *)(work + w->sum) + head * z->s);
    bind_scalars(&b, &x, true);
    dnn_run(plan_for(&k, w->plan_bytes), stream_of(c), &b, work + w->plan);
}

/* The rest of the gradients of a part: what was not written in place. */
static void finish(const struct call *c, const struct attention *z, const struct room *w, int64_t first,
                   int64_t n)
{
    const int64_t head = first * z->s * z->a, vectors = n * z->s * z->a * z->q / VEC;
    const char *work = (const char *)c->work;
    attention_split_keys(c, z, first, n, (const bf16 *)(work + w->d_key),
                         adds(c, KV) ? (const bf16 *)(work + w->d_kv) : NULL);
    if (!c->grad[QUERY] || !adds(c, QUERY))
        return;
    add_rows<<<blocks_for(vectors, THREADS), THREADS, 0, stream_of(c)>>>(
        (bf16 *)c->grad[QUERY] + head * z->q, (const bf16 *)(work + w->d_query), vectors);
    LAUNCHED();
}

void attention_dnn_bwd(const struct call *c, const struct attention *z)
{
    const struct room w = room_of(z, true);
    char *work = (char *)c->work;
    for (int64_t first = 0; first < z->b; first += w.n) {
        const int64_t n = z->b - first < w.n ? z->b - first : w.n, row = first * z->s * z->a;
        struct out out = { (bf16 *)(work + w.d_query), (bf16 *)(work + w.d_kv) };
        if (c->grad[QUERY] && !adds(c, QUERY))
            out.dq = (bf16 *)c->grad[QUERY] + row * z->q;
        if (c->grad[KV] && !adds(c, KV))
            out.dkv = (bf16 *)c->grad[KV] + row * z->c;
        attention_keys(c, z, first, n, (bf16 *)(work + w.key));
        for (int64_t head = 0; head < z->a; head += w.h)
            run_bwd(c, z, &w, first, n, head, z->a - head < w.h ? z->a - head : w.h, out);
        finish(c, z, &w, first, n);
    }
}
