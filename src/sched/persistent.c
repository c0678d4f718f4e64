/* persistent.c - buffers that live throughout: flat spaces of weights and gradients, optimizer states, what the host
 * reads and writes. */
#include "sched/lower.h"

/* Kept values share one buffer between the lists, so that the host finds them in one place. */
static void make_kept(struct lower *l)
{
    const struct graph *g = l->p->graph;
    for (int i = 0; i < g->n_kept; i++) {
        const value v = g->kept[i];
        const struct node *n = &g->nodes[g->values[v].node];
        for (int j = n->anno->n_inputs; j < n->anno->n_args; j++)
            if (n->arg[j] == v)
                l->kept[v] = (struct ref){ lower_persistent(l, g->values[v].name, MEM_BATCH,
                                                            lower_value_bytes(l, g->values[v].node, j)),
                                           0 };
    }
}

static struct ref flat_buffer(struct lower *l, const char *name, enum memory_class class, int64_t bytes)
{
    return (struct ref){ lower_persistent(l, name, class, bytes), 0 };
}

static void make_flats(struct lower *l, bool training)
{
    static const char *const names[FLATS][2] = { { "dense weights", "dense gradients" },
                                                 { "expert weights", "expert gradients" } };
    struct program *p = l->p;
    for (int i = 0; i < FLATS; i++) {
        const int64_t n = p->layout.flat[i].n_elements;
        p->weights[i] =
            flat_buffer(l, names[i][0], MEM_WEIGHTS, n * (int64_t)num_dtype_bytes(plan_float(&p->plan)));
        if (training)
            p->gradients[i] = flat_buffer(l, names[i][1], MEM_GRADIENTS,
                                          n * (int64_t)num_dtype_bytes(p->plan.numbers.gradient));
    }
}

/* One buffer for each kind of state of all parameters of a flat space; every part begins at a multiple of 64. */
static void make_states(struct lower *l)
{
    static const char *const names[FLATS][3] = { { "dense exp_avg", "dense exp_avg_sq", "dense master" },
                                                 { "expert exp_avg", "expert exp_avg_sq", "expert master" } };
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
        if (at->flat == EXPERT)
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
            *weight = (struct ref){
                lower_persistent(l, "loss weights", MEM_BATCH, p->buffers[l->kept[v].buffer].bytes), 0
            };
        p->grad[v] = *weight;
    }
}

void lower_make_persistent(struct lower *l, bool training)
{
    struct program *p = l->p;
    for (int i = 0; i < FLATS; i++)
        p->weights[i] = p->gradients[i] = NOWHERE;
    p->control = p->chunk_sums = p->nll_weight = p->aux_weight = NOWHERE;
    make_flats(l, training);
    make_kept(l);
    if (!training)
        return;
    make_states(l);
    if (l->n_parts > 1)
        make_parts(l);
    make_roots(l);
    p->control = (struct ref){ lower_persistent(l, "control", MEM_OPTIMIZER, 6 * (int64_t)sizeof(float)), 0 };
    p->chunk_sums = (struct ref){
        lower_persistent(l, "norm sums", MEM_OPTIMIZER, p->layout.n_chunks_total * (int64_t)sizeof(double)), 0
    };
}
