/* deepseek_v2.c - DeepSeek-V2 (arXiv 2405.04434, sections 2.1 and 2.2), top to bottom; names are those of the
 * checkpoint. Trap list: the softmax scale carries mscale^2 (YaRN), rope pairs are interleaved, the kv rows
 * of one head are [nope | v], softmax runs over all experts before top-k, the shared experts are one MLP.
 *
 *   h = embed(tokens)
 *   h = h + attention(norm(h))          27 times; a sum and the norm of it are one operator
 *   h = h + mlp(norm(h))                dense, or shared + routed experts
 *   loss = cross_entropy(head(norm(h)), next token) + aux */
#include "model/deepseek_v2.h"
#include "graph/registry.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

struct build {
    struct graph *g;
    const struct model_config *m;
    const struct model_options *o;
    struct model_values *v;
    value table;  /* [S Dr] cosines and sines */
    double scale; /* of the softmax */
    char at[64];  /* "model.layers.3." */
};

/* op(b, NAME, "name", {inputs}, {attributes}) appends one operator. */
#define op(b, NAME, name, inputs, ...)                                                                       \
    graph_op((b)->g, &op_##NAME, path(b, name), (const value[])inputs,                                       \
             sizeof((value[])inputs) / sizeof(value), (const double[]){ 0 __VA_OPT__(, ) __VA_ARGS__ } + 1,  \
             (int)(sizeof((double[]){ 0 __VA_OPT__(, ) __VA_ARGS__ }) / sizeof(double)) - 1)
#define in(...)                                                                                              \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }

static const char *path(const struct build *b, const char *name)
{
    return arena_printf(b->g->arena, "%s%s", b->at, name);
}

static value weight(struct build *b, const char *name, int64_t rows, int64_t columns)
{
    return graph_param(b->g, path(b, arena_printf(b->g->arena, "%s.weight", name)), 2,
                       (const int64_t[]){ rows, columns }, INIT_NORMAL, b->m->initializer_range);
}

static int64_t width_of(const struct build *b, value x)
{
    const struct value_info *v = &b->g->values[x];
    return v->shape[v->n_dims - 1];
}

static value linear(struct build *b, value x, const char *name, int64_t rows)
{
    return op(b, linear, name, in(x, weight(b, name, rows, width_of(b, x))));
}

/* The norms of the low ranks have the reference code's fixed epsilon, whatever rms_norm_eps says. */
#define LOW_RANK_EPS 1e-6

/* full_name: that of the norm, from "model." on */
static value norm_weight(struct build *b, const char *full_name, int64_t width)
{
    return graph_param(b->g, arena_printf(b->g->arena, "%s.weight", full_name), 1, &width, INIT_ONE, 0);
}

static value norm(struct build *b, value x, const char *name, double eps)
{
    return op(b, rmsnorm, name, in(x, norm_weight(b, path(b, name), width_of(b, x))), eps);
}

/* Multi-head latent attention. h: [B S D] */
static value attention(struct build *b, value h)
{
    const struct model_config *m = b->m;
    const int64_t qk = m->nope_width + m->rope_width, kv_v = m->nope_width + m->v_width;
    value q = h;
    if (m->q_rank) {
        q = norm(b, linear(b, h, "self_attn.q_a_proj", m->q_rank), "self_attn.q_a_layernorm", LOW_RANK_EPS);
        q = linear(b, q, "self_attn.q_b_proj", m->heads * qk); /* [B S A*(Dn+Dr)] */
    } else {
        q = linear(b, h, "self_attn.q_proj", m->heads * qk);
    }
    const value ck =
        linear(b, h, "self_attn.kv_a_proj_with_mqa", m->kv_rank + m->rope_width); /* [latent | rope key] */
    const value latent =
        op(b, latent, "self_attn.latent",
           in(ck, norm_weight(b, path(b, "self_attn.kv_a_layernorm"), m->kv_rank), b->table), LOW_RANK_EPS);
    const value kr = graph_output(b->g, latent, 1);                             /* [B S Dr] */
    const value kv = linear(b, latent, "self_attn.kv_b_proj", m->heads * kv_v); /* [B S A*(Dn+Dv)] */
    q = op(b, rope, "self_attn.rope_q", in(q, b->table), (double)qk);
    const value o = op(b, attention, "self_attn.attention", in(q, kv, kr), (double)qk, (double)kv_v,
                       (double)m->v_width, b->scale);
    return linear(b, o, "self_attn.o_proj", m->width); /* [B S D] */
}

