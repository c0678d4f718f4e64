/* lower.h - inside sched/: the state of one lowering. */
#pragma once
#include "sched/in_place.h"
#include "sched/sched.h"
#include "sched/stash.h"
struct lower {
    struct arena *arena;
    struct program *p;
    struct node_split *split;       /* by node */
    struct ref *inner, *inner_grad; /* by value: copies inside the current exchange region */
    struct ref *kept;               /* by value */
    struct ref *parts;              /* by parameter: gradients apart by sender */
    bool *in_place;                 /* by node (in_place.h) */
    struct stash stash;
    bool *present;           /* by value: dropped, and computed again by now */
    struct ref *node_counts; /* by first node of a region: the counts that backward reuses */
    struct ref round_end, counts;
    int n_parts;
    int64_t most_experts;
};
extern const struct ref NOWHERE;
int lower_buffer(struct lower *l, const char *name, enum memory_class class, int64_t bytes);
int lower_persistent(struct lower *l, const char *name, enum memory_class class, int64_t bytes);
struct ref lower_at(struct ref r, int64_t element, enum dtype t); /* `element` elements further */
struct instr *lower_emit(struct lower *l, enum list_kind which, enum instr_kind kind, const char *name);
void lower_work(struct lower *l, struct instr *i); /* the workspace that its sizes ask for */
int64_t lower_value_bytes(const struct lower *l, int node, int arg); /* of argument `arg` on this rank */
struct instr *lower_emit_op(struct lower *l, enum list_kind which, int node,
                            bool backward); /* without arguments */
struct ref lower_region_arg(struct lower *l, int node,
                            int arg);                       /* inside a region, ends are those of the round */
void lower_make_persistent(struct lower *l, bool training); /* persistent.c */
void lower_backward(struct lower *l);                       /* backward.c */
void lower_update(struct lower *l, const struct adamw *o);  /* update.c */

/* A region [first, last): consecutive nodes whose rows are split by expert. */
struct region {
    int first, last;
};
bool lower_in_region(const struct region *r, int node);
bool lower_is_region(const struct lower *l, int node); /* is the node in some region? */
bool lower_is_merged(const struct lower *l, int node); /* are its forward and backward one call? */
struct region lower_region_at(const struct lower *l, int node);
void lower_region_forward(struct lower *l, enum list_kind which, const struct region *r);
void lower_region_backward(struct lower *l, const struct region *r);
/* Where argument `arg` of a node (or its gradient) lies; made on first use. inside: the copy of a region. */
struct ref lower_value(struct lower *l, int node, int arg, bool inside);
struct ref lower_grad(struct lower *l, int node, int arg, bool inside);
void lower_forward_op(struct lower *l, enum list_kind which, int node, bool inside);
void lower_again_op(struct lower *l, int node, bool inside); /* for backward: what forward did not keep */
void lower_backward_op(struct lower *l, const struct back *b, bool inside);
void lower_want_again(struct lower *l,
                      value v); /* before backward reads v: computes it again if it was dropped */
/* Rows of the token copies of this rank, with the padding that whole tiles need. */
int64_t lower_local_rows(const struct lower *l, int64_t rows);
