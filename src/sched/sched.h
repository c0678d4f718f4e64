/* sched.h - when it runs: instruction lists of one rank, lowered from graph and plan, and the offset of every
 * buffer in one slab. Lists: `micro` = forward and backward of a micro-batch, `update` = reduction, norm,
 * optimizer, gathering; `eval` = forward only; `tree` = what adds the shards of a worker (plan/tree.h). Derived data, never stored; sched_print shows it.
 *
 * Stages of a pipeline run `micro` and `eval` in sections: forward of each of their parts, then, for `micro`, backward of
 * each from the last one on. Each section begins by receiving and ends by sending. What lives from a forward section into the
 * backward one of its part has as many slots as micro-batches are under way there (sched/pipeline.h). */
#pragma once
#include "plan/layout.h"
#include "plan/plan.h"
struct ref { /* a place in memory: buffer and offset; buffer -1 = none */
    int buffer;
    int64_t at_bytes;
};
struct buffer {
    const char *name;
    int64_t bytes, at;  /* at: offset in the slab */
    int64_t slots;      /* 0: one, as long as it is used; else so many, throughout `micro` */
    int64_t slot_bytes; /* between the beginnings of two slots */
    enum memory_class class;
    int first, last; /* positions in the common timeline of all lists; first -1 = never used */
    int again_at; /* a value's: with so much recomputation it is made again, elsewhere, for backward; 0: it never is */
    int lodges; /* 1 + the buffer in whose room it lies (a lodger: offload.h); 0: it has room of its own */
    int64_t lodges_at; /* where there */
};
enum instr_kind {
    RUN_OP,    /* fwd or bwd kernel of an operator */
    RUN_ZERO,  /* n bytes of ref[0] */
    RUN_ROUTE, /* ends ref[0] of all ranks of the expert group -> counts ref[1] (route_counts()). copies: copy ref[2] in each row and its inverse ref[3] -> twins ref[4] (device.h), and how many rows are first for each member */
    RUN_ROUND, /* head of a loop over rounds with counts ref[0]; ends at the matching RUN_ROUND_END; writes the ends of the rounds that are under way together to ref[1] */
    RUN_ROUND_END,
    RUN_SEND, /* rows ref[0] (sorted by expert) -> rows ref[1] at the owners of the experts; ref[2] ends; ref[3] counts; ref[4] staging. copies: rows travel once, with the twins ref[5] of received rows and ref[6] of rows sent. twins: those of ref[0] -> ref[1], where rows travel once at all */
    RUN_RETURN, /* rows ref[1] -> back to ref[0]; as RUN_SEND */
    RUN_PACK, /* with plan.overlap, of the RUN_SEND or RUN_RETURN with the same refs, which has no kernels then: ref[0], rows that travel once (copies) -> ref[1], first ones by receiver; else ref[1] -> ref[4], by sender */
    RUN_UNPACK, /* likewise: of a RUN_SEND, rows by sender ref[4] -> ref[1] */
    RUN_TENSOR_GATHER, /* rows ref[0] of all members of the tensor group -> ref[1], in their order; n bytes of one member */
    RUN_TENSOR_SCATTER, /* partial sums ref[0] of rows of all members -> this member's rows ref[1], added in a tree; n elements of one member; add: to what is there; ref[2] staging */
    RUN_PARTS,  /* tree sum of the n_parts parts ref[0] into ref[1], n elements; add: to what is there */
    RUN_REDUCE, /* gradients ref[0] of flat `flat`, elements [first, first + n_elements): tree sum over the replica group into each member's fine range of ref[2] (add: to what is there); ref[1] staging. spread: every member sums its part of the range, whoever owns it, and sends the owners what is theirs */
    RUN_MIRROR, /* gradients ref[0]: members with the same shard exchange their fine ranges */
    RUN_SUM_ENDS, /* gradients ref[0] of SHARED, this rank's fine range: + those of the rank at the other end of the pipeline; ref[1] staging, n elements for each of the two */
    RUN_PASS_OUT, /* n bytes of ref[0] to rank `peer`, from one of the PASS_COPIES in ref[1] on a device; goes on at once */
    RUN_PASS_IN, /* n bytes from rank `peer` to ref[0], through ref[1] on a device */
    RUN_NORM_SUM, /* all-reduce of n doubles ref[0] of which one rank holds each, then the clip factor into ref[1] */
    RUN_TO_HOST, /* n bytes of moments ref[0] to host memory, beside what follows; number `box` of the copies */
    RUN_FROM_HOST,  /* back again */
    RUN_AWAIT_HOST, /* what follows waits for copy `box`, or, with `backward`, for all that came back */
    RUN_GATHER, /* weights ref[0] of flat `flat`, elements [first, first + n_elements): owners send their coarse ranges to ref[1] of the members of their shard group */
};
/* What the device reads of a round of the exchange, one after the other at RUN_ROUND's ref[1], each with a number for every
 * segment of rows. Of the receiver's segments (expert, sender) in its rows: where each ends (the argument "end" of the
 * experts' operators), where it begins when rows stand packed by sender; for kernels that read the members' rows where
 * these lie (device.h: pull): where it begins, and its first row at the sender. Of the sender's own rows by expert, on
 * their way back: first and last, and the first row at the expert's rank. Where rows travel once: of the receiver's
 * segments, where the first rows of its sender stand packed; of the sender's rows by expert, where those for its member do. */
