/* grad.c - the backward steps of a graph, from its nodes in reverse and the bwd kernels of their operators.
 * A value used twice gets its gradient in two steps: the first one writes, the later ones add. Those of parameters
 * accumulate over micro-batches: the first one writes in the first of them alone. */
#include "graph/graph.h"

/* Values that depend on a parameter through operators with a backward kernel. */
static void mark_needs(const struct graph *g, bool *needs)
{
    for (int i = 0; i < g->n_values; i++)
        needs[i] = g->values[i].kind == VALUE_PARAM;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        bool any = false;
        for (int j = 0; j < n->anno->n_inputs; j++)
            any |= needs[n->arg[j]];
        for (int j = n->anno->n_inputs; j < n->anno->n_args; j++)
            needs[n->arg[j]] = any && n->op->bwd[CPU] && g->values[n->arg[j]].dtype == F32;
    }
}

void graph_grad(struct graph *g)
{
    bool *needs = ARENA_NEW(g->arena, bool, g->n_values);
    mark_needs(g, needs);
    g->has_grad = ARENA_NEW(g->arena, bool, g->n_values);
    g->backs = ARENA_NEW(g->arena, struct back, g->n_nodes);
    g->n_backs = 0;
    for (int i = 0; i < g->n_roots; i++)
        g->has_grad[g->roots[i].of] = true;
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        const struct node *n = &g->nodes[i];
        struct back b = { .node = i };
        bool flows = false;
        for (int j = n->anno->n_inputs; j < n->anno->n_args; j++)
            flows |= g->has_grad[n->arg[j]];
        if (!flows || !n->op->bwd[CPU])
            continue;
        for (int j = 0; j < n->anno->n_inputs; j++) {
            const value v = n->arg[j];
            if (!needs[v])
                continue;
            b.want |= 1u << j;
            if (g->has_grad[v] || g->values[v].kind == VALUE_PARAM)
                b.add |= 1u << j;
            if (!g->has_grad[v] && g->values[v].kind == VALUE_PARAM)
                b.first |= 1u << j;
            g->has_grad[v] = true;
        }
        if (b.want)
            g->backs[g->n_backs++] = b;
    }
}
