/* persistent.c - buffers that live throughout: flat spaces of weights and gradients, optimizer states, what the host
 * reads and writes. */
#include "sched/lower.h"

enum { PART_ALIGN = 256 }; /* as that of buffers */

/* Room for `bytes` behind what *whole has; makes it on first use. */
static struct ref add_part(struct lower *l, struct ref *whole, const char *name, int64_t bytes)
{
    if (whole->buffer < 0)
        *whole = (struct ref){ lower_persistent(l, name, MEM_BATCH, 0), 0 };
    struct buffer *b = &l->p->buffers[whole->buffer];
    const struct ref part = { whole->buffer, b->bytes };
    b->bytes += (bytes + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
    return part;
}

/* On this rank; of an output. */
static int64_t output_bytes(const struct lower *l, value v)
{
    const struct graph *g = l->p->graph;
    const int node = g->values[v].node;
    int j = g->nodes[node].anno->n_inputs;
    while (g->nodes[node].arg[j] != v)
        j++;
    return lower_value_bytes(l, node, j);
}

/* Kept values have one place for all lists, side by side, so that the host gets them with one copy. */
static void make_kept(struct lower *l)
{
    const struct graph *g = l->p->graph;
    for (int i = 0; i < g->n_kept; i++)
        if (l->kept[g->kept[i]].buffer < 0)
            l->kept[g->kept[i]] = add_part(l, &l->p->kept, "kept values", output_bytes(l, g->kept[i]));
}

/* Inputs too, with the loss weights behind them; their local size follows from the first reader. */
static void make_inputs(struct lower *l)
{
    const struct graph *g = l->p->graph;
    for (int i = 0; i < g->n_nodes; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++) {
            const value v = g->nodes[i].arg[j];
            if (g->values[v].kind == VALUE_INPUT && l->p->value[v].buffer < 0)
                l->p->value[v] = add_part(l, &l->p->inputs, "inputs", lower_value_bytes(l, i, j));
        }
}

static struct ref flat_buffer(struct lower *l, const char *name, enum memory_class class, int64_t bytes)
{
    return (struct ref){ lower_persistent(l, name, class, bytes), 0 };
}

/* Of a flat space: all of it, or the rank's own range, as the place where element 0 would lie. */
static struct ref flat_range(struct lower *l, const char *name, enum memory_class class, const struct flat *f,
                             bool own, enum dtype t)
{
    int64_t begin = 0, end = f->n_elements;
    if (own)
        layout_coarse(f, f->index, &begin, &end);
    return lower_at(flat_buffer(l, name, class, (end - begin) * (int64_t)num_dtype_bytes(t)), -begin, t);
}

static void make_flats(struct lower *l, bool training)
{
    static const char *const names[FLATS][2] = { { "dense weights", "dense gradients" },
                                                 { "expert weights", "expert gradients" },
                                                 { "sliced weights", "sliced gradients" },
                                                 { "tied weights", "tied gradients" } };
    struct program *p = l->p;
    for (int i = 0; i < FLATS; i++) {
        const struct flat *f = &p->layout.flat[i];
        p->weights[i] = flat_range(l, names[i][0], MEM_WEIGHTS, f, layout_shards_weights(&p->plan, f),
                                   plan_float(&p->plan));
        if (training)
            p->gradients[i] = flat_range(l, names[i][1], MEM_GRADIENTS, f,
                                         layout_shards_gradients(&p->plan, f), p->plan.numbers.gradient);
    }
    if (training && p->layout.apart)
        p->apart = flat_range(l, "tied gradients, apart", MEM_GRADIENTS, &p->layout.flat[SHARED], false,
                              p->plan.numbers.gradient);
}

/* One buffer for each kind of state of all parameters of a flat space; every part begins at a multiple of 64. */
static void make_states(struct lower *l)
{
    static const char *const names[FLATS][3] = { { "dense exp_avg", "dense exp_avg_sq", "dense master" },
                                                 { "expert exp_avg", "expert exp_avg_sq", "expert master" },
                                                 { "sliced exp_avg", "sliced exp_avg_sq", "sliced master" },
                                                 { "tied exp_avg", "tied exp_avg_sq", "tied master" } };
    struct program *p = l->p;
    int64_t moments[FLATS] = { 0 }, masters[FLATS] = { 0 };
    p->state = ARENA_NEW(l->arena, struct state, p->graph->params.n);
    for (int i = 0; i < p->graph->params.n; i++) {
        const struct place *at = &p->layout.place[i];
        const struct flat *f = &p->layout.flat[at->flat];
        struct state *s = &p->state[i];
        layout_coarse(f, f->index, &s->begin, &s->end);
        s->begin = at->at > s->begin ? at->at : s->begin;
        s->end = at->at + at->end - at->begin < s->end ? at->at + at->end - at->begin : s->end;
        s->end = s->end > s->begin ? s->end : s->begin;
        s->exp_avg.at_bytes = s->exp_avg_sq.at_bytes = moments[at->flat];
        s->low.at_bytes = masters[at->flat];
        moments[at->flat] += (plan_moment_bytes(&p->plan, s->end - s->begin) + 63) / 64 * 64;
        masters[at->flat] += (plan_master_bytes(&p->plan, s->end - s->begin) + 63) / 64 * 64;
    }
    for (int k = 0; k < FLATS; k++) {
        const int exp_avg = flat_buffer(l, names[k][0], MEM_OPTIMIZER, moments[k]).buffer,
                  exp_avg_sq = flat_buffer(l, names[k][1], MEM_OPTIMIZER, moments[k]).buffer,
                  low = flat_buffer(l, names[k][2], MEM_OPTIMIZER, masters[k]).buffer;
        for (int i = 0; i < p->graph->params.n; i++)
            if (p->layout.place[i].flat == k) {
                p->state[i].exp_avg.buffer = exp_avg;
                p->state[i].exp_avg_sq.buffer = exp_avg_sq;
                p->state[i].low.buffer = low;
            }
    }
}

/* Reproducible mode: expert gradients of each sender apart, so that they are added in the order of ranks. */
static void make_parts(struct lower *l)
{
    const struct param_list *params = &l->p->graph->params;
    for (int i = 0; i < params->n; i++) {
        const struct place *at = &l->p->layout.place[i];
        if (at->flat == EXPERT && at->begin < at->end)
            l->parts[i] =
                (struct ref){ lower_persistent(l, params->item[i].name, MEM_GRADIENTS,
                                               (at->end - at->begin) * l->n_parts *
                                                   (int64_t)num_dtype_bytes(l->p->plan.numbers.gradient)),
                              0 };
    }
}

static void make_roots(struct lower *l)
{
    const struct graph *g = l->p->graph;
    struct program *p = l->p;
    for (int i = 0; i < g->n_roots; i++) {
        const value v = g->roots[i].of;
        struct ref *weight = g->roots[i].kind == ROOT_NLL ? &p->nll_weight : &p->aux_weight;
        if (weight->buffer < 0)
            *weight = add_part(l, &p->inputs, "inputs", output_bytes(l, v));
        p->grad[v] = *weight;
    }
}

void lower_make_persistent(struct lower *l, bool training)
{
    struct program *p = l->p;
    for (int i = 0; i < FLATS; i++)
        p->weights[i] = p->gradients[i] = NOWHERE;
    p->apart = p->control = p->chunk_sums = p->nll_weight = p->aux_weight = p->kept = p->inputs = NOWHERE;
    make_flats(l, training);
    make_kept(l);
    make_inputs(l);
    if (!training)
        return;
    make_states(l);
    if (l->n_parts > 1)
        make_parts(l);
    lower_tree(l);
    make_roots(l);
    p->control = (struct ref){ lower_persistent(l, "control", MEM_OPTIMIZER, 6 * (int64_t)sizeof(float)), 0 };
    p->chunk_sums = (struct ref){
        lower_persistent(l, "norm sums", MEM_OPTIMIZER, p->layout.n_chunks_total * (int64_t)sizeof(double)), 0
    };
}
