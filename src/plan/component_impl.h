/* component_impl.h - what component.c and join.c share: union and find over (value, dimension). */
#pragma once
#include "plan/component.h"
enum { COMPONENT_DIMS = 6 };
struct component_state {
    const struct graph *g;
    const struct node_split *split;
    int *parent;            /* by value * COMPONENT_DIMS + dimension */
    bool *bad, *with_param; /* by root */
    bool *with_rows;        /* by root: nodes with rows by expert have it */
    int tensor, width;      /* of components_find */
    bool experts;
};
int component_root(const struct component_state *s, int member);
/* Member of the letter in argument j of a node, or -1. */
int component_member(const struct node *n, int j, int letter);
/* Is the argument cut by tokens, as all values outside components are? */
bool component_by_tokens(const struct component_state *s, int node, int j);
/* Splits the width of experts too, of all layers, with what joins it; or of none. out: of all other components. */
void component_join(struct arena *a, const struct component_state *s, struct components *out);
