/* The search against exhaustive enumeration of small spaces; bounds exclude nothing that wins; speed for large ones. */
#include "model/deepseek_v2.h"
#include "plan/cut.h"
#include "plan/layout.h"
#include "plan/search.h"
#include "sched/levels.h"
#include "sched/predict.h"
#include "tests/test.h"
#include <math.h>
#include <string.h>
#include <time.h>

static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };
static const struct model_config lite = {
    .vocab = 102400,
    .width = 2048,
    .layers = 27,
    .heads = 16,
    .kv_rank = 512,
    .nope_width = 128,
    .rope_width = 64,
    .v_width = 128,
    .dense_width = 10944,
    .expert_width = 1408,
    .experts = 64,
    .experts_per_token = 6,
    .shared_experts = 2,
    .first_dense = 1,
    .moe_every = 1,
    .groups = 1,
    .topk_groups = 1,
    .sequence_aux = true,
    .scaling = 1,
    .aux_alpha = 0.001,
    .norm_eps = 1e-6,
    .rope_theta = 10000,
    .initializer_range = 0.02,
    .max_positions = 163840,
};
struct world { /* one space */
    struct model_config model;
    struct cluster cluster;
    struct plan base;
    struct plan_limits limits;
    uint64_t state; /* of random choices */
    struct arena *arena;
    struct graph *graph;
    int64_t batch;
    int vocabulary_parts;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    CHECK(below > 0, "nothing to draw from");
    w->state = w->state * 6364136223846793005u + 1442695040888963407u;
    return (w->state >> 33) % below;
}

static double spread(struct world *w, double middle) /* 30 times more or less */
{
    return middle * pow(30, (double)draw(w, 2001) / 1000 - 1);
}

static const struct graph *graph_of(struct world *w, const struct plan *p)
{
    struct model_values v;
    const struct model_options o = { .batch = plan_graph_batch(p),
                                     .sequence = p->sequence,
                                     .vocabulary_parts = p->vocabulary_parallel };
    if (w->arena && w->batch == o.batch && w->vocabulary_parts == o.vocabulary_parts)
        return w->graph;
    arena_free(w->arena);
    w->arena = arena_new("graph");
    w->batch = o.batch;
    w->vocabulary_parts = o.vocabulary_parts;
    w->graph = deepseek_v2_graph(w->arena, &w->model, &o, &v);
    return w->graph;
}

/* The graph of a candidate, cut where it has stages. */
static bool ready(struct world *w, struct plan *p, struct err *e)
{
    if (p->vocabulary_parallel > 1 && w->model.vocab % p->vocabulary_parallel)
        return err_set(e, "a vocabulary of %lld", (long long)w->model.vocab);
    const struct graph *g = graph_of(w, p);
    return (plan_parts(p) == 1 || cut_choose(g, &w->cluster, NULL, p, e)) && plan_check(p, g, e);
}

static struct layout fullest(struct arena *a, const struct graph *g, const struct plan *p, int stage)
{
    struct layout l;
    layout_make(a, g, p, stage * plan_workers(p), &l);
    layout_make(a, g, p, layout_fullest_rank(&l, p), &l);
    return l;
}

static void measure_ready(struct world *w, const struct plan_bar *bar, struct plan *p)
{
    struct stage_times times[PLAN_PARTS];
    p->memory.peak_bytes = 0;
    p->cost = (struct plan_cost){ 0 };
    p->recompute_next = 0;
    for (int stage = 0; stage < p->stages; stage++) {
        struct arena *a = arena_new("test");
        struct program x;
        const struct layout l = fullest(a, w->graph, p, stage);
        sched_lower_lists(a, w->graph, p, &l, true, &adam, &x);
        sched_predict_stage(&x, &w->cluster, &times[stage]);
        sched_fit(a, &x, bar, p);
        p->recompute_most = x.recompute_most;
        arena_free(a);
    }
    if (p->stages == 1)
        p->cost = times[0].cost;
    else
        sched_predict_pipeline(p, times, &w->cluster, &p->cost);
}

static bool measure(void *context, const struct plan_bar *bar, struct plan *p, struct err *e)
{
    if (!ready(context, p, e))
        return false;
    measure_ready(context, bar, p);
    return true;
}

static bool least_bytes(void *context, struct plan *p, int64_t *bytes, struct err *e)
{
    struct world *w = context;
    if (!ready(w, p, e))
        return false;
    *bytes = 0;
    for (int stage = 0; stage < p->stages; stage++) {
        struct arena *a = arena_new("test");
        const struct layout l = fullest(a, w->graph, p, stage);
        const int64_t least = sched_least_bytes(a, w->graph, p, &l);
        *bytes = least > *bytes ? least : *bytes;
        arena_free(a);
    }
    return true;
}

