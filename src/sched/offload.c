/* offload.c - see offload.h. */
#include "sched/offload.h"
#include "sched/merge.h"

enum { ALIGN = 256 }; /* as that of buffers */

/* The output of a node that its own backward step reads, if it is one that may lodge; -1: there is none. Steps of those that
 * read it too come before that one. */
static int lodger_of(const struct lower *l, int node)
{
    const struct node *n = &l->p->graph->nodes[node];
    int best = -1;
    if (l->back_of[node] < 0 || lower_is_region(l, node) || lower_is_merged(l, node) || l->in_place[node])
        return -1;
    for (int j = n->anno->n_inputs; j < n->anno->n_args; j++) {
        const int dropped = l->stash.dropped_at[n->arg[j]];
        if ((n->anno->saved >> j & 1) && l->kept[n->arg[j]].buffer < 0 && !lower_crosses(l, node, j) &&
            !(dropped && dropped <= l->p->plan.recompute) &&
            (best < 0 || lower_value_bytes(l, node, j) > lower_value_bytes(l, node, best)))
            best = j;
    }
    return best;
}

/* What a value that may lodge takes, by node; 0: none may. */
static const int64_t *find_rooms(struct lower *l)
{
    const int n = l->p->graph->n_nodes;
    int64_t *room = ARENA_NEW(l->arena, int64_t, n);
    for (int i = 0; i < n && l->p->plan.stages == 1; i++) {
        const int arg = lodger_of(l, i);
        room[i] = arg < 0 ? 0 : (lower_value_bytes(l, i, arg) + ALIGN - 1) / ALIGN * ALIGN;
    }
    return room;
}

static bool same_kind(const struct lower *l, const int64_t *room, int i, int k)
{
    return room[i] == room[k] && l->p->graph->nodes[i].op == l->p->graph->nodes[k].op;
}

/* A node of those whose values take most memory together: they are the lodgers. -1: none may lodge. */
static int largest_kind(const struct lower *l, const int64_t *room)
{
    const int n = l->p->graph->n_nodes;
    int best = -1;
    int64_t most = 0;
    for (int k = 0; k < n; k++) {
        int64_t bytes = 0;
        for (int i = 0; i < n && room[k] > 0; i++)
            bytes += same_kind(l, room, i, k) ? room[k] : 0;
        if (bytes > most) {
            most = bytes;
            best = k;
        }
    }
    return best;
}

/* Of the first moments of a flat space, what the rank with the least has: all ranks have as many lodgers. */
static int64_t least_bytes(const struct program *p, int flat)
{
    const struct flat *f = &p->layout.flat[flat];
    int64_t least = INT64_MAX;
    for (int rank = 0; rank < f->n_ranks; rank++) {
        int64_t begin, end;
        layout_coarse(f, rank, &begin, &end);
        const int64_t bytes = plan_moment_bytes(&p->plan, end - begin);
        least = bytes < least ? bytes : least;
    }
    return least;
}

/* The flat space with most of them; -1: none has any. */
static int most_moments(const struct program *p)
{
    int best = -1;
    for (int i = 0; i < FLATS; i++)
        if (p->layout.flat[i].n_elements > 0 && (best < 0 || least_bytes(p, i) > least_bytes(p, best)))
            best = i;
    return best;
}

static int buffer_of(const struct program *p, int flat)
{
    int i = 0;
    while (i < p->graph->params.n && p->layout.place[i].flat != flat)
        i++;
    return i < p->graph->params.n ? p->state[i].exp_avg.buffer : -1;
}

static bool moments_of(const struct program *p, int param)
{
    const struct state *s = &p->state[param];
    return p->offload.bytes > 0 && s->exp_avg.buffer == p->offload.buffer && s->begin < s->end &&
           s->exp_avg.at_bytes < p->offload.bytes;
}

/* Copies that begin before byte `end` of the moments. */
static int copies_before(const struct program *p, int64_t end)
{
    int n = 0;
    for (int i = 0; i < p->graph->params.n; i++)
        n += moments_of(p, i) && p->state[i].exp_avg.at_bytes < end;
    return n;
}

