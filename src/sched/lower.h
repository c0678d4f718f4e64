/* lower.h - inside sched/: the state of one lowering. */
#pragma once
#include "sched/in_place.h"
#include "sched/sched.h"
#include "sched/stash.h"
struct pass_box { /* of messages of a kind, in all lists */
    bool made;
    int number;
    struct ref room; /* for copies, on a device */
};
struct sizes {
    bool known;
    int64_t dim[OP_DIMS];
    double attr[OP_ATTRS];
};
struct lower {
    struct arena *arena;
    struct program *p;
    struct node_split *split; /* by node */
    struct ref *inner[2],
        *inner_grad[2];  /* by round under way and value: copies inside the current exchange region */
    struct ref *left[2]; /* likewise: those of any region that forward leaves to backward (plan.keep_rows) */
    struct ref *kept;    /* by value */
    struct ref *parts;   /* by parameter: gradients apart by sender */
    bool *in_place;      /* by node (in_place.h) */
    int *back_of;        /* by node: its backward step; -1: none */
    struct sizes *sizes; /* by node: of a call, once they were asked for */
    struct stash stash;
    bool *present; /* by value: dropped, and computed again by now */
    struct ref *node_counts, *node_twins,
        *node_twins_inside; /* by first node of a region: what backward reuses */
    struct ref round_end[2], counts;
    struct ref twins,
        twins_inside; /* of the rows that a region sends, of those that it receives; NOWHERE: all rows travel */
    int round;        /* of an exchange region that is being made */
    enum list_kind which;             /* that is being made */
    struct ref *gathered, *collected; /* by bucket: weights and gradients for the moment (shard.c) */
    int *last_back;                   /* by bucket: last backward step that adds to its gradients */
    bool *zeros;                      /* by bucket: its gradients begin with zeros */
    bool early;                       /* gradients are summed in the last backward, if at all it can be */
    bool *summed;                     /* by bucket: in this micro-batch, at least in part */
    bool *ahead;                      /* by bucket: gathered, and no node has come to it yet */
    int n_parts;
    int64_t most_experts;
    int *lodger;             /* by node: the output that lodges (offload.h), -1: none does */
    int64_t *lodges_at;      /* where, in the room of moments */
    struct pass_box *box[2]; /* by tag: of what goes out, of what comes in */
};
extern const struct ref NOWHERE;
int lower_buffer(struct lower *l, const char *name, enum memory_class class, int64_t bytes);
int lower_persistent(struct lower *l, const char *name, enum memory_class class, int64_t bytes);
struct ref lower_at(struct ref r, int64_t element, enum dtype t); /* `element` elements further */
struct instr *lower_emit(struct lower *l, enum list_kind which, enum instr_kind kind, const char *name);
void lower_work(struct lower *l, struct instr *i);              /* the workspace that its sizes ask for */
double lower_backward_seconds(const struct lower *l, int node); /* on this rank, by a rough machine */
int64_t lower_value_bytes(const struct lower *l, int node, int arg); /* of argument `arg` on this rank */
struct instr *lower_emit_op(struct lower *l, enum list_kind which, int node,
                            bool backward); /* without arguments */
struct ref lower_region_arg(struct lower *l, int node,
                            int arg); /* inside a region, ends are those of the round */
/* tensor.c: nodes that the tensor group shares. */
bool lower_is_tensor(const struct lower *l, int node);
int64_t lower_token_share(const struct lower *l, int node); /* ranks that share the tokens of a call */
/* An argument that is no part of what is split: values come in from all members (entering), partial sums leave. */
bool lower_crosses(const struct lower *l, int node, int arg);
struct ref lower_enter(struct lower *l, enum list_kind which, int node, int arg, struct ref outer);
struct ref lower_inside(struct lower *l, int node, int arg); /* a transient place of the size inside */
void lower_leave(struct lower *l, enum list_kind which, int node, int arg, struct ref inner, struct ref outer,
                 bool add);
