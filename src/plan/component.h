/* component.h - what tensor parallelism may split, from annotations alone. A component is a set of dimensions of
 * values that letters of operators tie together: the heads of an attention block, the width of an MLP. It may be
 * split over `tensor` ranks when every operator lets it ("^" nowhere), a parameter has it, and every operator that
 * has it reads nothing but members, parameters, constants, and values that are cut by tokens.
 * (Megatron-LM, arXiv 1909.08053, section 3, with the token-split norms of arXiv 2205.05198, section 4.2.2.)
 *
 * The width of experts is such a component but for what its node reads and leaves: rows in the order of the experts. Where
 * it is to be split, the nodes around it join: those that make the rows, and those that add up what it leaves (op.h:
 * sums), run with the tokens of the group too, up to values that are cut by tokens (join.c). */
#pragma once
#include "base/arena.h"
#include "graph/graph.h"
/* How a node is split: the letter on the batch axis and the letter on the expert axis, -1 = none. */
struct node_split {
    int batch, expert;
};
void layout_split(struct arena *a, const struct graph *g, struct node_split *out); /* layout.c */
struct components {
    int *letter;  /* by node: its split letter; -1 = none */
    int *dim;     /* by value: the dimension that is split; -1 = none */
    bool *joined; /* by node: it has no split letter, but runs with the tokens of the group */
    bool *inner;  /* by value: of the tokens of the group, on every member: whole, or a partial sum */
};
/* split: of layout_split. Letters whose length `tensor` does not divide, and what hangs on them, stay whole; so do those
 * that would leave a last dimension that is no multiple of `width` (op.h: widths on CUDA); and the width of experts, but
 * for `experts`. */
void components_find(struct arena *a, const struct graph *g, const struct node_split *split, int tensor,
                     int width, bool experts, struct components *out);
