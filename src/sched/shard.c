/* shard.c - buckets of gradients and weights. ZeRO 2 and 3: a rank keeps its own range of gradients, of weights. Weights come bucket by bucket before their
 * first use, and again for backward; gradients of a bucket are summed at their owners when the last of them is complete.
 * Both in every micro-batch, through buffers that live as long as the bucket is in use. */
#include "sched/lower.h"

static const struct bucket *bucket_of(const struct lower *l, int param)
{
    return &l->p->layout.bucket[l->p->layout.bucket_of[param]];
}

static struct ref at_element(struct ref flat, int64_t element, enum dtype t)
{
    return lower_at(flat, element, t);
}

/* A buffer for a bucket, as the place where element 0 of its flat space would lie. */
static struct ref room_for(struct lower *l, const struct bucket *b, const char *name, enum memory_class class,
                           enum dtype t)
{
    const struct ref r = { lower_buffer(l, name, class, b->n_elements * (int64_t)num_dtype_bytes(t)), 0 };
    return lower_at(r, -b->first, t);
}

static bool fetches(const struct lower *l)
{
    return l->p->plan.overlap && l->p->plan.zero >= 3;
}

/* The bucket of input j of a node, if it reads a weight that is gathered, or backward of it does; else -1. */
static int bucket_read(const struct lower *l, int node, int j, bool backward)
{
    const struct graph *g = l->p->graph;
    const int param = g->values[g->nodes[node].arg[j]].param;
    if (param < 0 || (backward && !lower_is_merged(l, node) && !(g->nodes[node].anno->saved >> j & 1)) ||
        !layout_shards_weights(&l->p->plan, &l->p->layout.flat[l->p->layout.place[param].flat]))
        return -1;
    return l->p->layout.bucket_of[param];
}

void lower_fetch(struct lower *l, int node, bool backward)
{
    const struct graph *g = l->p->graph;
    for (int j = 0; fetches(l) && j < g->nodes[node].anno->n_inputs; j++)
        if (bucket_read(l, node, j, backward) >= 0)
            lower_weight(l, g->values[g->nodes[node].arg[j]].param);
}

bool lower_fetch_next(struct lower *l, int node, bool backward)
{
    const struct graph *g = l->p->graph;
    for (int j = 0; fetches(l) && j < g->nodes[node].anno->n_inputs; j++) {
        const int bucket = bucket_read(l, node, j, backward);
        if (bucket < 0 || (l->gathered[bucket].buffer >= 0 && !l->ahead[bucket]))
            continue;
        lower_weight(l, g->values[g->nodes[node].arg[j]].param);
        l->ahead[bucket] = true;
        return false;
    }
    return fetches(l);
}

bool lower_reduces_early(const struct lower *l, int flat)
{
    const struct plan *p = &l->p->plan;
    const struct flat *f = &l->p->layout.flat[flat];
    return l->early && f->n_ranks > 1 && !(flat == SHARED && l->p->layout.apart) &&
           !layout_shards_gradients(p, f) && !lower_keeps_parts(l, flat);
}

/* Twice the bytes under backward take less of a step than once behind it, where backward of a micro-batch is longer. */
static bool pays_early(const struct lower *l)
{
    static const double link_bytes_per_s[BACKENDS] = { 1e10, 150e9 };
    const struct plan *p = &l->p->plan;
    double backward = 0, reduce = 0;
    int first, last;
    plan_part_nodes(p, l->p->graph->n_nodes, l->p->layout.stage, &first, &last);
    for (int i = 0; i < l->p->graph->n_backs; i++)
        if (l->p->graph->backs[i].node >= first && l->p->graph->backs[i].node < last)
            backward += lower_backward_seconds(l, l->p->graph->backs[i].node);
    for (int k = 0; k < FLATS; k++) {
        const struct flat *f = &l->p->layout.flat[k];
        if (lower_reduces_early(l, k))
            reduce += (double)f->n_elements * (double)num_dtype_bytes(p->numbers.gradient) *
                      (f->n_ranks - 1) / f->n_ranks / link_bytes_per_s[p->numbers.backend];
    }
    return reduce < backward;
}

/* Buckets of which a part is summed before all of it is written, that rounds add to, or of which a part has no gradient. */
static bool *buckets_of_zeros(const struct lower *l)
{
    const struct graph *g = l->p->graph;
    const struct layout *y = &l->p->layout;
    bool *zeros = ARENA_NEW(l->arena, bool, y->n_buckets + 1);
    for (int k = 0; k < y->n_buckets; k++)
        zeros[k] = l->p->plan.chunks > 1 || (l->p->plan.expert_parallel > 1 && y->bucket[k].flat == EXPERT);
    for (value v = 0; v < g->n_values; v++) {
        const int bucket = g->values[v].kind == VALUE_PARAM ? y->bucket_of[g->values[v].param] : -1;
        if (bucket >= 0 && !g->has_grad[v])
            zeros[bucket] = true;
    }
    return zeros;
}

static bool is_of_stage(const struct lower *l, int node)
{
    const struct plan *p = &l->p->plan;
    return plan_part_of(p, node) % p->stages == l->p->layout.stage;
}

