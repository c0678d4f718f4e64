/* deepseek_v2.c - DeepSeek-V2 (arXiv 2405.04434, sections 2.1 and 2.2), top to bottom; names are those of the
 * checkpoint. Trap list: the softmax scale carries mscale^2 (YaRN), rope pairs are interleaved, the kv rows
 * of one head are [nope | v], softmax runs over all experts before top-k, the shared experts are one MLP. */
#include "model/deepseek_v2.h"
#include "model/build.h"

/* The norms of the low ranks have the reference code's fixed epsilon, whatever rms_norm_eps says. */
#define LOW_RANK_EPS 1e-6

/* Multi-head latent attention. h: [B S D] */
static value attention(struct build *b, int64_t layer, value h)
{
    (void)layer;
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
        p->piece[i] =
            (struct piece){ .tensor = arena_printf(g->arena, "%smlp.experts.%d.%s.weight", b->at,
                                                   i / n_projections, projections[i % n_projections]),
                            .n_dims = 2,
                            .shape = { rows, columns },
                            .offset = i * n,
                            .n_elements = n };
    return w;
}

/* Routed experts plus the shared ones. No token is dropped: rows are sorted by expert. */
static value moe(struct build *b, int64_t layer, value h)
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

    /* Beside the routed ones, in forward and in backward: nothing of it needs their rows, which may be travelling. */
    const value shared =
        m->shared_experts ? mlp(b, h, "mlp.shared_experts", m->shared_experts * m->expert_width) : -1;

    struct model_values *v = b->v;
    CHECK(v->n_moe < 256, "more than 256 MoE layers");
    graph_keep(g, aux);
    graph_keep(g, graph_output(g, aux, 1));
    v->aux[v->n_moe] = aux;
    v->moe_layer[v->n_moe] = (int)layer;
    v->load[v->n_moe++] = graph_output(g, aux, 1);
    if (!b->o->logits)
        graph_root(g, aux, ROOT_AUX);
    return shared < 0 ? op(b, combine, "mlp.combine", in(rows, row, place))
                      : op(b, combine_add, "mlp.combine", in(rows, shared, row, place)); /* [B S D] */
}

static value feed_forward(struct build *b, int64_t layer, value h)
{
    return model_is_moe(b->m, layer) ? moe(b, layer, h) : mlp(b, h, "mlp", b->m->dense_width);
}

struct graph *deepseek_v2_graph(struct arena *a, const struct model_config *m, const struct model_options *o,
                                struct model_values *v)
{
    const double scale =
        o->compat_nnscaler ? 1 / sqrt((double)(m->nope_width + m->rope_width)) : model_softmax_scale(m);
    return build_decoder(a, m, o, v, scale, attention, feed_forward);
}

const struct model_family model_deepseek_v2 = { "deepseek_v2", deepseek_v2_read, deepseek_v2_graph,
                                                deepseek_v2_active, deepseek_v2_describe };
