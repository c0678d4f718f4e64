/* attention.c - causal attention of MLA (arXiv 2405.04434). A head's query is [nope | rope] of width q, its
 * keys [k_nope | k_rope], where k_rope is shared by all heads; kv holds [k_nope | v] of width c = (q - r) + v. */
#include "ops/attention.h"
enum { QUERY, KV, K_ROPE, O, LSE, B = 0, S, A, Q, C, R, V };
/* Offsets of a head's first row in arg[] and grad[]. */
struct place {
    int64_t q, kv, rope, o, lse;
};

static struct place place_of(const struct call *c, int64_t index)
{
    const int64_t *d = c->dim, b = index / d[A], a = index % d[A];
    return (struct place){ .q = (b * d[S] * d[A] + a) * d[Q],
                           .kv = (b * d[S] * d[A] + a) * d[C],
                           .rope = b * d[S] * d[R],
                           .o = (b * d[S] * d[A] + a) * d[V],
                           .lse = index * d[S] };
}

static struct attention_head head_of(const struct call *c, int64_t index)
{
    const int64_t *d = c->dim, nope = d[C] - d[V];
    const struct place at = place_of(c, index);
    return (struct attention_head){ .s = d[S],
                                    .nope = nope,
                                    .rope = d[R],
                                    .v = d[V],
                                    .q_stride = d[A] * d[Q],
                                    .k_stride = d[A] * d[C],
                                    .v_stride = d[A] * d[C],
                                    .o_stride = d[A] * d[V],
                                    .q = (const float *)c->arg[QUERY] + at.q,
                                    .k = (const float *)c->arg[KV] + at.kv,
                                    .k_rope = (const float *)c->arg[K_ROPE] + at.rope,
                                    .value = (const float *)c->arg[KV] + at.kv + nope,
                                    .d_o = c->grad[O] ? (const float *)c->grad[O] + at.o : 0,
                                    .o = (float *)c->arg[O] + at.o,
                                    .lse = (float *)c->arg[LSE] + at.lse,
                                    .scale = (float)c->attr[3] };
}

static int64_t n_heads(const struct call *c)
{
    return c->dim[B] * c->dim[A];
}

static int64_t fwd_tasks(const struct call *c)
{
    return n_heads(c) * cut_parts(c->dim[S], ATTENTION_ROWS);
}

/* The longest blocks come first, so that threads end together. */
static void fwd_task(void *context, int64_t slot)
{
    const struct attention_wave *w = context;
    const struct call *c = w->c;
    const int64_t blocks = cut_parts(c->dim[S], ATTENTION_ROWS), task = w->first + slot;
    const struct attention_head h = head_of(c, task % n_heads(c));
    attention_fwd_block(&h, cut_span(c->dim[S], ATTENTION_ROWS, blocks - 1 - task / n_heads(c)),
                        (float *)c->work + slot * attention_block(c->dim[S]));
}

static void fwd(const struct call *c)
{
    attention_waves(c, fwd_tasks(c), fwd_task);
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
    const struct attention_wave *w = context;
    const struct call *c = w->c;
    const int64_t index = w->first + slot;
    const struct attention_head h = head_of(c, index);
    const struct place at = place_of(c, index);
    const struct attention_grads g = { .q = c->grad[QUERY] ? (float *)c->grad[QUERY] + at.q : 0,
                                       .k = c->grad[KV] ? (float *)c->grad[KV] + at.kv : 0,
                                       .value = c->grad[KV] ? (float *)c->grad[KV] + at.kv + h.nope : 0,
                                       .rope = c->grad[K_ROPE] ? rope_part(c, index) : 0,
                                       .add_q = beta_of(c, QUERY),
                                       .add_k = beta_of(c, KV),
                                       .add_value = beta_of(c, KV) };
    attention_bwd_head(&h, &g, (float *)c->work + rope_elements(c) + 2 * slot * attention_block(c->dim[S]));
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
    attention_waves(c, n_heads(c), bwd_task);
    if (c->grad[K_ROPE])
        pool_run(c->dim[B], rope_sum, (void *)c);
}

static void work(const struct call *c, size_t bytes[2])
{
    const int64_t block = attention_block(c->dim[S]);
    bytes[0] = (size_t)(attention_slots(fwd_tasks(c)) * block) * sizeof(float);
    bytes[1] = (size_t)(rope_elements(c) + 2 * attention_slots(n_heads(c)) * block) * sizeof(float);
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
    /* b s a q c r v: for attention_mma.cu, of whole and partial tiles, and the last three of these for attention_plain.cu;
     * then what cuDNN and attention_hopper.cu serve where they are used */
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 1, 24, 24, 8, 8 }, { 24, 24, 8, 0.3 } },
                                            { { 2, 9, 3, 24, 24, 16, 16 }, { 24, 24, 16, 0.3 } },
                                            { { 2, 129, 2, 16, 24, 8, 16 }, { 16, 24, 16, 0.3 } },
                                            { { 1, 300, 3, 40, 40, 24, 24 }, { 40, 40, 24, 0.2 } },
                                            { { 1, 1, 1, 48, 64, 16, 32 }, { 48, 64, 32, 0.2 } },
                                            { { 2, 3, 16, 192, 256, 64, 128 }, { 192, 256, 128, 0.1 } },
                                            { { 1, 131, 2, 192, 256, 64, 128 }, { 192, 256, 128, 0.1 } },
                                            { { 3, 289, 6, 192, 256, 64, 128 }, { 192, 256, 128, 0.3 } },
                                            { { 3, 65, 11, 48, 64, 16, 32 }, { 48, 64, 32, 0.2 } },
                                            { { 2, 193, 2, 64, 96, 32, 64 }, { 64, 96, 64, 0.125 } },
                                            { { 2, 161, 3, 96, 144, 32, 80 }, { 96, 144, 80, 0.1 } },
                                            { { 1, 97, 2, 64, 160, 32, 128 }, { 64, 160, 128, 0.1 } },
                                            { { 2, 37, 2, 12, 8, 8, 4 }, { 12, 8, 4, 0.4 } },
                                            { { 2, 70, 2, 200, 264, 64, 128 }, { 200, 264, 128, 0.1 } },
                                            { { 1, 40, 1, 256, 448, 64, 256 }, { 256, 448, 256, 0.1 } },
                                            { { 3, 128, 3, 128, 192, 64, 128 }, { 128, 192, 128, 0.1 } },
                                            { { 2, 256, 4, 192, 256, 64, 128 }, { 192, 256, 128, 0.11472 } },
                                            { { 1, 128, 7, 192, 256, 64, 128 }, { 192, 256, 128, 0.1 } },
                                            { { 2, 384, 3, 192, 256, 64, 128 }, { 192, 256, 128, 0.11472 } },
                                            { { 1, 2048, 2, 64, 96, 32, 64 }, { 64, 96, 64, 0.125 } },
                                            { .dim = { 0 } } },
};
