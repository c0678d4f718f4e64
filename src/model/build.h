/* build.h - the words that model files are written in: parameters and operators under the names of the checkpoint, and
 * the pieces that families share. Only model files include it; its names are short so that they read like the formulas. */
#pragma once
#include "graph/registry.h"
#include "model/model.h"
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
/* x: norm of the residual stream [B S D]; gives what is added to it */
typedef value build_block(struct build *b, int64_t layer, value x);
/*   h = embed(tokens)
 *   h = h + attention(norm(h))          a sum and the norm of it are one operator
 *   h = h + feed_forward(norm(h))       for each layer
 *   loss = cross_entropy(head(norm(h)), next token) */
struct graph *build_decoder(struct arena *a, const struct model_config *m, const struct model_options *o,
                            struct model_values *v, double scale, build_block *attention,
                            build_block *feed_forward);

/* op(b, NAME, "name", {inputs}, {attributes}) appends one operator. */
#define op(b, NAME, name, inputs, ...)                                                                       \
    graph_op((b)->g, &op_##NAME, path(b, name), (const value[])inputs,                                       \
             sizeof((value[])inputs) / sizeof(value), (const double[]){ 0 __VA_OPT__(, ) __VA_ARGS__ } + 1,  \
             (int)(sizeof((double[]){ 0 __VA_OPT__(, ) __VA_ARGS__ }) / sizeof(double)) - 1)
#define in(...)                                                                                              \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }

static inline const char *path(const struct build *b, const char *name)
{
    return arena_printf(b->g->arena, "%s%s", b->at, name);
}

static inline value weight(struct build *b, const char *name, int64_t rows, int64_t columns)
{
    return graph_param(b->g, path(b, arena_printf(b->g->arena, "%s.weight", name)), 2,
                       (const int64_t[]){ rows, columns }, INIT_NORMAL, b->m->initializer_range);
}

static inline int64_t width_of(const struct build *b, value x)
{
    const struct value_info *v = &b->g->values[x];
    return v->shape[v->n_dims - 1];
}

static inline value linear(struct build *b, value x, const char *name, int64_t rows)
{
    return op(b, linear, name, in(x, weight(b, name, rows, width_of(b, x))));
}

/* full_name: that of the norm, from "model." on */
static inline value norm_weight(struct build *b, const char *full_name, int64_t width)
{
    return graph_param(b->g, arena_printf(b->g->arena, "%s.weight", full_name), 1, &width, INIT_ONE, 0);
}

static inline value norm(struct build *b, value x, const char *name, double eps)
{
    return op(b, rmsnorm, name, in(x, norm_weight(b, path(b, name), width_of(b, x))), eps);
}

/* Gate and up projection of an MLP as one parameter [2, width, D]; a piece for each. */
static inline value gate_up_weight(struct build *b, const char *name, int64_t width)
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

static inline value mlp(struct build *b, value h, const char *name, int64_t width)
{
    struct arena *a = b->g->arena;
    const value up =
        op(b, gate_up, arena_printf(a, "%s.gate_up", name), in(h, gate_up_weight(b, name, width)));
    return linear(b, graph_output(b->g, up, 1), arena_printf(a, "%s.down_proj", name), b->m->width);
}