void lower_shards_begin(struct lower *l)
{
    const struct plan *p = &l->p->plan;
    l->early = p->overlap && p->shards == 0 && p->chunks == 1; /* else gradients end later */
    l->early = l->early && pays_early(l);
    const struct graph *g = l->p->graph;
    const int n = l->p->layout.n_buckets;
    l->gathered = ARENA_NEW(l->arena, struct ref, n + 1);
    l->collected = ARENA_NEW(l->arena, struct ref, n + 1);
    l->last_back = ARENA_NEW(l->arena, int, n + 1);
    l->ahead = ARENA_NEW(l->arena, bool, n + 1);
    l->summed = ARENA_NEW(l->arena, bool, n + 1);
    l->zeros = buckets_of_zeros(l);
    lower_forget_weights(l);
    for (int i = 0; i < n; i++)
        l->collected[i] = NOWHERE;
    for (int i = 0; i < g->n_backs; i++)
        for (int j = 0; j < g->nodes[g->backs[i].node].anno->n_inputs; j++) {
            const int param = g->values[g->nodes[g->backs[i].node].arg[j]].param;
            if (param >= 0 && l->p->layout.bucket_of[param] >= 0 && (g->backs[i].want >> j & 1) &&
                is_of_stage(l, g->backs[i].node))
                l->last_back[l->p->layout.bucket_of[param]] = i;
        }
}

void lower_forget_weights(struct lower *l)
{
    for (int i = 0; i < l->p->layout.n_buckets; i++)
        l->gathered[i] = NOWHERE;
}

struct ref lower_weight(struct lower *l, int param)
{
    const struct program *p = l->p;
    const struct place *at = &p->layout.place[param];
    const enum dtype t = plan_float(&p->plan);
    if (!layout_shards_weights(&p->plan, &p->layout.flat[at->flat]))
        return at_element(p->weights[at->flat], at->at, t);
    const struct bucket *b = bucket_of(l, param);
    struct ref *here = &l->gathered[p->layout.bucket_of[param]];
    l->ahead[p->layout.bucket_of[param]] = false;
    if (here->buffer < 0) {
        *here = room_for(l, b, "gathered weights", MEM_WEIGHTS, t);
        struct instr *i = lower_emit(l, l->which, RUN_GATHER, p->graph->params.item[param].name);
        i->flat = b->flat;
        i->first = b->first;
        i->n_elements = b->n_elements;
        i->ref[0] = p->weights[b->flat];
        i->ref[1] = *here;
    }
    return at_element(*here, at->at, t);
}

bool lower_keeps_parts(const struct lower *l, int flat)
{
    return l->n_parts > 1 && flat == EXPERT;
}

bool lower_is_new(const struct lower *l, int param)
{
    const struct layout *y = &l->p->layout;
    return layout_shards_gradients(&l->p->plan, &y->flat[y->place[param].flat]) &&
           !l->zeros[y->bucket_of[param]];
}

struct ref lower_gradient(struct lower *l, int node, int param)
{
    const struct program *p = l->p;
    const struct place *at = &p->layout.place[param];
    const enum dtype t = p->plan.numbers.gradient;
    if (lower_keeps_parts(l, at->flat))
        return l->parts[param];
    if (layout_gradient_is_apart(p->graph, &p->layout, node, param))
        return at_element(p->apart, at->at, t);
    if (!layout_shards_gradients(&p->plan, &p->layout.flat[at->flat]))
        return at_element(p->gradients[at->flat], at->at, t);
    const struct bucket *b = bucket_of(l, param);
    struct ref *here = &l->collected[p->layout.bucket_of[param]];
    if (here->buffer < 0) {
        *here = room_for(l, b, "gradients of a bucket", MEM_GRADIENTS, t);
        if (lower_is_new(l, param))
            return at_element(*here, at->at, t);
        struct instr *i = lower_emit(l, LIST_MICRO, RUN_ZERO, "gradients of a bucket");
        i->ref[0] = at_element(*here, b->first, t);
        i->n = b->n_elements * (int64_t)num_dtype_bytes(t);
    }
    return at_element(*here, at->at, t);
}

void lower_touch_params(struct lower *l, int node, bool gradients)
{
    const struct graph *g = l->p->graph;
    for (int j = 0; j < g->nodes[node].anno->n_inputs; j++) {
        const int param = g->values[g->nodes[node].arg[j]].param;
        if (param < 0)
            continue;
        lower_weight(l, param);
        if (gradients)
            lower_gradient(l, node, param);
    }
}

/* Every member sums a part: a bucket lies in the ranges of few owners, whose links alone would be busy. One of several parts of
 * the model is summed after each of them. */
static void reduce_collected(struct lower *l, int bucket)
{
    const struct bucket *b = &l->p->layout.bucket[bucket];
    struct instr *i = lower_reduce(l, LIST_MICRO, b, l->collected[bucket], l->p->gradients[b->flat]);
    i->add = true;
    i->first_writes = !l->summed[bucket];
    l->summed[bucket] = true;
    i->spread = l->p->layout.flat[b->flat].n_ranks > 2; /* between two it is the same */
    l->collected[bucket] = NOWHERE;
}

/* The same where each rank has them whole. */
static void reduce_early(struct lower *l, int bucket)
{
    const struct bucket *b = &l->p->layout.bucket[bucket];
    const struct ref all = l->p->gradients[b->flat];
    struct instr *i = lower_reduce(l, LIST_MICRO, b, all, all);
    i->last = i->spread = true;
    l->summed[bucket] = true;
}

void lower_reduce_done(struct lower *l, int back, bool quiet)
{
    const struct layout *y = &l->p->layout;
    for (int k = 0; k < y->n_buckets; k++) {
        const struct bucket *b = &y->bucket[k];
        if (l->last_back[k] > back)
            continue;
        if (l->collected[k].buffer >= 0) {
            reduce_collected(l, k);
        } else if (quiet && !l->summed[k] && lower_reduces_early(l, b->flat)) {
            reduce_early(l, k);
        }
    }
}
