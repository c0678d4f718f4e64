/* Shards: the order in which they are added, written out for eight of them; which samples a shard has; and that the
 * number of workers, tensor groups and senders changes neither. The lists of each worker are run here. */
#include "base/pool.h"
#include "base/rng.h"
#include "base/str.h"
#include "device/device_impl.h"
#include "plan/cut.h"
#include "plan/search.h"
#include "plan/tree.h"
#include "sched/predict.h"
#include "sched/simulate.h"
#include "tests/small_model.h"
#include "tests/test.h"
#include <stdlib.h>
static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };

static struct plan plan_of(int ranks, int shards, int64_t micro_of_shard)
{
    struct plan p = one_rank_plan(1, 16, 100);
    p.n_ranks = p.unit_ranks = ranks;
    p.reproducible = true;
    p.tile = 8;
    p.shards = shards;
    p.accumulation = micro_of_shard * plan_own_shards(&p);
    p.global_batch = p.accumulation * plan_workers(&p);
    return p;
}

/* A worker that computes nothing but sums. */
struct summer {
    struct arena *arena;
    struct program p;
    char *slab;
};

static struct summer worker_new(const struct plan *p, int rank)
{
    struct summer w = { .arena = arena_new("worker") };
    struct err e = { 0 };
    const struct graph *g = small_model_graph(w.arena, p);
    EXPECTF(plan_check(p, g, &e), "%s", e.text);
    sched_lower(w.arena, g, p, rank, true, &adam, &w.p);
    w.slab = aligned_alloc(256, (size_t)w.p.memory.peak_bytes);
    memset(w.slab, 0xff, (size_t)w.p.memory.peak_bytes);
    return w;
}

static void worker_free(struct summer *w)
{
    free(w->slab);
    arena_free(w->arena);
}

static void *at(const struct summer *w, struct ref r)
{
    return w->slab + w->p.buffers[r.buffer].at + r.at_bytes;
}

static int64_t floats_of(const struct summer *w, int flat)
{
    return w->p.layout.flat[flat].n_elements;
}

static void run(const struct summer *w, struct section s)
{
    for (int i = s.from; i < s.to; i++) {
        const struct instr *in = &w->p.list[LIST_TREE].item[i];
        EXPECT(in->kind == RUN_PARTS);
        device_sum_cpu(&(struct device_sum){ .parts = at(w, in->ref[0]),
                                             .out = at(w, in->ref[1]),
                                             .type = F32,
                                             .n_parts = in->n_parts,
                                             .stride = in->n,
                                             .n = in->n,
                                             .add = in->add });
    }
}

/* What micro-batch `micro` of shard s adds to element i; of all members of a tensor group alike but for `member`. */
static float addend(int64_t shard, int64_t micro, int member, int64_t i)
{
    const uint64_t stream = (uint64_t)((shard * 100 + micro) * 100 + member);
    return (float)rng_normal(7, stream, (uint64_t)i) * (shard % 3 == 1 ? 1e3f : 1);
}

/* All micro-batches of a worker on one of its flat spaces; the sum is what stays in the gradients. */
static float *worker_sum(const struct summer *w, int flat)
{
    const struct plan *p = &w->p.plan;
    float *g = at(w, w->p.gradients[flat]);
    const int own = plan_own_shards(p), first = w->p.layout.rank / p->tensor_parallel * own;
    for (int64_t micro = 0; micro < p->accumulation; micro++) {
        struct section part[PLAN_TREE_LEVELS];
        const int64_t shard = first + micro / plan_shard_micro(p);
        for (int64_t i = 0; i < floats_of(w, flat); i++)
            g[i] = (micro % plan_shard_micro(p) ? g[i] : 0) +
                   addend(shard, micro % plan_shard_micro(p), w->p.layout.tensor_index, i);
        const int n = sched_end_shard(&w->p, 0, micro, part);
        for (int k = 0; k < n; k++)
            run(w, part[k]);
    }
    return g;
}