/* Gate and up projection of an MLP as one parameter [2, width, D]; a piece for each. */
static value gate_up_weight(struct build *b, const char *name, int64_t width)
{
    static const char *const projection[] = { "gate_proj", "up_proj" };
    struct graph *g = b->g;
    const int64_t n = width * b->m->width, shape[3] = { 2, width, b->m->width };
    const value w = graph_param(g, path(b, arena_printf(g->arena, "%s.gate_up_proj", name)), 3, shape,
                                INIT_NORMAL, b->m->initializer_range);
    struct param *p = &g->params.item[g->values[w].param];
    p->n_pieces = 2;
    p->piece = ARENA_NEW(g->arena, struct piece, 2);
    for (int i = 0; i < 2; i++)
        p->piece[i] =
            (struct piece){ .tensor = path(b, arena_printf(g->arena, "%s.%s.weight", name, projection[i])),
                            .n_dims = 2,
                            .shape = { width, b->m->width },
                            .offset = i * n,
                            .n_elements = n };
    return w;
}

static value mlp(struct build *b, value h, const char *name, int64_t width)
{
    struct arena *a = b->g->arena;
    const value up =
        op(b, gate_up, arena_printf(a, "%s.gate_up", name), in(h, gate_up_weight(b, name, width)));
    return linear(b, graph_output(b->g, up, 1), arena_printf(a, "%s.down_proj", name), b->m->width);
}

/* All experts of a layer as one parameter; one piece per expert (and projection). */
static value expert_weight(struct build *b, const char *name, const char *const *projections,
                           int n_projections, int64_t rows, int64_t columns)
{
    struct graph *g = b->g;
    const int64_t E = b->m->experts, n = rows * columns;
    const int64_t shape[4] = { E, n_projections, rows, columns }, flat[3] = { E, rows, columns };
    const value w = n_projections > 1
                        ? graph_param(g, path(b, name), 4, shape, INIT_NORMAL, b->m->initializer_range)
                        : graph_param(g, path(b, name), 3, flat, INIT_NORMAL, b->m->initializer_range);
    struct param *p = &g->params.item[g->values[w].param];
    p->n_pieces = (int)E * n_projections;
    p->piece = ARENA_NEW(g->arena, struct piece, p->n_pieces);
    for (int i = 0; i < p->n_pieces; i++)
        p->piece[i] = (struct piece){ .tensor = path(b, arena_printf(g->arena, "mlp.experts.%d.%s.weight",
                                                                     i / n_projections,
                                                                     projections[i % n_projections])),
                                      .n_dims = 2,
                                      .shape = { rows, columns },
                                      .offset = i * n,
                                      .n_elements = n };
    return w;
}

/* Routed experts plus the shared ones. No token is dropped: rows are sorted by expert. */
static value moe(struct build *b, value h)
{
    const struct model_config *m = b->m;
    struct graph *g = b->g;
    const int64_t N = b->o->batch * b->o->sequence, E = m->experts, K = m->experts_per_token;
    const value wr =
        graph_param(g, path(b, "mlp.gate.weight"), 2, (const int64_t[]){ E, m->width }, INIT_UNIFORM,
                    1 / sqrt((double)m->width)); /* kaiming_uniform(a = sqrt 5), as the reference */
    const value w_up =
        expert_weight(b, "mlp.experts.gate_up_proj", (const char *const[]){ "gate_proj", "up_proj" }, 2,
                      m->expert_width, m->width);
    const value w_down = expert_weight(b, "mlp.experts.down_proj", (const char *const[]){ "down_proj" }, 1,
                                       m->width, m->expert_width);

    /* First, so that neither the rows nor their gradients live beside it. */
    const value shared =
        m->shared_experts ? mlp(b, h, "mlp.shared_experts", m->shared_experts * m->expert_width) : -1;
    const value prob = op(b, router, "mlp.gate", in(h, wr), (double)K, (double)m->groups,
                          (double)m->topk_groups, (double)m->norm_topk, m->scaling); /* [B S E] */
    const value top = graph_output(g, prob, 1), gate = graph_output(g, prob, 2);     /* [B S K] */
    const double alpha = b->o->compat_nnscaler ? 0 : m->aux_alpha;
    const value aux = m->sequence_aux ? op(b, aux_loss, "mlp.aux", in(prob, top), alpha)
                                      : op(b, aux_loss_batch, "mlp.aux", in(prob, top), alpha); /* [B] */
    const value row = op(b, sort, "mlp.sort", in(top), (double)(N * K), (double)E, 1, 1);       /* [R] */
    const value place = graph_output(g, row, 1), end = graph_output(g, row, 2);
    const value xs = op(b, dispatch, "mlp.dispatch", in(h, gate, row, place)), gates = graph_output(g, xs, 1);
    const value hidden = op(b, experts, "mlp.experts", in(xs, gates, end, w_up, w_down), 1, 1); /* [R 2 F] */
    const value rows = graph_output(g, hidden, 1);                                              /* [R D] */

    struct model_values *v = b->v;
    CHECK(v->n_moe < 256, "more than 256 MoE layers");
    graph_keep(g, aux);
    graph_keep(g, graph_output(g, aux, 1));
    v->aux[v->n_moe] = aux;
    v->load[v->n_moe++] = graph_output(g, aux, 1);
    if (!b->o->logits)
        graph_root(g, aux, ROOT_AUX);
    return shared < 0 ? op(b, combine, "mlp.combine", in(rows, row, place))
                      : op(b, combine_add, "mlp.combine", in(rows, shared, row, place)); /* [B S D] */
}

