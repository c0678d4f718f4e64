/* stash.h - which values of forward are kept for backward, and which are computed again there. Nodes whose names
 * differ in numbers only (the same place in every layer) are one kind. All nodes that can be dropped stand in a fixed
 * order: kind by kind, cheapest per byte first, and in a kind from the first layer on, whose backward comes last, when
 * most of the memory is free again. A plan's `recompute` says how many of them, from the first on, are dropped. */
#pragma once
#include "plan/layout.h"
#include "plan/plan.h"
struct stash {
    int *
        dropped_at; /* by value: the least `recompute` with which it is not kept after its last use in forward; 0 = it always is */
    int *place;     /* by node: its place in the order, from 1 on; 0 = is never dropped */
    int n_nodes;    /* largest `recompute` that makes a difference */
};
/* split: by node (layout_split); nodes of exchange regions recompute by themselves and are left alone. in_place: by
 * node (in_place.h); those have no input left to compute again from. bytes: by value, on the rank: rows are padded, or are
 * those of a tensor group. */
void stash_make(struct arena *a, const struct graph *g, const struct plan *p, const struct node_split *split,
                const bool *in_place, const int64_t *bytes, struct stash *out);
/* The arguments that computing a node again reads and writes: all, or fewer where it has a kernel for that (op.h). */
bool stash_reads(const struct node *n, int arg);
bool stash_writes(const struct node *n, int arg);
/* What computing a node again takes, roughly: the price by which the order is made. */
double stash_seconds(const struct graph *g, const struct node *n);