/* The gradient of a flat space over all workers, as collect_reduce() adds it; *n elements. */
static float *sum_of_all(struct plan p, int flat, int64_t *n)
{
    float *parts = NULL;
    int members = 0;
    for (int r = 0; r < plan_workers(&p); r++) {
        struct summer w = worker_new(&p, r);
        const struct flat *f = &w.p.layout.flat[flat];
        *n = floats_of(&w, flat);
        members = f->n_ranks;
        if (!parts)
            parts = calloc((size_t)(members * *n), sizeof *parts);
        memcpy(parts + layout_tree_place(f, f->index) * *n, worker_sum(&w, flat), (size_t)*n * sizeof *parts);
        worker_free(&w);
    }
    device_sum_cpu(&(struct device_sum){ parts, parts, F32, members, *n, *n, false });
    return parts;
}

/* One worker, eight shards of two micro-batches: every sum by hand. */
TEST(eight_shards_are_added_in_this_order)
{
    const struct plan p = plan_of(1, 8, 2);
    struct summer w = worker_new(&p, 0);
    const float *g = worker_sum(&w, DENSE);
    int64_t otherwise = 0, wrong = 0, n_weights = 0;
    for (int i = 0; i < w.p.graph->params.n; i++) {
        const struct place *here = &w.p.layout.place[i];
        for (int64_t k = here->at; here->flat == DENSE && k < here->at + here->end - here->begin; k++) {
            float s[8], chain = 0;
            for (int j = 0; j < 8; j++) {
                s[j] = addend(j, 0, 0, k) + addend(j, 1, 0, k);
                chain += s[j];
            }
            const float tree = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
            wrong += g[k] != tree;
            otherwise += tree != chain;
            n_weights++;
        }
    }
    EXPECT_INT(wrong, 0);
    EXPECT(otherwise > n_weights / 4); /* another order would be seen */
    worker_free(&w);
}

static void expect_same(struct plan p, struct plan other, int flat)
{
    int64_t n = 0, m = 0;
    float *x = sum_of_all(p, flat, &n), *y = sum_of_all(other, flat, &m);
    EXPECT(n == m && n > 0);
    EXPECTF(memcmp(x, y, (size_t)n * sizeof *x) == 0, "%d and %d ranks, %d shards, tensors over %d",
            p.n_ranks, other.n_ranks, p.shards, p.tensor_parallel);
    free(x), free(y);
}

TEST(sums_do_not_depend_on_the_workers)
{
    for (int n = 1; n < 8; n *= 2) {
        expect_same(plan_of(8, 8, 1), plan_of(n, 8, 1), DENSE);
        expect_same(plan_of(8, 8, 1), plan_of(n, 8, 1), EXPERT);
    }
    expect_same(plan_of(12, 12, 2), plan_of(6, 12, 2), DENSE);
    expect_same(plan_of(12, 12, 2), plan_of(3, 12, 2), DENSE);
}

static struct plan tensors(int groups, int shards, int tensor)
{
    struct plan p = plan_of(groups, shards, 1);
    p.n_ranks = p.unit_ranks = groups * tensor;
    p.tensor_parallel = tensor;
    p.global_batch = p.accumulation * plan_workers(&p);
    return p;
}

TEST(sums_do_not_depend_on_the_tensor_groups)
{
    for (int n = 1; n < 4; n *= 2) {
        expect_same(tensors(4, 4, 2), tensors(n, 4, 2), DENSE);
        expect_same(tensors(4, 4, 2), tensors(n, 4, 2), TENSOR);
    }
    expect_same(tensors(6, 6, 2), tensors(3, 6, 2), DENSE);
}

/* Samples of the step by shard and micro-batch, and that workers leave none out. */
static void check_samples(struct plan p, const int64_t *expected)
{
    const int64_t each = plan_shard_micro(&p);
    for (int w = 0; w < plan_workers(&p); w++)
        for (int64_t m = 0; m < p.accumulation; m++) {
            const int64_t shard = w / p.tensor_parallel * plan_own_shards(&p) + m / each;
            const int64_t place = (shard * each + m % each) * p.tensor_parallel + w % p.tensor_parallel;
            EXPECT_INT(plan_sample(&p, m, w, 0), expected[place]);
        }
}

