/* component.h - what tensor parallelism may split, from annotations alone. A component is a set of dimensions of
 * values that letters of operators tie together: the heads of an attention block, the width of an MLP. It may be
 * split over `tensor` ranks when every operator lets it ("^" nowhere), a parameter has it, and every operator that
 * has it reads nothing but members, parameters, constants, and values that are cut by tokens.
 * (Megatron-LM, arXiv 1909.08053, section 3, with the token-split norms of arXiv 2205.05198, section 4.2.2.) */
#pragma once
#include "base/arena.h"
#include "graph/graph.h"
/* How a node is split: the letter on the batch axis and the letter on the expert axis, -1 = none. */
struct node_split {
    int batch, expert;
};
void layout_split(struct arena *a, const struct graph *g, struct node_split *out); /* layout.c */
struct components {
    int *letter; /* by node: its split letter; -1 = none */
    int *dim;    /* by value: the dimension that is split; -1 = none */
};
/* split: of layout_split. Letters whose length `tensor` does not divide, and what hangs on them, stay whole; so do those
 * that would leave a last dimension that is no multiple of `width` (op.h: widths on CUDA). */
void components_find(struct arena *a, const struct graph *g, const struct node_split *split, int tensor,
                     int width, struct components *out);
