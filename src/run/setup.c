/* setup.c - see setup.h. */
#include "run/setup.h"
#include "base/memory.h"
#include "base/pool.h"
#include "config/config.h"
#include "run/candidate.h"
#include "run/stretch.h"
#include "run/weights.h"
#include <string.h>

/* --device cuda must be there to run; auto takes what there is. */
static bool choose_device(const struct config *c, bool open, struct setup *s, struct err *e)
{
    struct err why = { 0 };
    if (c->portable && device_cuda_portable)
        device_cuda_portable();
    s->device = &device_cpu;
    s->backend = CPU;
    if (c->device == DEVICE_CPU)
        return true;
    if (!device_cuda_open) {
        err_code(&why, EXIT_USAGE, "--device cuda: this program was built without nvcc (or cuDNN's headers)");
    } else if (c->device == DEVICE_CUDA && !open) {
        s->device = NULL;
        s->backend = CUDA;
    } else if (device_cuda_open(comm_local_rank(), &why)) {
        s->device = device_cuda();
        s->backend = CUDA;
    }
    if (why.code && c->device == DEVICE_CUDA) {
        *e = why;
        return false;
    }
    return true;
}

static bool begin(struct arena *a, const struct config *c, bool open, struct setup *s, struct err *e)
{
    *s = (struct setup){ .arena = a,
                         .compat_nnscaler = c->compat_nnscaler,
                         .graphs = c->graphs,
                         .overlap = c->overlap,
                         .overlap_blocks = (int)c->overlap_blocks,
                         .expert_load = c->expert_load,
                         .host_bytes = INT64_MAX,
                         .by_mpi = c->comm == COMM_MPI,
                         .master = c->master,
                         .moments = c->moments,
                         .gradient = c->gradient_dtype };
    if (!choose_device(c, open, s, e) || !rules_parse(c->constraint, &s->rules, e))
        return false;
    if (s->graphs == GRAPHS_ON && s->backend == CPU)
        return err_code(e, EXIT_USAGE, "--graphs on: the CPU device has no graphs, expected auto or off");
    s->model_dir = ckpt_find_model(a, c->model_id, e);
    return s->model_dir && model_config_read(s->model_dir, &s->model, e) &&
           setup_cluster(s, NULL, comm_local_ranks(), pool_threads(), e);
}

bool setup_open(struct arena *a, const struct config *c, struct setup *s, struct err *e)
{
    return begin(a, c, true, s, e);
}

bool setup_describe(struct arena *a, const struct config *c, struct setup *s, struct err *e)
{
    return begin(a, c, false, s, e);
}

static bool describe_machines(struct setup *s, const char *path, int ranks, int threads, struct err *e)
{
    enum { NODE = 8 }; /* devices of a machine that is only described */
    if (path && !cluster_builtin(path, &s->cluster))
        return cluster_read(s->arena, path, &s->cluster,
                            e); /* its links were measured the way the ranks went */
    if (!path && s->backend == CUDA)
        cluster_cuda(&s->cluster, s->device || ranks < NODE ? ranks : NODE,
                     s->device ? s->device->memory() : 0);
    else if (!path)
        cluster_cpu(&s->cluster, ranks, threads, pool_cores());
    if (s->backend == CUDA && s->by_mpi)
        cluster_by_host(&s->cluster);
    return true;
}

bool setup_cluster(struct setup *s, const char *path, int ranks, int threads, struct err *e)
{
    const bool ok = describe_machines(s, path, ranks, threads, e);
    s->cluster.expert_load = s->expert_load;
    return ok;
}

void setup_memory(const struct setup *s, struct plan_limits *l)
{
    if (l->memory_bytes > 0)
        return;
    l->memory_bytes = s->cluster.memory_bytes;
    l->way_bytes = s->way_bytes;
}

struct graph *setup_graph(const struct setup *s, struct arena *a, const struct plan *p, bool logits,
                          struct model_values *v)
{
    const struct model_options o = { .batch = plan_graph_batch(p),
                                     .sequence = p->sequence,
                                     .vocabulary_parts = p->vocabulary_parallel,
                                     .logits = logits,
                                     .compat_nnscaler = s->compat_nnscaler };
    return model_graph(a, &s->model, &o, v);
}

bool setup_faster(const struct setup *s, const struct plan_limits *l, const struct plan *than,
                  struct search_result *out)
{
    struct setup same = *s;
    struct plan_limits limits = *l;
    struct err why = { 0 };
    const struct numbers *n = &than->numbers;
    same.master = (int)n->master + 1;
    same.moments = (int)n->moments + 1;
    same.gradient = n->gradient == F32 ? GRADIENT_FP32 : GRADIENT_BF16;
    limits.below_us = than->cost.step_us;
    if (limits.stages == 0) { /* another pipeline is another plan */
        limits.stages = than->stages;
        limits.chunks = than->chunks;
    }
    return setup_plan(&same, &limits, than->sequence, out, &why);
}

