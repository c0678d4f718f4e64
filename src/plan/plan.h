/* plan.h - how a training step is split over the ranks. Text: JSON, one node per line, versioned, hashed;
 * plan_check() judges every plan, whoever wrote it.
 *
 * Ranks 0 .. n_ranks-1 stand in `stages` of a pipeline, each of plan_workers() consecutive ranks; a scale unit of
 * unit_ranks ranks, the same share of every stage, holds one copy of the model. Every worker of a stage works on its
 * own sequences (data parallel inside and across units), and worker w of a stage passes them on to worker w of the
 * next. Experts are split over expert_parallel consecutive workers of a unit, matrices that tokens share
 * (plan/component.h) over tensor_parallel of them; the vocabulary and the width of experts too, where vocabulary_parallel and
 * width_parallel say so: then expert_parallel tensor groups share the experts. Optimizer states (ZeRO, arXiv 1910.02054: level
 * 1; 2: gradients too; 3: weights too) are split over zero_ranks workers: 1 = not, plan_unit_workers() = inside each
 * unit, plan_workers() = across all.
 *
 * The model is cut into plan_parts() runs of nodes; part i belongs to stage i % stages, which has `chunks` of them. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "graph/graph.h"
#include "plan/cluster.h"
enum { PLAN_VERSION = 12, PLAN_CHUNKS = 16, PLAN_PARTS = 256, PLAN_AT_ONCE = 2 };
enum { PLAN_TREE_LEVELS = 12, PLAN_SHARDS = 1 << PLAN_TREE_LEVELS };
enum memory_class {
    MEM_WEIGHTS,
    MEM_GRADIENTS,
    MEM_OPTIMIZER,
    MEM_ACTIVATIONS,
    MEM_WORK,
    MEM_EXCHANGE,
    MEM_BATCH,
    MEM_CLASSES
};
struct plan_memory {                  /* bytes of one rank; the largest rank's in a plan */
    int64_t class_bytes[MEM_CLASSES]; /* at the moment of the peak */
    int64_t peak_bytes;               /* the slab */
};
struct plan_cost { /* of one step, predicted; exchange and reduce: what compute waits for them */
    double compute_us, exchange_us, reduce_us, optimizer_us, bubble_us, step_us;
    double beside_us; /* of communication, under compute: no part of the step */
    double kept_us;   /* what keep_rows would save, at most */
};
struct plan_price { /* of reproducible and shards, against the same split without; per rank, predicted */
    int64_t bytes;
    double step_us;
};
struct
    plan_limits { /* what the user fixed; 0 = free (micro_batch, expert_parallel, tensor_parallel: 0 = choose) */
    int n_ranks, unit_ranks, expert_parallel, tensor_parallel, stages, chunks;
    int zero;                          /* -1 = choose, or the level 0 to 3 */
    int64_t global_batch, micro_batch; /* sequences: of a step over all ranks; of a scale unit at a time */
    int64_t row_capacity, memory_bytes;
    int64_t way_bytes; /* of memory_bytes: what each of plan_ways() takes outside the slab */
    int recompute;     /* -1 = as little as fits */
    int lodgers; /* plan.lodgers, where they may be; -1 = where it does not fit without, as many as cost no time */
    enum split_choice { SPLIT_AUTO, SPLIT_ON, SPLIT_OFF } vocabulary, widths;
    enum keep_choice {
        KEEP_AUTO,
        KEEP_ON,
        KEEP_OFF
    } keep_rows; /* plan.keep_rows; auto = where that fits without recomputation */
    bool reproducible;
    bool any_stages;   /* stages 0: any number, if it is faster; else the least that fits */
    int shards;        /* plan.shards */
    int max_degree;    /* of expert and tensor parallelism; 0 = any */
    double below_us;   /* only plans that are faster; 0 = all */
    bool shared_cores; /* a stage that waits leaves its core to others: cluster.ranks_per_core is above 1 */
};
/* How the states of training are stored. On the CPU: float32 all, master NONE (the weights are their own). On
 * CUDA weights and activations are bfloat16; the values are those of the attributes of adamw. */
struct numbers {
    enum backend backend;
    enum master master;
    enum moments moments;
    enum dtype gradient; /* F32 or BF16: in which gradients of weights are summed */
};
extern const char *const plan_backend_name[BACKENDS], *const plan_master_name[MASTERS],
                                                          *const plan_moments_name[MOMENT_FORMS];
