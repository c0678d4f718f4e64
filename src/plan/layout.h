/* layout.h - where the elements of parameters lie under a plan: pure functions of (graph, plan, rank).
 * All dense parameters of a rank stand back to back in one flat space, all expert parameters (its experts
 * only) in another. The ranks that hold the same elements form a replica group. Gradients are reduced over
 * the replica group; each member ends up with one fine range, each shard owner with one coarse range. */
#pragma once
#include "plan/plan.h"
enum { DENSE, EXPERT, FLATS };
struct place {
    int flat;           /* DENSE or EXPERT */
    int64_t at;         /* first element in the flat space */
    int64_t begin, end; /* elements of the full parameter held by this rank */
    int64_t unit;       /* elements of one expert, or all */
};
struct chunk { /* pieces of the gradient norm: the same for every layout */
    int param, flat;
    int64_t at, n_elements; /* in the flat space */
    int64_t id;             /* global index, in the order of the full parameters */
};
struct flat {
    int64_t n_elements;     /* padded */
    int n_ranks, index;     /* replica group: its size and our position */
    int first_rank, stride; /* members: first_rank + i * stride */
    int n_shards;           /* optimizer state is cut in n_shards; member i owns coarse i % n_shards */
    int64_t *cut;           /* n_ranks + 1 boundaries of fine ranges */
};
struct layout {
    int rank, ep_index;
    struct place *place; /* by parameter */
    struct flat flat[FLATS];
    int64_t n_chunks_total; /* over all parameters in full */
    int n_chunks;           /* of this rank, in flat order */
    struct chunk *chunk;
};
void layout_make(struct arena *a, const struct graph *g, const struct plan *p, int rank, struct layout *l);
int layout_fine_of(const struct flat *f, int member); /* which fine range a member reduces */
/* Coarse range [*begin, *end) whose optimizer state a member owns. */
void layout_coarse(const struct flat *f, int member, int64_t *begin, int64_t *end);
/* How a node is split: the letter on the batch axis and the letter on the expert axis, -1 = none. */
struct node_split {
    int batch, expert;
};
void layout_split(struct arena *a, const struct graph *g, struct node_split *out);
bool layout_is_expert(const struct graph *g, int param); /* first dimension is split over experts */