TEST(samples_of_shards)
{
    const int64_t four[8] = { 0, 4, 1, 5, 2, 6, 3, 7 }, pairs[8] = { 0, 1, 4, 5, 2, 3, 6, 7 };
    check_samples(plan_of(1, 4, 2), four);
    check_samples(plan_of(2, 4, 2), four);
    check_samples(plan_of(4, 4, 2), four);
    struct plan p = tensors(2, 2, 2);
    p.accumulation = 2;
    p.global_batch = 8;
    check_samples(p, pairs);
    p = tensors(1, 2, 2);
    p.accumulation = 4;
    p.global_batch = 8;
    check_samples(p, pairs);
    p = plan_of(4, 0, 2);
    EXPECT_INT(plan_sample(&p, 1, 3, 0), 7); /* without shards */
}

/* Of every stage, chunk by chunk, as a pipeline ends them; and with senders apart. */
static void check_list(struct plan p)
{
    for (int r = 0; r < p.n_ranks; r++) {
        const struct summer w = worker_new(&p, r);
        int64_t added = 0, kept = 0, held = 0, bytes = 0;
        for (int c = 0; c < p.chunks; c++) {
            for (int i = w.p.tree_add[c][0].from; i < w.p.tree_add[c][0].to; i++)
                added += w.p.list[LIST_TREE].item[i].n;
            for (int i = w.p.tree_keep[c][0].from; i < w.p.tree_keep[c][0].to; i++)
                kept += w.p.list[LIST_TREE].item[i].kind == RUN_PARTS ? w.p.list[LIST_TREE].item[i].n : 0;
        }
        for (int i = 0; i < w.p.graph->params.n; i++) {
            const struct place *here = &w.p.layout.place[i];
            held += (here->end - here->begin) * (here->flat == EXPERT ? p.expert_parallel : 1);
        }
        for (int i = 0; i < w.p.n_buffers; i++)
            bytes += strcmp(w.p.buffers[i].name, "sums of shards") == 0 ? w.p.buffers[i].bytes : 0;
        EXPECT(added == kept && added >= held && added < held + 16 * w.p.graph->params.n);
        EXPECT(bytes >= plan_tree_levels(&p) * held * 4 && bytes < plan_tree_levels(&p) * (held + 20000) * 4);
        struct summer gone = w;
        worker_free(&gone);
    }
}

/* One worker, two stages with two parts each. */
static struct plan piped(void)
{
    struct arena *a = arena_new("test");
    struct plan p = plan_of(1, 4, 1);
    struct cluster c;
    struct err e = { 0 };
    p.stages = p.chunks = 2;
    p.n_ranks = p.unit_ranks = 2;
    cluster_cpu(&c, 1, 1, 1);
    EXPECTF(cut_choose(small_model_graph(a, &p), &c, NULL, &p, &e), "%s", e.text);
    arena_free(a);
    return p;
}

TEST(every_gradient_is_added_once)
{
    struct plan p = plan_of(2, 8, 1);
    check_list(p);
    p.expert_parallel = 2;
    p.row_capacity = 64;
    check_list(p);
    check_list(piped());
}

/* What the simulator runs is what the prediction counts; one rank of each stage. */
static void check_time(struct plan p)
{
    struct arena *a = arena_new("test");
    const struct program **programs = ARENA_NEW(a, const struct program *, p.n_ranks);
    struct simulation s = { .program = programs };
    struct cluster c;
    struct err e = { 0 };
    cluster_cpu(&c, 1, 1, 1);
    s.cluster = &c;
    for (int r = 0; r < p.n_ranks; r++) {
        struct program *x = ARENA_NEW(a, struct program, 1);
        sched_lower(a, small_model_graph(a, &p), &p, r, true, &adam, x);
        programs[r] = x;
    }
    EXPECTF(sched_simulate(a, &s, &e), "%s", e.text);
    for (int r = 0; r < p.n_ranks; r++) {
        struct plan_cost with, without;
        struct program none = *programs[r];
        sched_predict(programs[r], &c, &with);
        none.plan.shards = 0;
        sched_predict(&none, &c, &without);
        EXPECT(with.optimizer_us > without.optimizer_us + 1);
        EXPECTF(fabs(s.rank[r].class_us[COST_OPTIMIZER] - with.optimizer_us) < 1e-3, "%g us, predicted %g",
                s.rank[r].class_us[COST_OPTIMIZER], with.optimizer_us);
    }
    arena_free(a);
}

