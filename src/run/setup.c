/* setup.c - see setup.h. */
#include "run/setup.h"
#include "base/pool.h"
#include "config/config.h"
#include "run/weights.h"
#include "sched/predict.h"
#include <string.h>

bool setup_open(struct arena *a, const char *model_id, bool compat_nnscaler, struct setup *s, struct err *e)
{
    *s = (struct setup){ .arena = a, .compat_nnscaler = compat_nnscaler };
    s->model_dir = ckpt_find_model(a, model_id, e);
    return s->model_dir && model_config_read(s->model_dir, &s->model, e) &&
           setup_cluster(s, NULL, comm_local_ranks(), pool_threads(), e);
}

bool setup_cluster(struct setup *s, const char *path, int ranks, int threads, struct err *e)
{
    if (path)
        return cluster_read(path, &s->cluster, e);
    cluster_cpu(&s->cluster, ranks, threads, pool_cores());
    return true;
}

static struct graph *build_graph(const struct setup *s, struct arena *a, const struct plan *p, bool logits,
                                 struct model_values *v)
{
    const struct model_options o = { .batch = plan_graph_batch(p),
                                     .sequence = p->sequence,
                                     .logits = logits,
                                     .compat_nnscaler = s->compat_nnscaler };
    return deepseek_v2_graph(a, &s->model, &o, v);
}

/* Largest slab over all ranks: ranks differ by the cut of the optimizer state. */
static void measure_ranks(const struct setup *s, struct arena *a, const struct graph *g, struct plan *p)
{
    const struct adamw o = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
    struct plan_memory most = { 0 };
    for (int r = 0; r < p->n_ranks; r++) {
        struct program program;
        const size_t mark = arena_mark(a);
        sched_lower(a, g, p, r, true, &o, &program);
        if (program.memory.peak_bytes > most.peak_bytes)
            most = program.memory;
        if (r == 0)
            sched_predict(&program, &s->cluster, &p->cost);
        arena_reset(a, mark);
    }
    p->memory = most;
}

bool setup_measure(const struct setup *s, struct plan *p, struct err *e)
{
    struct arena *a = arena_new("candidate");
    struct model_values v;
    struct graph *g = build_graph(s, a, p, false, &v);
    const bool ok = graph_check(g, e) && plan_check(p, g, e);
    if (ok)
        measure_ranks(s, a, g, p);
    arena_free(a);
    return ok;
}

static bool measure(void *context, struct plan *p, struct err *e)
{
    return setup_measure(context, p, e);
}

/* Rows of logits alive at once: 256 MB at most, so that a large vocabulary does not decide the memory. */
static int64_t head_chunk(const struct model_config *m)
{
    const int64_t rows = (64 << 20) / m->vocab;
    return rows < 64 ? 64 : rows;
}

static void base_plan(const struct setup *s, int64_t sequence, bool reproducible, struct plan *p)
{
    *p = (struct plan){ .sequence = sequence,
                        .head_chunk = head_chunk(&s->model),
                        .reproducible = reproducible,
                        .tile = reproducible ? 8 : 1 };
    memcpy(p->model, s->model.fingerprint, sizeof p->model);
    cluster_signature(&s->cluster, p->cluster);
}

bool setup_plan(const struct setup *s, const struct plan_limits *l, int64_t sequence,
                struct search_result *out, struct err *e)
{
    struct plan base;
    struct setup copy = *s;
    if (sequence > s->model.max_positions)
        return err_code(e, EXIT_MISMATCH,
                        "sequences of %lld tokens, but max_position_embeddings of the model is %lld",
                        (long long)sequence, (long long)s->model.max_positions);
    base_plan(s, sequence, l->reproducible, &base);
    return search_plan(&base, l, s->model.experts, sequence * s->model.experts_per_token, measure, &copy, out,
                       e);
}

void setup_small_plan(const struct setup *s, int64_t batch, int64_t sequence, struct plan *p)
{
    base_plan(s, sequence, false, p);
    p->n_ranks = p->unit_ranks = p->expert_parallel = p->zero_ranks = 1;
    p->micro_batch = p->global_batch = batch;
    p->accumulation = 1;
}

void engine_build(const struct setup *s, const struct plan *p, bool training, bool logits,
                  const struct adamw *o, struct engine *x)
{
    *x = (struct engine){ 0 };
    x->graph = build_graph(s, s->arena, p, logits, &x->values);
    sched_lower(s->arena, x->graph, p, comm_rank(), training, o, &x->program);
    exec_new(s->arena, &x->program, &x->exec);
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