bool setup_measure(const struct setup *s, struct plan *p, struct err *e)
{
    struct arena *a = arena_new("candidate");
    struct candidates *c = candidates_new(a, s);
    const bool ok = candidates_measure(c, p, e);
    candidates_free(c);
    arena_free(a);
    return ok;
}

/* Rows of logits alive at once: 256 MB at most, so that a large vocabulary does not decide the memory; on CUDA
 * 0.84 GB (4096 rows of 102400). Every further chunk of a micro-batch costs one more pass that reads and writes the
 * gradient of the head, 0.84 to 1.7 GB or 0.25 to 0.5 ms there; the memory lets backward keep more values. */
static int64_t head_chunk(const struct setup *s)
{
    const int64_t rows = (s->backend == CUDA ? 400 << 20 : 64 << 20) / s->model.vocab;
    return rows < 64 ? 64 : rows;
}

bool setup_connect(struct setup *s, const struct config *c, const char *cluster, struct err *e)
{
    if (!comm_use(s->device, (enum comm_way)c->comm, e))
        return false;
    if (s->backend == CUDA) /* a free plan takes no pipeline then, whatever the description says */
        s->by_mpi = comm_ranks() > 1 && !comm_on_device() && !comm_by_peers();
    if (s->backend == CUDA)
        s->host_bytes = (int64_t)-comm_max(-(double)memory_available() / 2 / comm_local_ranks());
    if (s->backend == CUDA && !cluster) {
        comm_barrier(); /* all contexts are there */
        const int64_t all = s->device->memory() - (comm_on_device() ? COMM_DEVICE_BYTES : 0);
        cluster_cuda(&s->cluster, comm_local_ranks(), all > 0 ? all / comm_sharers() : 1);
        s->way_bytes = comm_on_device() ? COMM_PAIR_DEVICE_BYTES : 0;
        if (s->by_mpi)
            cluster_by_host(&s->cluster);
        comm_barrier(); /* nobody has taken any */
    }
    return true;
}

/* Ways to store the states, the most exact first; the split master is an exact float32. */
static const struct numbers ways[] = {
    { CUDA, MASTER_SPLIT, MOMENTS_FLOAT, F32 }, { CUDA, MASTER_SPLIT, MOMENTS_BF16, F32 },
    { CUDA, MASTER_SPLIT, MOMENTS_BYTE, F32 },  { CUDA, MASTER_SPLIT, MOMENTS_BYTE, BF16 },
    { CUDA, MASTER_NONE, MOMENTS_BYTE, BF16 },
};
enum { WAYS = sizeof ways / sizeof *ways };

/* Way number `way`, with what the options fix. */
static struct numbers numbers_of(const struct setup *s, int way)
{
    struct numbers n = ways[way];
    if (s->backend == CPU)
        return (struct numbers){ CPU, MASTER_NONE, MOMENTS_FLOAT, F32 };
    n.master = s->master == 0 ? n.master : (enum master)(s->master - 1);
    n.moments = s->moments == 0 ? n.moments : (enum moments)(s->moments - 1);
    n.gradient = s->gradient == GRADIENT_AUTO ? n.gradient : s->gradient == GRADIENT_FP32 ? F32 : BF16;
    return n;
}

static int overlap_of(const struct setup *s)
{
    return s->overlap == OVERLAP_ON ? 1 : s->overlap == OVERLAP_ROUNDS ? PLAN_AT_ONCE : 0;
}

static void base_plan(const struct setup *s, int64_t sequence, bool reproducible, struct plan *p)
{
    *p = (struct plan){ .sequence = sequence,
                        .numbers = numbers_of(s, 0),
                        .head_chunk = head_chunk(s),
                        .reproducible = reproducible,
                        .overlap = overlap_of(s),
                        .tile = plan_tile(s->backend, reproducible) };
    memcpy(p->model, s->model.fingerprint, sizeof p->model);
    cluster_signature(&s->cluster, p->cluster);
}

/* The numbers that are the most exact of those that fit. */
static bool search_ways(const struct setup *s, const struct plan_limits *l, const struct plan_judge *judge,
                        bool exact, struct plan *base, struct search_result *out, struct err *e)
{
    for (int way = 0;; way++) {
        struct err why = { 0 };
        base->numbers = numbers_of(s, way);
        if (exact)
            base->numbers.gradient = F32;
        if (search_plan(base, l, s->model.experts, base->sequence * s->model.experts_per_token, judge, out,
                        &why))
            return true;
        if (why.code == EXIT_MEMORY && s->backend == CUDA && way + 1 < WAYS)
            continue; /* the next way needs less */
        *e = why;
        return false;
    }
}

