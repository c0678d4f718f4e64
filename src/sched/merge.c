/* merge.c - see merge.h. */
#include "sched/merge.h"

static bool is_read(const struct graph *g, value v)
{
    for (int i = g->values[v].node + 1; i < g->n_nodes; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++)
            if (g->nodes[i].arg[j] == v)
                return true;
    return false;
}

static bool has_backward(const struct graph *g, int node)
{
    for (int i = 0; i < g->n_backs; i++)
        if (g->backs[i].node == node)
            return true;
    return false;
}

bool merge_is(const struct graph *g, enum backend backend, int node)
{
    const struct node *n = &g->nodes[node];
    if (!n->op->both[backend] || !has_backward(g, node))
        return false;
    for (int j = n->anno->n_inputs; j < n->anno->n_args; j++)
        if (is_read(g, n->arg[j]))
            return false;
    return true;
}
