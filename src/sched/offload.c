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

static int64_t room_of(const struct lower *l, int node)
{
    return (lower_value_bytes(l, node, l->lodger[node]) + ALIGN - 1) / ALIGN * ALIGN;
}

static bool same_kind(const struct lower *l, int i, int k)
{
    return l->lodger[i] >= 0 && l->p->graph->nodes[i].op == l->p->graph->nodes[k].op &&
           room_of(l, i) == room_of(l, k);
}

/* A node of those whose values take most memory together: they are the lodgers. -1: none may lodge. */
static int largest_kind(const struct lower *l)
{
    const int n = l->p->graph->n_nodes;
    int best = -1;
    int64_t most = 0;
    for (int k = 0; k < n; k++) {
        int64_t bytes = 0;
        for (int i = 0; i < n && l->lodger[k] >= 0; i++)
            bytes += same_kind(l, i, k) ? room_of(l, i) : 0;
        if (bytes > most) {
            most = bytes;
            best = k;
        }
    }
    return best;
}

/* The first moments that take most memory. */
static int most_moments(const struct program *p)
{
    int best = -1;
    for (int i = 0; i < p->graph->params.n; i++) {
        const int b = p->state[i].exp_avg.buffer;
        if (b >= 0 && (best < 0 || p->buffers[b].bytes > p->buffers[best].bytes))
            best = b;
    }
    return best;
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

void offload_choose(struct lower *l)
{
    struct program *p = l->p;
    const int n_nodes = p->graph->n_nodes;
    l->lodger = ARENA_NEW(l->arena, int, n_nodes);
    l->lodges_at = ARENA_NEW(l->arena, int64_t, n_nodes);
    for (int i = 0; i < n_nodes; i++)
        l->lodger[i] = p->plan.stages == 1 ? lodger_of(l, i) : -1;
    const int kind = largest_kind(l), moments = most_moments(p);
    const int64_t each = kind < 0 ? 0 : room_of(l, kind),
                  most = moments < 0 || each == 0 ? 0 : p->buffers[moments].bytes / each;
    bool *lodges = ARENA_NEW(l->arena, bool, n_nodes);
    int64_t left = most < p->plan.lodgers ? most : p->plan.lodgers;
    struct offload *o = &p->offload;
    o->each_bytes = each;
    for (int i = 0; i < n_nodes && each > 0; i++)
        o->n_most += same_kind(l, i, kind) && o->n_most < most;
    for (int i = n_nodes - 1; i >= 0 && left > 0; i--) {
        lodges[i] = same_kind(l, i, kind);
        left -= lodges[i];
    }
    for (int i = 0; i < n_nodes; i++)
        l->lodger[i] = lodges[i] ? l->lodger[i] : -1;
    for (int i = 0; i < n_nodes; i++)
        if (l->lodger[i] >= 0)
            l->lodges_at[i] = each * o->n_lodgers++;
    o->buffer = moments;
    o->bytes = each * o->n_lodgers;
    o->n_copies = copies_before(p, o->bytes);
}

void offload_enter(struct lower *l, int node)
{
    struct program *p = l->p;
    if (l->lodger[node] < 0)
        return;
    struct buffer *b = &p->buffers[lower_value(l, node, l->lodger[node], false).buffer];
    b->host = 1 + p->offload.buffer;
    b->host_at = l->lodges_at[node];
    struct instr *i = lower_emit(l, LIST_MICRO, RUN_AWAIT_HOST, p->graph->nodes[node].name);
    i->start = true;
    i->box = copies_before(p, l->lodges_at[node] + room_of(l, node)) - 1;
}

void offload_leave(struct lower *l, int node)
{
    const struct program *p = l->p;
    if (l->lodger[node] < 0)
        return;
    struct instr *i = lower_emit(l, LIST_MICRO, RUN_FROM_HOST, p->graph->nodes[node].name);
    i->last = true;
    i->ref[0] = (struct ref){ p->offload.buffer, l->lodges_at[node] };
    i->n = room_of(l, node);
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