static void begin(struct world *w, uint64_t seed)
{
    static const int ranks[] = { 1, 2, 4, 6, 8 }, experts[] = { 0, 4, 6, 8 };
    *w = (struct world){ .model = lite, .state = seed * 7919 + 17 };
    struct model_config *m = &w->model;
    m->vocab = 64;
    m->width = 16 << draw(w, 2);
    m->layers = 2;
    m->heads = 2;
    m->kv_rank = 16;
    m->nope_width = m->rope_width = m->v_width = 8;
    m->dense_width = 32;
    m->expert_width = 16;
    m->experts = experts[draw(w, 4)];
    m->experts_per_token = m->experts ? 2 : 0;
    m->shared_experts = m->experts ? 1 : 0;
    m->first_dense = m->experts ? 1 : 2;
    m->tied = seed % 3 == 1;
    const int n = ranks[draw(w, 5)], unit = n % 2 == 0 && draw(w, 2) ? n / 2 : n;
    w->base = (struct plan){ .sequence = 16, .head_chunk = 16, .tile = 1 };
    w->limits = (struct plan_limits){ .n_ranks = n,
                                      .unit_ranks = unit,
                                      .zero = -1,
                                      .recompute = -1,
                                      .global_batch = n << draw(w, 3),
                                      .stages = unit % 2 == 0 && draw(w, 4) == 0 ? 2 : 1,
                                      .chunks = 1 };
    if (unit % 2 == 0 && draw(w, 3) == 0) {
        w->limits.stages = 0;
        w->limits.any_stages = true;
    }
    const double links = w->limits.any_stages ? 0.01 : 1; /* slow ones make pipelines worth while */
    cluster_cpu(&w->cluster, 1 + (int)draw(w, (uint64_t)n), 1, 8);
    w->cluster.flops_per_s = spread(w, 1e9);
    w->cluster.memory_bytes_per_s = spread(w, 1e9);
    w->cluster.call_us = spread(w, 1);
    for (int k = 0; k < TRANSFERS; k++) {
        w->cluster.inside.bytes_per_s[k] = links * spread(w, 1e9);
        w->cluster.between.bytes_per_s[k] = links * spread(w, 3e8);
    }
}

struct brute {                 /* what every single plan says */
    int n, n_odd, odd[200000]; /* odd: those that need less than with one more repeated */
    int64_t bytes[200000];
    double us[200000];
};

/* The same plan with any amount of recomputation. */
static void add_all(struct world *w, struct plan p, struct brute *b)
{
    struct err e = { 0 };
    int64_t least = 0;
    if (p.expert_parallel > 1) {
        const int64_t mean = p.micro_batch * p.width_parallel * p.sequence * w->model.experts_per_token;
        p.row_capacity = mean + mean / 2;
    }
    const bool may_fail = p.tensor_parallel > 1 || (p.stages > 1 && w->limits.any_stages);
    if (may_fail && !ready(w, &p, &e))
        return; /* it splits nothing of this model, or cannot be cut */
    EXPECTF(least_bytes(w, &p, &least, &e), "%s", e.text);
    for (p.recompute = 0; p.recompute == 0 || p.recompute <= p.recompute_most; p.recompute++) {
        measure_ready(w, &(struct plan_bar){ INT64_MAX, -1, INFINITY }, &p);
        EXPECTF(p.memory.peak_bytes >= least, "%lld < %lld", (long long)p.memory.peak_bytes,
                (long long)least);
        const int64_t bytes = p.memory.peak_bytes + plan_ways(&p) * w->limits.way_bytes;
        if (p.recompute > 0 && bytes > b->bytes[b->n - 1])
            b->odd[b->n_odd++] = b->n - 1;
        b->bytes[b->n] = bytes;
        b->us[b->n++] = p.cost.step_us;
    }
    if (p.expert_parallel == 1)
        return;
    p.keep_rows = true; /* nothing repeated */
    p.recompute = 0;
    measure_ready(w, &(struct plan_bar){ INT64_MAX, -1, INFINITY }, &p);
    b->bytes[b->n] = p.memory.peak_bytes + plan_ways(&p) * w->limits.way_bytes;
    b->us[b->n++] = p.cost.step_us;
}

static void add_zero(struct world *w, struct plan p, struct brute *b)
{
    const int over[] = { 1, plan_unit_workers(&p), plan_workers(&p) };
    for (int i = 0; i < 3; i++)
        for (p.zero = over[i] > 1; p.zero <= (over[i] > 1 ? 3 : 0) && (i == 0 || over[i] != over[i - 1]);
             p.zero++) {
            p.zero_ranks = over[i];
            add_all(w, p, b);
        }
}

