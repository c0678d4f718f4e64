/* attention_gqa.c - causal attention of grouped queries (arXiv 2305.13245): each of the g heads of keys and values, of
 * width h, serves m query heads, which stand side by side in q: x = m h. */
#include "base/err.h"
#include "ops/attention.h"
enum { QUERY, KEY, VALUE, O, LSE, B = 0, S, G, X, H, M };

/* Offset of a head's first row in q and o, and of its group's in k and v; index: of all query heads. */
static int64_t query_at(const struct call *c, int64_t index)
{
    const int64_t *d = c->dim, heads = d[G] * d[M];
    return index / heads * d[S] * d[G] * d[X] + index % heads * d[H];
}

static int64_t key_at(const struct call *c, int64_t index)
{
    const int64_t *d = c->dim, heads = d[G] * d[M];
    return index / heads * d[S] * d[G] * d[H] + index % heads / d[M] * d[H];
}

static struct attention_head head_of(const struct call *c, int64_t index)
{
    const int64_t *d = c->dim, at_q = query_at(c, index), at_k = key_at(c, index);
    CHECK(d[X] == d[M] * d[H], "groups of %lld: expected %lld heads of %lld", (long long)d[X],
          (long long)d[M], (long long)d[H]);
    return (struct attention_head){ .s = d[S],
                                    .nope = d[H],
                                    .v = d[H],
                                    .q_stride = d[G] * d[X],
                                    .k_stride = d[G] * d[H],
                                    .v_stride = d[G] * d[H],
                                    .o_stride = d[G] * d[X],
                                    .q = (const float *)c->arg[QUERY] + at_q,
                                    .k = (const float *)c->arg[KEY] + at_k,
                                    .value = (const float *)c->arg[VALUE] + at_k,
                                    .d_o = c->grad[O] ? (const float *)c->grad[O] + at_q : 0,
                                    .o = (float *)c->arg[O] + at_q,
                                    .lse = (float *)c->arg[LSE] + index * d[S],
                                    .scale = (float)c->attr[3] };
}

static int64_t n_groups(const struct call *c)
{
    return c->dim[B] * c->dim[G];
}

static int64_t fwd_tasks(const struct call *c)
{
    return n_groups(c) * c->dim[M] * cut_parts(c->dim[S], ATTENTION_ROWS);
}

/* The longest blocks come first, so that threads end together. */
static void fwd_task(void *context, int64_t slot)
{
    const struct attention_wave *w = context;
    const struct call *c = w->c;
    const int64_t heads = n_groups(c) * c->dim[M], blocks = cut_parts(c->dim[S], ATTENTION_ROWS),
                  task = w->first + slot;
    const struct attention_head h = head_of(c, task % heads);
    attention_fwd_block(&h, cut_span(c->dim[S], ATTENTION_ROWS, blocks - 1 - task / heads),
                        (float *)c->work + slot * attention_block(c->dim[S]));
}

static void fwd(const struct call *c)
{
    attention_waves(c, fwd_tasks(c), fwd_task);
}

static float *grad_at(const struct call *c, int arg, int64_t at)
{
    return c->grad[arg] ? (float *)c->grad[arg] + at : 0;
}

/* The heads of a group in their order: all add to the gradients of the same keys and values. */
static void bwd_task(void *context, int64_t slot)
{
    const struct attention_wave *w = context;
    const struct call *c = w->c;
    const int64_t block = attention_block(c->dim[S]), first = (w->first + slot) * c->dim[M];
    for (int64_t i = first; i < first + c->dim[M]; i++) {
        const struct attention_head h = head_of(c, i);
        struct attention_grads g = { .q = grad_at(c, QUERY, query_at(c, i)), .add_q = beta_of(c, QUERY) };
        g.k = grad_at(c, KEY, key_at(c, i));
        g.value = grad_at(c, VALUE, key_at(c, i));
        g.add_k = i > first ? 1 : beta_of(c, KEY);
        g.add_value = i > first ? 1 : beta_of(c, VALUE);
        attention_bwd_head(&h, &g, (float *)c->work + 2 * slot * block);
    }
}

static void bwd(const struct call *c)
{
    attention_waves(c, n_groups(c), bwd_task);
}

static void work(const struct call *c, size_t bytes[2])
{
    const int64_t block = attention_block(c->dim[S]);
    bytes[0] = (size_t)(attention_slots(fwd_tasks(c)) * block) * sizeof(float);
    bytes[1] = (size_t)(2 * attention_slots(n_groups(c)) * block) * sizeof(float);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const int64_t *d = c->dim;
    const double rows = (double)(d[B] * d[S]), pairs = rows * (double)(d[G] * d[M] * (d[S] + 1)) / 2;
    flops[0] = 4 * pairs * (double)d[H];
    flops[1] = 10 * pairs * (double)d[H];
    bytes[0] = 8 * rows * (double)(d[G] * (d[X] + d[H]));
    bytes[1] = 2 * bytes[0];
}

CUDA_KERNELS(attention_gqa);
const struct op op_attention_gqa = {
    .name = "attention_gqa",
    .anno = "q: b s^ (g x^), k: b s^ (g h^), v: b s^ (g h^) -> o: b s^ (g x^), lse: b (g m^) s^ @f32",
    .attrs = "x h m scale",
    .saved = "q k v o lse",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = attention_gqa_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = attention_gqa_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = attention_gqa_bwd_cuda },
    .cases = (const struct op_case[]){ { { 1, 1, 1, 3, 3, 1 }, { 3, 3, 1, 0.5 } },
                                       { { 2, 9, 3, 10, 5, 2 }, { 10, 5, 2, 0.4 } },
                                       { { 2, 129, 2, 24, 8, 3 }, { 24, 8, 3, 0.3 } },
                                       { { 1, 300, 1, 52, 13, 4 }, { 52, 13, 4, 0.3 } },
                                       { .dim = { 0 } } },
    /* b s g x h m: tails; then what is served by cuDNN */
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 1, 8, 8, 1 }, { 8, 8, 1, 0.3 } },
                                            { { 2, 9, 3, 48, 24, 2 }, { 48, 24, 2, 0.3 } },
                                            { { 2, 129, 2, 120, 40, 3 }, { 120, 40, 3, 0.2 } },
                                            { { 1, 131, 2, 512, 128, 4 }, { 512, 128, 4, 0.1 } },
                                            { { 1, 40, 1, 512, 256, 2 }, { 512, 256, 2, 0.1 } },
                                            { { 2, 128, 3, 64, 64, 1 }, { 64, 64, 1, 0.125 } },
                                            { { 3, 128, 1, 448, 64, 7 }, { 448, 64, 7, 0.125 } },
                                            { { 2, 256, 2, 384, 128, 3 }, { 384, 128, 3, 0.0884 } },
                                            { { 1, 2048, 1, 256, 64, 4 }, { 256, 64, 4, 0.125 } },
                                            { .dim = { 0 } } },
};
