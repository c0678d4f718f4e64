/* build.c - a decoder, top to bottom: what all families have around their layers. */
#include "model/build.h"

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

static bool in_parts(const struct build *b)
{
    return b->o->vocabulary_parts > 1 && !b->o->logits;
}

/* y[t] = w[token[t]]; in parts, a sum over those of the vocabulary, of which one is not zero. */
static value embed(struct build *b, value w)
{
    return in_parts(b) ? op(b, embed_part, "embed_tokens", in(b->v->tokens, w), (double)b->m->vocab, 0)
                       : op(b, embed, "embed_tokens", in(b->v->tokens, w));
}

/* log(sum exp(logits)) - logit of the label; in parts, the outer sum is over those of the vocabulary. */
static value loss(struct build *b, value x, value head)
{
    const int64_t rows = b->o->batch * b->o->sequence, parts = b->o->vocabulary_parts;
    if (!in_parts(b))
        return op(b, head_loss, "loss", in(x, head, b->v->labels), (double)rows);
    const int64_t columns = b->m->vocab / parts;
    const value lse = op(b, head_part, "head", in(x, head, b->v->labels), (double)rows, (double)columns,
                         (double)parts, 0); /* [B S parts] */
    return op(b, part_loss, "loss", in(lse, graph_output(b->g, lse, 1), b->v->labels));
}

struct graph *build_decoder(struct arena *a, const struct model_config *m, const struct model_options *o,
                            struct model_values *v, double scale, build_block *attention,
                            build_block *feed_forward)
{
    struct build b = { .g = graph_new(a), .m = m, .o = o, .v = v, .scale = scale };
    const int64_t ids[2] = { o->batch, o->sequence };
    memset(v, -1, sizeof *v);
    v->n_moe = 0;
    b.table = rope_table(&b);
    v->tokens = graph_input(b.g, "tokens", I32, 2, ids);
    v->labels = o->logits ? -1 : graph_input(b.g, "labels", I32, 2, ids);

    strcpy(b.at, "model.");
    const value embedding = weight(&b, "embed_tokens", m->vocab, m->width);
    value h = embed(&b, embedding); /* [B S D] */
    enter_layer(&b, 0);
    value x = norm(&b, h, "input_layernorm", m->norm_eps);
    for (int64_t layer = 0; layer < m->layers; layer++) {
        enter_layer(&b, layer);
        x = attention(&b, layer, x);
        x = add_norm(&b, &h, x, "add_attention", path(&b, "post_attention_layernorm"));
        x = feed_forward(&b, layer, x);
        x = add_norm(&b, &h, x, "add_mlp", next_norm(&b, layer + 1));
    }
    b.at[0] = 0;
    const value head = m->tied ? embedding : weight(&b, "lm_head", m->vocab, m->width);
    if (o->logits) {
        v->logits = op(&b, linear, "lm_head", in(x, head)); /* [B S V] */
        graph_keep(b.g, v->logits);
    } else {
        v->nll = loss(&b, x, head); /* [B S] */
        graph_root(b.g, v->nll, ROOT_NLL);
    }
    graph_grad(b.g);
    return b.g;
}
