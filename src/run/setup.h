/* setup.h - from a model directory to something that runs: configuration, graph, plan, program, weights. */
#pragma once
#include "ckpt/ckpt.h"
#include "config/config.h"
#include "model/model.h"
#include "plan/rules.h"
#include "plan/search.h"
#include "run/exec.h"
struct setup {
    struct arena *arena;
    const char *model_dir;
    struct model_config model;
    bool compat_nnscaler;
    struct cluster cluster;
    const struct device *device; /* NULL: only described, not opened */
    enum backend backend;
    int graphs, overlap; /* GRAPHS_*, OVERLAP_* of config.h */
    int overlap_blocks;  /* device.h: lanes */
    double expert_load;  /* cluster.h */
    bool by_mpi;         /* what lies on a device goes through the host */
    int64_t host_bytes;  /* that moments of a rank may take of the host's memory (sched/offload.h) */
    int64_t way_bytes;   /* of plan_limits, where the memory is that of this device */
    struct rules rules;  /* of --constraint */
    int master, moments, gradient; /* as the options say: those of config.h */
};
/* A model, lowered and with memory, on this rank. */
struct engine {
    struct graph *graph;
    struct model_values values;
    struct program program;
    struct exec exec;
};
/* The model that the options name, and the device. `describe` opens no device: for plans of other machines. */
bool setup_open(struct arena *a, const struct config *c, struct setup *s, struct err *e);
bool setup_describe(struct arena *a, const struct config *c, struct setup *s, struct err *e);
/* How the ranks exchange what lies on the device, and what memory each has; by all ranks together, with the same answer
 * for all. cluster: the description that gives the memory, or NULL. */
bool setup_connect(struct setup *s, const struct config *c, const char *cluster, struct err *e);
/* The machines of `ranks` ranks: a description (NULL = this machine shared by all of them). */
bool setup_cluster(struct setup *s, const char *path, int ranks, int threads, struct err *e);
/* The memory that there is, for limits that name none. */
void setup_memory(const struct setup *s, struct plan_limits *l);
/* The graph of a plan; logits: head gives logits. */
struct graph *setup_graph(const struct setup *s, struct arena *a, const struct plan *p, bool logits,
                          struct model_values *v);
/* Does the search take a pipeline wherever it is faster? Where messages stay on the devices. */
bool setup_any_stages(const struct setup *s);
/* The plan for given limits (search.h); `fixed`: a plan to check and measure instead of searching. */
bool setup_plan(const struct setup *s, const struct plan_limits *l, int64_t sequence,
                struct search_result *out, struct err *e);
/* The best plans for these limits that are faster than one: that stores states as that does. false: there is none. */
bool setup_faster(const struct setup *s, const struct plan_limits *l, const struct plan *than,
                  struct search_result *out);
/* The program of the rank that owns most, of the slowest stage, without offsets: to predict with other rates. */
void setup_lower(const struct setup *s, struct arena *a, const struct plan *p, struct program *out);
bool setup_measure(const struct setup *s, struct plan *p, struct err *e); /* fills memory and cost */
/* One rank, forward only, for [batch, sequence] tokens; logits: head gives logits. */
void setup_small_plan(const struct setup *s, int64_t batch, int64_t sequence, struct plan *p);
/* A plan of one rank is built by every rank for itself. */
void engine_build(const struct setup *s, const struct plan *p, bool training, bool logits,
                  const struct adamw *o, struct engine *x);
/* Weights from the model directory or random ones; init: INIT_* of config.h. stored[] (by parameter, may be NULL)
 * is the dtype that files of this model have; *how tells what was done. */
bool engine_load(const struct setup *s, struct engine *x, int init, int64_t seed, enum dtype *stored,
                 const char **how, struct err *e);
