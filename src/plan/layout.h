/* layout.h - where the elements of parameters lie under a plan: pure functions of (graph, plan, rank).
 * All dense parameters of a rank stand back to back in one flat space, all expert parameters (its experts
 * or its slices of them only) in another, its slices of tensor-parallel parameters in a third. What both ends of a pipeline
 * read (a tied embedding) is in a fourth, SHARED, which is the same on both: a worker of one owns what that worker of the
 * other one does. Under --reproducible it is there without a pipeline too, so that its gradients are added in the same
 * order (doc/adr/0020). The ranks of a stage that hold the same elements form a replica group. Gradients are reduced over the replica group; each member ends up with one fine range, each
 * shard owner with one coarse range.
 *
 * A rank holds a contiguous range of each parameter *in held order*. That is the order of the parameter, but for those
 * that are sliced: seen as [outer, slices, run], where a slice is a part of the dimension that is split, they are held
 * as [slices, outer, run]. */
#pragma once
#include "plan/component.h"
#include "plan/plan.h"
enum { DENSE, EXPERT, TENSOR, SHARED, FLATS };
struct place {
    int flat;            /* DENSE, EXPERT, TENSOR or SHARED */
    int64_t at;          /* first element in the flat space */
    int64_t n_elements;  /* of the full parameter */
    int64_t begin, end;  /* elements of the full parameter held by this rank, in held order */
    int64_t unit;        /* elements of one expert, of one slice, of one expert's slice, or all */
    int64_t slices, run; /* see above; 1 slice: the order is that of the parameter */
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
    int together;           /* neighbours whose sums the tree adds last; 1: it adds neighbours first */
    int n_shards;           /* optimizer state is cut in n_shards; member i owns coarse i % n_shards */
    int64_t *cut;           /* n_ranks + 1 boundaries of fine ranges */
};
/* Consecutive elements of a flat space that are gathered, and whose gradients are summed, at once (ZeRO 2 and 3): whole
 * parameters; the same for every rank. */
struct bucket {
    int flat;
    int64_t first, n_elements;
};
struct layout {
    int rank, stage, ep_index, tensor_index; /* the last two: inside their groups */
    struct components tensor;                /* what is split over the tensor group */
    struct place *place;                     /* by parameter; empty where another stage has it */
    struct flat flat[FLATS];
    bool home;                 /* of SHARED: the stage whose ranks count it in the norm and save it */
    bool tied;                 /* the ends have something in SHARED; the same for all ranks */
    bool apart;                /* and this stage has both ends of the model */
    int n_buckets, *bucket_of; /* by parameter; -1: not held */
    struct bucket *bucket;
    int64_t n_chunks_total; /* over all parameters in full */
    int n_chunks;           /* of this rank, in flat order */
    struct chunk *chunk;
};
/* Elements from `held` on (in held order, up to the end of what the rank holds) that are neighbours in the parameter
 * too; *stored is the place of the first one there. */
int64_t layout_run(const struct place *p, int64_t held, int64_t *stored);
/* The replica group of a rank in a flat space: all but its elements and cuts. */
struct flat layout_flat(const struct plan *p, int rank, int which);
void layout_make(struct arena *a, const struct graph *g, const struct plan *p, int rank, struct layout *l);
/* What the tensor groups of a plan split: the same for all ranks, and for all plans that differ in ZeRO or recomputation. */
void layout_components(struct arena *a, const struct graph *g, const struct plan *p, struct components *out);
/* layout_make() with these components, which the layout keeps. */
void layout_place(struct arena *a, const struct graph *g, const struct plan *p, int rank,
                  const struct components *tensor, struct layout *l);
/* Does a rank keep only its own coarse range of the gradients, of the weights? Gradients under --reproducible are summed
 * over the micro-batches first, so they are whole. */
bool layout_shards_gradients(const struct plan *p, const struct flat *f);
bool layout_shards_weights(const struct plan *p, const struct flat *f);
/* Is this gradient of SHARED kept apart from that of a node in front, which reads the parameter too? */
bool layout_gradient_is_apart(const struct graph *g, const struct layout *l, int node, int param);
/* Does the node run with the tokens of the whole tensor group? */
bool layout_is_tensor(const struct layout *l, int node);
int layout_fine_of(const struct flat *f, int member);    /* which fine range a member reduces */
int layout_tree_place(const struct flat *f, int member); /* of its gradients in the tree */
/* Coarse range [*begin, *end) whose optimizer state a member owns. */
/* The rank that owns most of a stage; its ranks differ in nothing else that takes memory. l: of any of them. */
int layout_fullest_rank(const struct layout *l, const struct plan *p);
void layout_coarse(const struct flat *f, int member, int64_t *begin, int64_t *end);
bool *layout_experts(struct arena *a,
                     const struct graph *g); /* by parameter: is its first dimension that of experts? */