enum round_table {
    ROUND_END,
    ROUND_PACKED,
    ROUND_BEGIN,
    ROUND_FIRST,
    BACK_BEGIN,
    BACK_END,
    BACK_FIRST,
    ROUND_ONCE,
    BACK_ONCE,
    ROUND_TABLES
};
/* Numbers of one member at RUN_ROUTE's ref[1]: ends of its rows for each expert, and for each member its first twins. */
static inline int64_t route_counts(int64_t experts, int members)
{
    return experts + members;
}

extern const char *const sched_kind_name[]; /* by instr_kind */
enum { INSTR_REFS = 7 };
struct instr {
    const char *name;
    const struct op *op;
    enum instr_kind kind;
    bool backward, again; /* again: the kernel of that name, or saved_again, instead of fwd */
    bool both;            /* with backward: that kernel instead of bwd, and nothing ran forward */
    bool once;            /* inside a loop: the first time alone */
    /* Makes what forward left with plan.keep_rows: not run where the loop has one turn, as forward had. Of RUN_ROUND: there are
     * such instructions in the loop. */
    bool anew;
    bool last;   /* in the last micro-batch of a step alone */
    bool start;  /* in the first micro-batch of a sum alone (exec.first) */
    bool beside; /* runs in the lane of communication (lanes.h); else in that of compute */
    bool spread; /* of RUN_REDUCE */
    bool twins;  /* of RUN_SEND */
    int round;   /* of a loop: which of those that are under way together (plan_at_once) */
    int after; /* 1 + index of the instruction of the other lane that has to end before this one begins; 0: none */
    int mark; /* 1 + number of the place behind it that others wait for; 0: none does */
    int node, flat, n_parts;
    int peer, tag,
        box; /* of a pass; tag: the same at both ends, odd for gradients; box: number of what goes out, or of what comes in */
    int64_t first, n_elements; /* of a flat space; its refs are where element 0 would lie */
    int64_t n, row_bytes;      /* elements or bytes as the kind says; bytes of an exchanged row */
    struct ref arg[OP_ARGS], grad[OP_ARGS], work, ref[INSTR_REFS];
    uint32_t add,
        wide; /* of a call; add also of RUN_PARTS, RUN_REDUCE and RUN_TENSOR_SCATTER, whose elements are float32 if wide */
    uint32_t first_writes; /* bits of add that the first micro-batch of a sum lacks (instr_add) */
    int copies; /* of a token among the rows, which travel once to each rank; of RUN_ROUTE, RUN_ROUND, RUN_SEND and its like; 0: as they are */
    int64_t dim[OP_DIMS];
    double attr[OP_ATTRS];
};
/* The add bits of an instruction. first: in the first micro-batch of a step or shard, and in the first round of a loop: there is
 * no sum yet to add to, and what lies there is of another step. */
static inline uint32_t instr_add(const struct instr *in, bool first)
{
    return first ? in->add & ~in->first_writes : in->add;
}