struct plan {
    struct numbers numbers;
    int n_ranks, unit_ranks, expert_parallel, tensor_parallel, zero_ranks;
    int vocabulary_parallel; /* parts of the vocabulary: tensor_parallel, or 1 = whole */
    int width_parallel;      /* parts of the width of experts: tensor_parallel, or 1 = whole */
    int stages, chunks;
    int cut
        [PLAN_PARTS +
         1];  /* the first node of every part, then the number of nodes; all 0 with one part, or: to choose */
    int zero; /* level, 0 where zero_ranks is 1 */
    int64_t global_batch, micro_batch,
        accumulation; /* sequences per step; per rank and micro-batch; micro-batches */
    int64_t sequence;
    int64_t row_capacity; /* rows that a rank receives in one round (expert_parallel > 1) */
    int64_t tile;  /* segments of rows begin at its multiples: 1; 8 in reproducible mode; 128 on CUDA */
    int recompute; /* nodes that backward repeats (sched/stash.h) */
    /* Found by measuring, not decisions: how few, how many may be; where it does not fit, with how many it may at least. */
    int recompute_least, recompute_most, recompute_next;
    int lodgers; /* values that lie in the room of moments, which are in host memory meanwhile, at most (sched/offload.h) */
    int lodgers_most;   /* found by measuring: so many cost no time */
    int64_t host_bytes; /* likewise: of moments in host memory, of the rank that has most */
    int64_t kept_bytes; /* likewise: of the slab at least, with keep_rows */
    int64_t head_chunk; /* rows of logits alive at a time */
    bool reproducible;
    int overlap; /* rounds of an exchange that are under way in a lane of communication (sched/lanes.h); 0: there is none */
    bool keep_rows; /* what experts of a rank got from others stays until backward (sched/exchange.c) */
    int shards; /* of a step, whose gradients are added in one tree whatever the number of workers (plan/tree.h); 0 = off */
    struct plan_price price;
    char model[17], cluster[17]; /* signatures */
    struct plan_memory memory;
    struct plan_cost cost;
};
extern const char *const plan_class_name[MEM_CLASSES];
enum dtype plan_float(const struct plan *p);    /* of weights and activations */
bool plan_whole_segments(const struct plan *p); /* no round may cut the rows of an expert from one sender */
int64_t plan_tile(enum backend backend, bool reproducible); /* the only value of .tile that is right */
int64_t plan_moment_bytes(const struct plan *p, int64_t n); /* of one moment of n elements */
int64_t plan_master_bytes(const struct plan *p, int64_t n); /* beside the weights */
int plan_at_once(const struct plan *p); /* rounds of the token exchange that are under way together */
/* Does a token's row travel once to each rank that has experts of it, where one round is enough? */
bool plan_sends_once(const struct plan *p);
/* Rows that a token with so many copies sends to other ranks then, if each copy goes to any rank as likely. */
double plan_rows_once(const struct plan *p, int64_t copies);
int plan_width(const struct plan *p);        /* last dimensions are multiples of it */
int plan_workers(const struct plan *p);      /* ranks of a stage: they share a micro-batch */
int plan_unit_workers(const struct plan *p); /* those of one unit */
int plan_parts(const struct plan *p);
int plan_ways(const struct plan *p); /* of messages between stages, out and in, that a rank has at most */
/* Bytes that the slab of a rank may have. */
int64_t plan_slab_limit(const struct plan_limits *l, const struct plan *p);
int plan_stage(const struct plan *p, int rank);
int plan_worker(const struct plan *p, int rank);
/* Nodes [*first, *last) of a part of a graph of n_nodes. */
void plan_part_nodes(const struct plan *p, int n_nodes, int part, int *first, int *last);
int plan_part_of(const struct plan *p, int node); /* the part that has it: of stage part % p->stages */
/* Sequences of a micro-batch over all workers: the batch of the graph. */
int64_t plan_graph_batch(const struct plan *p);
bool plan_check(const struct plan *p, const struct graph *g, struct err *e);
/* JSON text; *hash (16 hex digits) covers everything but the predictions. */
struct str;
void plan_write(const struct plan *p, const struct graph *g, struct str *out, char hash[17]);
bool plan_parse(const char *text, size_t bytes, const char *path, struct plan *p, struct err *e);
void plan_hash(const struct plan *p, char hash[17]);
