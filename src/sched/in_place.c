/* in_place.c - see in_place.h. */
#include "sched/in_place.h"

static bool in_region(const struct plan *p, const struct node_split *split, int node)
{
    return split[node].expert >= 0 && p->expert_parallel > 1;
}

static bool is_kept(const struct graph *g, value v)
{
    for (int i = 0; i < g->n_kept; i++)
        if (g->kept[i] == v)
            return true;
    return false;
}

/* Arguments of all nodes that are v, as inputs; saved: that backward reads, as inputs or outputs. */
static int count_uses(const struct graph *g, value v, bool saved)
{
    int n = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct anno *a = g->nodes[i].anno;
        for (int j = 0; j < a->n_args; j++)
            n += g->nodes[i].arg[j] == v && (saved ? a->saved >> j & 1 : j < a->n_inputs);
    }
    return n;
}

void in_place_make(const struct graph *g, const struct plan *p, const struct node_split *split, bool *out)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        const value x = n->arg[0], y = n->arg[n->anno->n_inputs];
        out[i] = n->op->in_place && g->values[x].kind == VALUE_ACT && !in_region(p, split, i) &&
                 !in_region(p, split, g->values[x].node) && !is_kept(g, x) && !is_kept(g, y) &&
                 count_uses(g, x, false) == 1 && count_uses(g, x, true) == 0;
    }
}