/* The vocabulary whole, and split where it can be. */
static void add_vocabulary(struct world *w, struct plan p, struct brute *b)
{
    p.vocabulary_parallel = 1;
    add_zero(w, p, b);
    p.vocabulary_parallel = p.tensor_parallel;
    if (p.tensor_parallel > 1 && w->model.vocab % p.tensor_parallel == 0)
        add_zero(w, p, b);
}

/* The width of experts whole, and split where it can be. */
static void add_widths(struct world *w, struct plan p, struct brute *b)
{
    p.width_parallel = 1;
    add_vocabulary(w, p, b);
    p.width_parallel = p.tensor_parallel;
    if (p.tensor_parallel > 1 && w->model.experts &&
        plan_unit_workers(&p) % (p.expert_parallel * p.tensor_parallel) == 0)
        add_vocabulary(w, p, b);
}

static void add_degrees(struct world *w, struct plan p, struct brute *b)
{
    const int unit = plan_unit_workers(&p);
    const int64_t share = p.global_batch / plan_workers(&p);
    for (p.micro_batch = 1; p.micro_batch <= share; p.micro_batch++)
        for (p.expert_parallel = 1; p.expert_parallel <= unit; p.expert_parallel++)
            for (p.tensor_parallel = 1; p.tensor_parallel <= unit; p.tensor_parallel++) {
                p.accumulation = share / p.micro_batch;
                if (share % p.micro_batch == 0 && unit % p.expert_parallel == 0 &&
                    unit % p.tensor_parallel == 0 && (p.expert_parallel == 1 || w->model.experts) &&
                    w->model.experts % p.expert_parallel == 0 &&
                    (p.chunks == 1 || p.accumulation % p.stages == 0) &&
                    (!w->limits.any_stages || p.accumulation >= p.stages))
                    add_widths(w, p, b);
            }
}

/* The number of stages that is asked for; or any, of up to 4 parts. */
static void enumerate(struct world *w, struct brute *b)
{
    struct plan p = w->base;
    b->n = b->n_odd = 0;
    p.n_ranks = w->limits.n_ranks;
    p.unit_ranks = w->limits.unit_ranks;
    p.global_batch = w->limits.global_batch;
    for (p.stages = 1; p.stages <= p.unit_ranks; p.stages++)
        for (p.chunks = 1; p.chunks <= (p.stages > 1 && w->limits.any_stages ? 4 : 1); p.chunks *= 2)
            if (p.unit_ranks % p.stages == 0 && p.global_batch % plan_workers(&p) == 0 &&
                (w->limits.any_stages || p.stages == w->limits.stages))
                add_degrees(w, p, b);
}

/* Index of the fastest of those whose bytes fit, or -1. */
static int optimum(const struct brute *b, int64_t limit)
{
    int best = -1;
    for (int i = 0; i < b->n; i++)
        if (b->bytes[i] <= limit && (best < 0 || b->us[i] < b->us[best]))
            best = i;
    return best;
}

static void check_found(const struct world *w, const struct brute *b, const struct search_result *found,
                        bool ok, uint64_t seed)
{
    const int best = optimum(b, w->limits.memory_bytes);
    EXPECTF(ok == (best >= 0), "seed %d: a plan was found: %d", (int)seed, ok);
    EXPECT(!ok || found->best[0].memory.peak_bytes <= plan_slab_limit(&w->limits, &found->best[0]));
    if (ok && best >= 0)
        EXPECTF(found->best[0].cost.step_us == b->us[best], "seed %d: found %.17g us, the best is %.17g",
                (int)seed, found->best[0].cost.step_us, b->us[best]);
}

/* What some plan needs, or one byte less; often one behind which more recomputation does not fit. */
static int64_t draw_limit(struct world *w, const struct brute *b)
{
    if (b->n_odd > 0 && draw(w, 2))
        return b->bytes[b->odd[draw(w, (uint64_t)b->n_odd)]];
    return b->bytes[draw(w, (uint64_t)b->n)] - (int64_t)draw(w, 2);
}

TEST(random_small_spaces_have_the_same_optimum)
{
    static struct brute b;
    int refused = 0, repeating = 0, staged = 0;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct world w;
        struct search_result found;
        struct err e = { 0 };
        begin(&w, seed);
        w.limits.way_bytes = 1 << 16;
        enumerate(&w, &b);
        w.limits.memory_bytes = draw_limit(&w, &b);
        const struct plan_judge judge = { measure, least_bytes, &w };
        const bool ok = search_plan(&w.base, &w.limits, w.model.experts,
                                    w.base.sequence * w.model.experts_per_token, &judge, &found, &e);
        check_found(&w, &b, &found, ok, seed);
        refused += !ok;
        staged += ok && w.limits.any_stages && found.best[0].stages > 1;
        repeating += ok && found.best[0].recompute > 0;
        arena_free(w.arena);
    }
    EXPECTF(refused < 40 && repeating > 10 && staged > 5,
            "refused %d, repeating %d, a pipeline by itself %d: the cases are too easy", refused, repeating,
            staged);
}

