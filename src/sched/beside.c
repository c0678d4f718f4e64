/* beside.c - what a rank computes while rows of a region travel: nodes behind the region, in forward, and steps in front of
 * it, in backward, that the region needs nothing of and that need nothing of it. Among themselves they keep their order. */
#include "sched/lower.h"

/* It exchanges nothing itself. */
static bool is_alone(const struct lower *l, int node)
{
    return !lower_is_region(l, node) && !lower_is_tensor(l, node);
}

static bool made_in(const struct lower *l, const struct region *r, value v)
{
    return l->p->graph->values[v].node >= 0 && lower_in_region(r, l->p->graph->values[v].node);
}

static bool reads_of(const struct lower *l, const struct region *r, int node)
{
    const struct node *n = &l->p->graph->nodes[node];
    for (int j = 0; j < n->anno->n_inputs; j++)
        if (made_in(l, r, n->arg[j]))
            return true;
    return false;
}

int lower_beside_forward(const struct lower *l, enum list_kind which, const struct region *r, int last)
{
    int node = r->last;
    while (l->p->plan.overlap && node < last && is_alone(l, node) && !reads_of(l, r, node) &&
           !(which == LIST_MICRO && lower_is_merged(l, node)))
        node++;
    return node;
}

/* Does the node read a value that the region reads too? Both would then add to its gradient. */
static bool shares_input(const struct lower *l, const struct region *r, int node)
{
    const struct graph *g = l->p->graph;
    const struct node *n = &g->nodes[node];
    for (int i = r->first; i < r->last; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++)
            for (int k = 0; k < n->anno->n_inputs; k++)
                if (g->has_grad[n->arg[k]] && n->arg[k] == g->nodes[i].arg[j])
                    return true;
    return false;
}

/* The step of the first region at or behind `step`, with all between of the part; -1: there is none. */
static int next_region(const struct lower *l, int step, int node_first, int node_last)
{
    const struct graph *g = l->p->graph;
    for (; step < g->n_backs; step++) {
        const int node = g->backs[step].node;
        if (node < node_first || node >= node_last)
            return -1;
        if (lower_is_region(l, node))
            return step;
        if (!is_alone(l, node) || lower_is_merged(l, node))
            return -1;
    }
    return -1;
}

int lower_beside_backward(const struct lower *l, int first, int node_first, int node_last)
{
    const struct graph *g = l->p->graph;
    const int region = l->p->plan.overlap ? next_region(l, first, node_first, node_last) : -1;
    if (region < 0)
        return first;
    const struct region r = lower_region_at(l, g->backs[region].node);
    for (int i = first; i < region; i++)
        if (reads_of(l, &r, g->backs[i].node) || shares_input(l, &r, g->backs[i].node))
            return first;
    return region;
}