/* Messages of a kind that have left and are not yet taken, at most: tests/pipeline_test.c shows that nobody waits for ever. */
enum { PASS_COPIES = 2 };
/* In ref[1] of a RUN_PASS_OUT: bytes from one copy to the next. */
static inline int64_t pass_copy_bytes(const struct instr *in)
{
    return (in->n + 255) / 256 * 256;
}
/* The kernel that a RUN_OP calls. */
static inline kernel *instr_kernel(const struct instr *in, enum backend b)
{
    const struct op *op = in->op;
    if (in->both)
        return op->both[b];
    if (in->backward)
        return op->bwd[b];
    if (!in->again)
        return op->fwd[b];
    return op->saved_again[b] ? op->saved_again[b] : op->again[b];
}
/* The ranks that an instruction needs together: it begins when all of them have come to it. */
enum group_kind {
    GROUP_SELF,    /* this rank alone */
    GROUP_REPLICA, /* hold the same elements of a flat space */
    GROUP_MIRROR,  /* of those: own the same shard of it */
    GROUP_SHARD,   /* of those: own one copy's shards together */
    GROUP_EXPERT,
    GROUP_TENSOR,
    GROUP_ENDS, /* this worker of the first and of the last stage */
    GROUP_ALL,
    GROUP_KINDS
};
enum group_kind sched_group(enum instr_kind kind);
struct
    members { /* ranks first, first + stride, ...; no two groups of a kind and flat space have the same first */
    int first, stride, n;
};
/* Those of a rank's group; flat: of replicas, mirrors and shards. */
struct members sched_members(const struct plan *p, int rank, enum group_kind kind, int flat);
enum list_kind { LIST_MICRO, LIST_UPDATE, LIST_EVAL, LIST_TREE, LISTS };
/* The part of a step that an instruction belongs to (predict.h). */
enum cost_class { COST_COMPUTE, COST_EXCHANGE, COST_REDUCE, COST_OPTIMIZER, COST_CLASSES };
struct list {
    int n, capacity;
    struct instr *item;
};
struct section { /* instructions [from, to) of a list */
    int from, to;
};
/* The optimizer states of a parameter that this rank owns: elements [begin, end) of its flat space; empty = none. */
struct state {
    int64_t begin, end;
    struct ref exp_avg, exp_avg_sq, low; /* low: what the master has beside the weight */
};
struct program {
    const struct graph *graph;
    struct plan plan;
    struct layout layout;
    int n_buffers, buffers_capacity;
    struct buffer *buffers;
    struct list list[LISTS];
    struct section forward[PLAN_CHUNKS], backward[PLAN_CHUNKS],
        eval[PLAN_CHUNKS]; /* by chunk of this stage */
    /* LIST_TREE, by chunk and level: adds what level k keeps to the gradients; keeps the gradients in level k instead. */
    struct section tree_add[PLAN_CHUNKS][PLAN_TREE_LEVELS], tree_keep[PLAN_CHUNKS][PLAN_TREE_LEVELS];
    int n_outboxes, n_inboxes;      /* kinds of messages; those of all lists with the same tag are one */
    int n_marks;                    /* lanes.h; 0: all is one lane */
    int n_moments;                  /* of the common timeline, with one in front of all instructions */
    int64_t in_flight[PLAN_CHUNKS]; /* micro-batches under way, at most */
    struct plan_memory memory;
    struct ref *value, *grad; /* by graph value: where it lies (persistent ones and those the host reads) */
    struct ref weights[FLATS], gradients[FLATS]; /* flat spaces */
    struct offload {
        int buffer;    /* of moments; where no value lodges, bytes is 0 */
        int64_t bytes; /* of it, from its beginning: they lie in host memory while micro-batches run */
        int n_lodgers, n_copies;
        int64_t each_bytes; /* of a value that may lodge; 0: there is none */
        int n_most;         /* that may, and have room */
    } offload;
    struct ref apart;    /* layout.apart: gradients of SHARED by the nodes that read it first */
    struct state *state; /* by parameter */
    struct ref control, chunk_sums, nll_weight, aux_weight; /* control: of op_adamw */
    struct ref inputs, kept; /* whole buffers: inputs and loss weights; values that the host reads */
    int recompute_most;      /* stash.h */
    int64_t
        kept_bytes; /* what lives throughout, and what plan.keep_rows keeps or would keep: the slab is not smaller then */
    int *recompute_place; /* by node: stash.h */
};
struct adamw {
    double beta1, beta2, eps, weight_decay;
};
/* Lowers for one rank. training = false: only LIST_EVAL, no gradients or moments. Roots are found in g. */
void sched_lower(struct arena *a, const struct graph *g, const struct plan *plan, int rank, bool training,
                 const struct adamw *o, struct program *p);
/* The same for the rank of a layout, and without offsets: lifetimes are known, .memory is not. */
void sched_lower_lists(struct arena *a, const struct graph *g, const struct plan *plan,
                       const struct layout *layout, bool training, const struct adamw *o, struct program *p);
/* Does this section of a list make v? */
bool sched_makes(const struct program *p, enum list_kind which, struct section s, value v);
/* Sections of LIST_TREE to run behind the backward of micro-batch `micro` of a chunk; returns how many: 0 where no shard ends. */
int sched_end_shard(const struct program *p, int chunk, int64_t micro, struct section out[PLAN_TREE_LEVELS]);
/* Bytes of what lives throughout: the slab has at least these. */
int64_t sched_least_bytes(struct arena *a, const struct graph *g, const struct plan *plan,
                          const struct layout *layout);
void sched_print(const struct program *p, struct str *out);
/* Buffers that an instruction names, some of them more than once; returns how many. */
enum { INSTR_BUFFERS = 2 * OP_ARGS + INSTR_REFS + 1 };
int sched_buffers(const struct instr *i, int out[INSTR_BUFFERS]);
void sched_lifetimes(struct program *p, struct arena *a); /* of all buffers */
/* Assigns offsets to all buffers from their lifetimes; fills .memory. */
void sched_assign(struct program *p, struct arena *a);
/* What a buffer takes of the slab: all its slots. */
int64_t sched_room(const struct buffer *b);
/* The most that is alive at once: what the slab has at least. */
int64_t sched_alive_bytes(struct arena *a, const struct program *p);