TEST(time_is_predicted)
{
    check_time(plan_of(1, 8, 2));
    check_time(piped());
}

static void expect_refused(struct plan p, const char *part)
{
    struct err e = { 0 };
    EXPECT(!plan_check(&p, NULL, &e));
    EXPECTF(strstr(e.text, part), "'%s' does not name %s", e.text, part);
}

TEST(what_cannot_be_shared_out_is_refused)
{
    struct err e = { 0 };
    struct plan p = plan_of(2, 8, 1);
    EXPECTF(plan_check(&p, NULL, &e), "%s", e.text);
    p.reproducible = false;
    p.tile = 1;
    expect_refused(p, "reproducible_shards");
    p = plan_of(2, 8, 1);
    p.shards = 6; /* 3 for each */
    expect_refused(p, "power of two");
    p.shards = 7;
    expect_refused(p, "power of two");
    p = plan_of(2, 8, 1);
    p.accumulation = 6;
    p.global_batch = 12;
    expect_refused(p, "accumulation");
    p = tensors(2, 4, 2);
    p.expert_parallel = 2;
    p.row_capacity = 64;
    expect_refused(p, "expert_parallel");
}

TEST(text_both_ways)
{
    struct arena *a = arena_new("test");
    struct plan p = plan_of(2, 8, 1), back;
    struct str text = str_new(a, 1 << 20);
    struct err e = { 0 };
    char hash[17], other[17];
    p.price = (struct plan_price){ 12345, 678 };
    plan_write(&p, small_model_graph(a, &p), &text, hash);
    EXPECTF(plan_parse(text.text, text.bytes, "plan.json", &back, &e), "%s", e.text);
    EXPECT_INT(back.shards, 8);
    EXPECT_INT(back.price.bytes, 12345);
    EXPECT(back.price.step_us == 678);
    p.shards = 4;
    plan_hash(&p, other);
    EXPECT(strcmp(hash, other) != 0);
    arena_free(a);
}

static bool measure(void *context, const struct plan_bar *bar, struct plan *p, struct err *e)
{
    int *n = context;
    (void)bar;
    (void)e;
    EXPECT(plan_tree_fits(p) && p->shards == 4);
    p->cost.step_us = ++*n;
    return true;
}

static bool search(int ranks, struct search_result *r, int *n, struct err *e)
{
    struct plan base = plan_of(1, 4, 1);
    const struct plan_limits l = { .n_ranks = ranks,
                                   .zero = -1,
                                   .global_batch = 24,
                                   .recompute = -1,
                                   .memory_bytes = 1,
                                   .reproducible = true,
                                   .shards = 4 };
    const struct plan_judge judge = { measure, NULL, n };
    return search_plan(&base, &l, 8, 32, &judge, r, e);
}

TEST(search_tries_only_what_shares_out)
{
    struct search_result r;
    struct err e = { 0 };
    int n = 0;
    EXPECTF(search(4, &r, &n, &e), "%s", e.text);
    EXPECT(n > 0 && r.best[0].stages == 1);
    EXPECTF(search(6, &r, &n, &e), "%s", e.text);
    EXPECT_INT(r.best[0].stages, 3); /* two workers; neither 6 nor 3 have a power of two of 4 shards */
    EXPECTF(search(24, &r, &n, &e), "%s", e.text);
    EXPECT_INT(r.best[0].stages, 6);
    EXPECT(!search(5, &r, &n, &e));
}