/* Names of nodes are those of any batch. */
static bool apply_rules(const struct setup *s, int64_t sequence, struct plan_limits *l, struct err *e)
{
    struct plan p;
    struct model_values v;
    if (s->rules.n == 0)
        return true;
    struct arena *a = arena_new("rules");
    setup_small_plan(s, 1, sequence, &p);
    const bool ok = rules_apply(&s->rules, setup_graph(s, a, &p, false, &v), l, e);
    arena_free(a);
    return ok;
}

/* What the same bits cost: against the same split without. */
static bool price(struct candidates *c, struct plan *p, struct err *e)
{
    struct plan free = *p;
    if (!p->reproducible)
        return true;
    free.reproducible = false;
    free.shards = 0;
    free.tile = plan_tile(p->numbers.backend, false);
    if (!candidates_measure(c, &free, e))
        return false;
    p->price = (struct plan_price){ p->memory.peak_bytes - free.memory.peak_bytes,
                                    p->cost.step_us - free.cost.step_us };
    return true;
}

bool setup_any_stages(const struct setup *s)
{
    return s->backend == CUDA && !s->by_mpi;
}

bool setup_plan(const struct setup *s, const struct plan_limits *l, int64_t sequence,
                struct search_result *out, struct err *e)
{
    struct plan base;
    struct plan_limits limits = *l;
    if (sequence > s->model.max_positions)
        return err_code(e, EXIT_MISMATCH,
                        "sequences of %lld tokens, but max_position_embeddings of the model is %lld",
                        (long long)sequence, (long long)s->model.max_positions);
    base_plan(s, sequence, l->reproducible, &base);
    base.shards = l->shards;
    limits.any_stages = setup_any_stages(s);
    limits.shared_cores = s->cluster.ranks_per_core > 1;
    const bool exact =
        (l->n_ranks > 1 || l->shards) && plan_whole_segments(&base); /* sums of gradients in float32 alone */
    if (exact && s->gradient == GRADIENT_BF16)
        return err_code(
            e, EXIT_USAGE,
            "--gradient_dtype bf16: with --reproducible several ranks add their gradients in fp32");
    struct arena *a = arena_new("candidates");
    struct candidates *c = candidates_new(a, s);
    const struct plan_judge judge = candidates_judge(c);
    const bool ok = apply_rules(s, sequence, &limits, e) &&
                    search_ways(s, &limits, &judge, exact, &base, out, e) && price(c, &out->best[0], e);
    candidates_free(c);
    arena_free(a);
    return ok;
}

void setup_small_plan(const struct setup *s, int64_t batch, int64_t sequence, struct plan *p)
{
    base_plan(s, sequence, false, p);
    p->n_ranks = p->unit_ranks = p->expert_parallel = p->tensor_parallel = p->vocabulary_parallel =
        p->width_parallel = p->zero_ranks = p->stages = p->chunks = 1;
    p->micro_batch = p->global_batch = batch;
    p->accumulation = 1;
}

void engine_build(const struct setup *s, const struct plan *p, bool training, bool logits,
                  const struct adamw *o, struct engine *x)
{
    *x = (struct engine){ 0 };
    x->graph = setup_graph(s, s->arena, p, logits, &x->values);
    sched_lower(s->arena, x->graph, p, p->n_ranks == 1 ? 0 : comm_rank(), training, o, &x->program);
    exec_new(s->arena, &x->program, s->device, s->overlap_blocks, &x->exec);
    if (s->graphs != GRAPHS_OFF)
        stretch_new(s->arena, &x->exec, s->graphs == GRAPHS_ON);
}

static void stored_dtypes(const struct setup *s, const struct engine *x, const struct ckpt *c,
                          enum dtype *stored)
{
    for (int i = 0; stored && i < x->graph->params.n; i++)
        stored[i] = c ? ckpt_stored(c, &x->graph->params.item[i]) : s->model.stored;
}

static bool load_from(const struct setup *s, struct engine *x, int init, int64_t seed, const struct ckpt *c,
                      enum dtype *stored, const char **how, struct err *e)
{
    if (init == INIT_PRETRAINED && ckpt_n_tensors(c) == 0)
        return err_set(e, "%s: --init pretrained, but the directory holds no safetensors", s->model_dir);
    if (init == INIT_RANDOM || ckpt_n_tensors(c) == 0) {
        *how = "weights: random initialisation";
        stored_dtypes(s, x, NULL, stored);
        weights_init(&x->exec, seed);
        return true;
    }
    *how = "weights: from the model directory";
    if (!ckpt_match(c, &x->graph->params, e))
        return false;
    stored_dtypes(s, x, c, stored);
    return weights_load(&x->exec, c, e);
}

bool engine_load(const struct setup *s, struct engine *x, int init, int64_t seed, enum dtype *stored,
                 const char **how, struct err *e)
{
    struct arena *a = arena_new("source");
    struct ckpt *c = ckpt_open(a, s->model_dir, e);
    const bool ok = c && load_from(s, x, init, seed, c, stored, how, e);
    if (c)
        ckpt_close(c);
    arena_free(a);
    return ok;
}