/* A plan of the space, whatever it needs; false: it cannot be. */
static bool draw_plan(struct world *w, struct plan *p)
{
    struct err why = { 0 };
    *p = w->base;
    p->n_ranks = p->unit_ranks = w->limits.n_ranks;
    p->stages = w->limits.stages == 2 ? 2 : 1;
    p->chunks = 1;
    const int unit = plan_unit_workers(p);
    p->expert_parallel = w->model.experts && unit % 2 == 0 && draw(w, 3) ? 2 : 1;
    p->tensor_parallel = unit % 2 == 0 && draw(w, 3) == 0 ? 2 : 1;
    p->vocabulary_parallel = p->width_parallel = 1;
    p->zero = unit > 1 ? (int)draw(w, 4) : 0;
    p->zero_ranks = p->zero ? unit : 1;
    p->overlap = (int)draw(w, 3);
    p->micro_batch = 1 + (int64_t)draw(w, 2);
    p->accumulation = 1 + (int64_t)draw(w, 3);
    p->global_batch = p->micro_batch * p->accumulation * unit;
    p->row_capacity = p->expert_parallel > 1 ? 8 + 8 * (int64_t)draw(w, 8) : 0;
    return ready(w, p, &why);
}

/* With every recomputation, from the most on: what the bound for more of it says against what that needs. Returns how many
 * it excludes, of limits that are met. */
static int check_levels(struct world *w, struct plan p, int stage, uint64_t seed)
{
    int64_t bytes[256] = { 0 };
    int near = 0;
    for (p.recompute = 255; p.recompute >= 0; p.recompute--) {
        struct arena *a = arena_new("test");
        struct program x;
        const struct layout l = fullest(a, w->graph, &p, stage);
        sched_lower_lists(a, w->graph, &p, &l, true, &adam, &x);
        EXPECTF(x.recompute_most < 255, "%d", x.recompute_most);
        p.recompute = p.recompute < x.recompute_most ? p.recompute : x.recompute_most;
        sched_assign(&x, a);
        bytes[p.recompute] = x.memory.peak_bytes;
        EXPECT(sched_alive_bytes(a, &x) <= x.memory.peak_bytes);
        for (int r = p.recompute + 1; r <= x.recompute_most; r++) {
            const int next = sched_next_level(a, &x, bytes[r]);
            EXPECTF(next <= r, "seed %d: %d repeated need %lld, the bound of %d says %d", (int)seed, r,
                    (long long)bytes[r], p.recompute, next);
            near += next == r;
        }
        arena_free(a);
    }
    return near;
}

TEST(bounds_for_more_recomputation_exclude_nothing_that_fits)
{
    int near = 0, drawn = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct world w;
        struct plan p;
        begin(&w, seed + 1000);
        if (draw_plan(&w, &p))
            for (int stage = 0; stage < p.stages; stage++, drawn++)
                near += check_levels(&w, p, stage, seed);
        arena_free(w.arena);
    }
    EXPECTF(drawn > 30 && near > 10 * drawn, "%d plans, %d bounds that are met: too easy", drawn, near);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void expect_quick(struct world *w, int ranks, int64_t batch, double seconds)
{
    struct search_result found;
    struct err e = { 0 };
    const double start = now();
    cluster_builtin("h200", &w->cluster);
    w->base = (struct plan){ .sequence = 2048, .head_chunk = 1024, .tile = 1 };
    w->limits = (struct plan_limits){ .n_ranks = ranks,
                                      .zero = -1,
                                      .recompute = -1,
                                      .global_batch = batch,
                                      .memory_bytes = (int64_t)300 << 30 };
    const struct plan_judge judge = { measure, least_bytes, w };
    const bool ok = search_plan(&w->base, &w->limits, w->model.experts, 2048 * w->model.experts_per_token,
                                &judge, &found, &e);
    const double took = now() - start;
    EXPECTF(ok, "%s", e.text);
    EXPECTF(took < seconds, "%d ranks: %.2f s", ranks, took);
    arena_free(w->arena);
    w->arena = NULL;
}

/* The bars are 1, 30 and 30 seconds; the machine may be busy. */
TEST(large_spaces_are_quick)
{
    struct world w = { .model = lite };
    expect_quick(&w, 8, 64, 5);
    expect_quick(&w, 4096, 16384, 30);
    struct model_config *m = &w.model;
    m->width = 5120;
    m->layers = 60;
    m->heads = 128;
    m->q_rank = 1536;
    m->dense_width = 12288;
    m->expert_width = 1536;
    m->experts = 160;
    m->groups = 8;
    m->topk_groups = 3;
    expect_quick(&w, 1024, 4096, 60);
}
#endif