/* Those of the last nodes of the kind that there is room for, in the order of the nodes. */
static void place_lodgers(struct lower *l, const int64_t *room, int kind, int64_t most)
{
    struct offload *o = &l->p->offload;
    int first = l->p->graph->n_nodes;
    for (int64_t left = most; first > 0 && left > 0;)
        left -= same_kind(l, room, --first, kind);
    for (int i = first; i < l->p->graph->n_nodes; i++)
        if (same_kind(l, room, i, kind)) {
            l->lodger[i] = lodger_of(l, i);
            l->lodges_at[i] = o->each_bytes * o->n_lodgers++;
        }
}

void offload_choose(struct lower *l)
{
    struct program *p = l->p;
    const int n_nodes = p->graph->n_nodes, flat = most_moments(p);
    const int64_t *room = find_rooms(l);
    const int kind = flat < 0 ? -1 : largest_kind(l, room);
    l->lodger = ARENA_NEW(l->arena, int, n_nodes);
    l->lodges_at = ARENA_NEW(l->arena, int64_t, n_nodes);
    for (int i = 0; i < n_nodes; i++)
        l->lodger[i] = -1;
    p->offload = (struct offload){ .buffer = flat < 0 ? -1 : buffer_of(p, flat) };
    if (kind < 0)
        return;
    struct offload *o = &p->offload;
    const int64_t most = least_bytes(p, flat) / room[kind];
    o->each_bytes = room[kind];
    for (int i = 0; i < n_nodes; i++)
        o->n_most += same_kind(l, room, i, kind) && o->n_most < most;
    place_lodgers(l, room, kind, most < p->plan.lodgers ? most : p->plan.lodgers);
    o->bytes = o->each_bytes * o->n_lodgers;
    o->n_copies = copies_before(p, o->bytes);
}

void offload_enter(struct lower *l, int node)
{
    struct program *p = l->p;
    if (l->lodger[node] < 0)
        return;
    struct buffer *b = &p->buffers[lower_value(l, node, l->lodger[node], false).buffer];
    b->lodges = 1 + p->offload.buffer;
    b->lodges_at = l->lodges_at[node];
    struct instr *i = lower_emit(l, LIST_MICRO, RUN_AWAIT_HOST, p->graph->nodes[node].name);
    i->start = true;
    i->box = copies_before(p, l->lodges_at[node] + p->offload.each_bytes) - 1;
}

void offload_leave(struct lower *l, int node)
{
    const struct program *p = l->p;
    if (l->lodger[node] < 0)
        return;
    struct instr *i = lower_emit(l, LIST_MICRO, RUN_FROM_HOST, p->graph->nodes[node].name);
    i->last = true;
    i->ref[0] = (struct ref){ p->offload.buffer, l->lodges_at[node] };
    i->n = p->offload.each_bytes;
}

void offload_await(struct lower *l, int flat)
{
    const struct program *p = l->p;
    bool any = false;
    for (int i = 0; i < p->graph->params.n; i++)
        any |= p->layout.place[i].flat == flat && moments_of(p, i);
    if (any)
        lower_emit(l, LIST_UPDATE, RUN_AWAIT_HOST, p->buffers[p->offload.buffer].name)->backward = true;
}

void offload_param(struct lower *l, int param)
{
    const struct program *p = l->p;
    if (!moments_of(p, param))
        return;
    int64_t end = p->offload.bytes;
    for (int i = 0; i < p->graph->params.n; i++)
        if (moments_of(p, i) && p->state[i].exp_avg.at_bytes > p->state[param].exp_avg.at_bytes &&
            p->state[i].exp_avg.at_bytes < end)
            end = p->state[i].exp_avg.at_bytes;
    struct instr *i = lower_emit(l, LIST_UPDATE, RUN_TO_HOST, p->graph->params.item[param].name);
    i->ref[0] = p->state[param].exp_avg;
    i->n = end - i->ref[0].at_bytes;
    i->box = copies_before(p, i->ref[0].at_bytes);
}