static value rope_table(struct build *b)
{
    const int64_t S = b->o->sequence, half = b->m->rope_width / 2;
    float *t = ARENA_NEW(b->g->arena, float, S * 2 * half);
    double *inv_freq = ARENA_NEW(b->g->arena, double, half), multiplier;
    model_rope_frequencies(b->m, inv_freq, &multiplier);
    for (int64_t s = 0; s < S; s++)
        for (int64_t i = 0; i < half; i++) {
            t[s * 2 * half + i] = (float)(multiplier * cos((double)s * inv_freq[i]));
            t[s * 2 * half + half + i] = (float)(multiplier * sin((double)s * inv_freq[i]));
        }
    return graph_const(b->g, "rope_table", F32, 2, (const int64_t[]){ S, 2 * half }, t);
}

static void enter_layer(struct build *b, int64_t layer)
{
    snprintf(b->at, sizeof b->at, "model.layers.%lld.", (long long)layer);
}

/* The norm behind a layer: the next one's first, or the last of all. */
static const char *next_norm(const struct build *b, int64_t next)
{
    return next == b->m->layers
               ? "model.norm"
               : arena_printf(b->g->arena, "model.layers.%lld.input_layernorm", (long long)next);
}

/* *h += y; returns the norm of it. */
static value add_norm(struct build *b, value *h, value y, const char *name, const char *full_norm_name)
{
    *h = op(b, add_norm, name, in(*h, y, norm_weight(b, full_norm_name, b->m->width)), b->m->norm_eps);
    return graph_output(b->g, *h, 1);
}

struct graph *deepseek_v2_graph(struct arena *a, const struct model_config *m, const struct model_options *o,
                                struct model_values *v)
{
    struct build b = { .g = graph_new(a), .m = m, .o = o, .v = v };
    const int64_t ids[2] = { o->batch, o->sequence };
    memset(v, -1, sizeof *v);
    v->n_moe = 0;
    b.table = rope_table(&b);
    b.scale = o->compat_nnscaler ? 1 / sqrt((double)(m->nope_width + m->rope_width)) : model_softmax_scale(m);
    v->tokens = graph_input(b.g, "tokens", I32, 2, ids);
    v->labels = o->logits ? -1 : graph_input(b.g, "labels", I32, 2, ids);

    strcpy(b.at, "model.");
    const value embedding = weight(&b, "embed_tokens", m->vocab, m->width);
    value h = op(&b, embed, "embed_tokens", in(v->tokens, embedding)); /* [B S D] */
    enter_layer(&b, 0);
    value x = norm(&b, h, "input_layernorm", m->norm_eps);
    for (int64_t layer = 0; layer < m->layers; layer++) {
        enter_layer(&b, layer);
        v->moe_layer[v->n_moe < 256 ? v->n_moe : 255] = (int)layer;
        x = add_norm(&b, &h, attention(&b, x), "add_attention", path(&b, "post_attention_layernorm"));
        x = model_is_moe(m, layer) ? moe(&b, x) : mlp(&b, x, "mlp", m->dense_width);
        x = add_norm(&b, &h, x, "add_mlp", next_norm(&b, layer + 1));
    }
    b.at[0] = 0;
    const value head = m->tied ? embedding : weight(&b, "lm_head", m->vocab, m->width);
    if (o->logits) {
        v->logits = op(&b, linear, "lm_head", in(x, head)); /* [B S V] */
        graph_keep(b.g, v->logits);
    } else {
        v->nll =
            op(&b, head_loss, "loss", in(x, head, v->labels), (double)(o->batch * o->sequence)); /* [B S] */
        graph_root(b.g, v->nll, ROOT_NLL);
    }
    graph_grad(b.g);
    return b.g;
}