/* shard.c: weights and gradients of which a rank keeps a range. */
void lower_shards_begin(struct lower *l);
void lower_forget_weights(struct lower *l);                         /* what was gathered is let go */
struct ref lower_weight(struct lower *l, int param);                /* gathers its bucket if need be */
struct ref lower_gradient(struct lower *l, int node, int param);    /* its place, by this node */
bool lower_is_new(const struct lower *l, int param);                /* is it not to be added to at first? */
void lower_touch_params(struct lower *l, int node, bool gradients); /* so that nothing is gathered later */
/* With plan.overlap: gathers what `node` reads, or backward of it, for which it must be there. Then lower_fetch_next() for
 * those behind it in turn, until one bucket more is on its way, which returns false: it travels beside the work of `node`. */
void lower_fetch(struct lower *l, int node, bool backward);
bool lower_fetch_next(struct lower *l, int node, bool backward);
/* Sums buckets to which nothing is added after this backward step. quiet: nothing waits for other communication soon. */
void lower_reduce_done(struct lower *l, int back, bool quiet);
/* Are the gradients of a flat space, which each rank has whole, summed bucket by bucket in the last micro-batch? */
bool lower_reduces_early(const struct lower *l, int flat);
/* Returns the instruction, valid until the next one is emitted. */
struct instr *lower_reduce(struct lower *l, enum list_kind which, const struct bucket *b, struct ref from,
                           struct ref to);
void lower_make_persistent(struct lower *l, bool training); /* persistent.c */
bool lower_keeps_parts(const struct lower *l, int flat);    /* are gradients kept apart by sender? shard.c */
void lower_tree(struct lower *l);                           /* its list and what it keeps; tree.c */
void lower_backward(struct lower *l, int first, int last);  /* of nodes [first, last); backward.c */
void lower_update(struct lower *l, const struct adamw *o);  /* update.c */
void lower_forward(struct lower *l, enum list_kind which, int first, int last);
/* sections.c: a list from the parts of a stage. */
void lower_micro(struct lower *l);
void lower_eval(struct lower *l);
int64_t lower_passed_bytes(const struct lower *l, value v); /* of a value on this rank */

/* A region [first, last): consecutive nodes whose rows are split by expert. */
struct region {
    int first, last;
};
bool lower_in_region(const struct region *r, int node);
bool lower_is_region(const struct lower *l, int node); /* is the node in some region? */
bool lower_is_merged(const struct lower *l, int node); /* are its forward and backward one call? */
struct region lower_region_at(const struct lower *l, int node);
/* beside.c: what a rank computes while rows of a region travel, with plan.overlap. Nodes [r.last, result) of those below
 * `last` need nothing of the region. */
int lower_beside_forward(const struct lower *l, enum list_kind which, const struct region *r, int last);
/* Of backward steps from `first` on of nodes [node_first, node_last): those before the result are all that stands between
 * it and a region, and the region needs nothing of them; `first`: there are none. */
int lower_beside_backward(const struct lower *l, int first, int node_first, int node_last);
/* beside: nodes, or backward steps, that run in the first round alone, half of them under the way out of the rows, the
 * others under their way back. */
void lower_region_forward(struct lower *l, enum list_kind which, const struct region *r,
                          struct section beside);
void lower_region_backward(struct lower *l, const struct region *r, struct section beside);
/* Where argument `arg` of a node (or its gradient) lies; made on first use. inside: the copy of a region. */
struct ref lower_value(struct lower *l, int node, int arg, bool inside);
struct ref lower_grad(struct lower *l, int node, int arg, bool inside);
void lower_forward_op(struct lower *l, enum list_kind which, int node, bool inside);
/* With the arguments of the bits of `used`; returns the instruction, valid until the next one is emitted. */
struct instr *lower_run_forward(struct lower *l, enum list_kind which, int node, bool inside, uint32_t used);
void lower_again_op(struct lower *l, int node, bool inside); /* for backward: what forward did not keep */
void lower_backward_op(struct lower *l, const struct back *b, bool inside);
void lower_want_again(struct lower *l,
                      value v); /* before backward reads v: computes it again if it was dropped */
/* Rows of the token copies of this rank, or of its tensor group where the node has them, with the padding that whole tiles
 * need. */
int64_t lower_local_rows(const struct lower *l, int node, int64_t rows);
