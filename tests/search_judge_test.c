/* The search with judges that are made up: what it does with what they say. */
#include "base/pool.h"
#include "plan/search.h"
#include "tests/test.h"
#include <string.h>

static const struct plan base = { .sequence = 16, .head_chunk = 16, .tile = 1 };

static uint64_t mixed(const struct plan *p, uint64_t salt)
{
    const int64_t of[] = { p->micro_batch, p->expert_parallel, p->tensor_parallel,     p->stages,
                           p->zero,        p->zero_ranks,      p->vocabulary_parallel, p->width_parallel };
    uint64_t x = salt;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        x = (x ^ (uint64_t)of[i]) * 0x9e3779b97f4a7c15u ^ x >> 29;
    return x >> 32;
}

/* Whatever the candidate says by itself: time goes up with recomputation, memory down. */
static bool judge_by_chance(void *context, const struct plan_bar *bar, struct plan *p, struct err *e)
{
    const uint64_t *salt = context;
    (void)e;
    p->recompute_most = 20;
    p->cost.step_us = (double)(1000 + mixed(p, *salt) % 100 + (uint64_t)p->recompute);
    p->cost.compute_us = 1000;
    p->memory.peak_bytes = 1000 + (int64_t)(mixed(p, *salt + 1) % 1000) - 10 * p->recompute;
    p->recompute_next = p->recompute + (int)((p->memory.peak_bytes - bar->bytes) / 10);
    p->recompute_next += p->recompute_next == p->recompute;
    if (p->cost.step_us >= bar->us)
        p->memory.peak_bytes = 0;
    return true;
}

static bool same_plans(int n, const struct plan *a, const struct plan *b)
{
    for (int i = 0; i < n; i++) {
        char hash[2][17];
        plan_hash(&a[i], hash[0]);
        plan_hash(&b[i], hash[1]);
        if (strcmp(hash[0], hash[1]) != 0 || a[i].cost.step_us != b[i].cost.step_us ||
            a[i].memory.peak_bytes != b[i].memory.peak_bytes)
            return false;
    }
    return true;
}

static bool same_found(const struct search_result *a, const struct search_result *b)
{
    return a->n == b->n && a->n_larger == b->n_larger && a->n_candidates == b->n_candidates &&
           a->n_too_large == b->n_too_large && a->n_too_slow == b->n_too_slow &&
           a->n_measured == b->n_measured && same_plans(a->n, a->best, b->best) &&
           same_plans(a->n_larger, a->larger, b->larger);
}

TEST(threads_change_nothing)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct search_result found[2];
        struct err e = { 0 };
        uint64_t salt = seed;
        const struct plan_limits l = { .n_ranks = 16,
                                       .zero = -1,
                                       .recompute = -1,
                                       .global_batch = 64,
                                       .memory_bytes = 900 + 40 * (int64_t)seed };
        const struct plan_judge judge = { judge_by_chance, NULL, &salt };
        for (int i = 0; i < 2; i++) {
            pool_start(i ? 4 : 1);
            EXPECTF(search_plan(&base, &l, 16, 32, &judge, &found[i], &e), "%s", e.text);
        }
        pool_start(1);
        EXPECT(found[0].n == SEARCH_KEEP && found[0].n_measured > 50);
        EXPECTF(same_found(&found[0], &found[1]), "seed %d", (int)seed);
    }
}

/* Half of the memory is alive at once; what is not split has gaps that do not fit. */
static bool judge_gaps(void *context, const struct plan_bar *bar, struct plan *p, struct err *e)
{
    const int64_t alive = 500, needed = p->zero ? alive : 2000;
    (void)context;
    (void)e;
    p->cost.step_us = 1 + p->zero;
    p->recompute_next = 1;
    p->memory.peak_bytes = alive <= bar->sure_bytes ? alive : needed;
    return true;
}

TEST(what_is_taken_to_fit_is_measured)
{
    struct search_result found;
    struct err e = { 0 };
    const struct plan_limits l = {
        .n_ranks = 2, .zero = -1, .recompute = -1, .global_batch = 2, .memory_bytes = 1000
    };
    const struct plan_judge judge = { judge_gaps, NULL, NULL };
    EXPECTF(search_plan(&base, &l, 0, 0, &judge, &found, &e), "%s", e.text);
    for (int i = 0; i < found.n; i++)
        EXPECT(found.best[i].zero > 0 && found.best[i].memory.peak_bytes == 500);
    EXPECT(found.n > 0 && found.n_larger > 0 && found.larger[0].memory.peak_bytes == 2000);
    EXPECT_INT(found.best[0].zero, 1);
}

static bool judge_vocabulary(void *context, const struct plan_bar *bar, struct plan *p, struct err *e)
{
    (void)context;
    (void)bar;
    (void)e;
    p->cost.step_us = p->vocabulary_parallel > 1 ? 1 : 2;
    return true;
}

/* Not for memory alone: less is to be added up. */
TEST(vocabulary_is_split_where_that_is_faster)
{
    struct search_result found;
    struct err e = { 0 };
    const struct plan_limits l = {
        .n_ranks = 2, .tensor_parallel = 2, .zero = -1, .recompute = -1, .global_batch = 2, .memory_bytes = 1
    };
    const struct plan_judge judge = { judge_vocabulary, NULL, NULL };
    EXPECTF(search_plan(&base, &l, 0, 0, &judge, &found, &e), "%s", e.text);
    EXPECT_INT(found.best[0].vocabulary_parallel, 2);
}

/* A lodger frees 100 bytes, what is repeated 10 for 2 us. */
static bool judge_lodgers(void *context, const struct plan_bar *bar, struct plan *p, struct err *e)
{
    (void)context;
    (void)e;
    EXPECT(p->lodgers == 0 || (p->expert_parallel == 1 && p->stages == 1));
    p->lodgers_most = 3;
    p->recompute_most = 60;
    p->cost.step_us = 1000 + 2 * p->recompute + (p->lodgers > 3 ? 500 : 0);
    p->memory.peak_bytes = 1000 - 100 * p->lodgers - 10 * p->recompute;
    p->recompute_next = p->recompute + (int)((p->memory.peak_bytes - bar->bytes + 9) / 10);
    return true;
}

static struct plan best_with(int64_t memory_bytes, int lodgers, int recompute)
{
    struct search_result found;
    struct err e = { 0 };
    const struct plan_limits l = { .n_ranks = 2,
                                   .zero = -1,
                                   .recompute = recompute,
                                   .lodgers = lodgers,
                                   .global_batch = 2,
                                   .memory_bytes = memory_bytes };
    const struct plan_judge judge = { judge_lodgers, NULL, NULL };
    EXPECTF(search_plan(&base, &l, 16, 32, &judge, &found, &e), "%s", e.text);
    return found.best[0];
}

TEST(values_lodge_where_it_pays)
{
    struct plan p = best_with(800, -1, -1);
    EXPECT(p.lodgers == 3 && p.recompute == 0 && p.expert_parallel == 1);
    p = best_with(500, -1, -1); /* and some is repeated */
    EXPECT(p.lodgers == 3 && p.recompute == 20);
    p = best_with(990, -1, -1); /* two thousandths */
    EXPECT(p.lodgers == 0 && p.recompute == 1);
    p = best_with(1000, -1, -1); /* it fits */
    EXPECT(p.lodgers == 0 && p.recompute == 0);
    p = best_with(800, 0, -1);
    EXPECT(p.lodgers == 0 && p.recompute == 20);
    p = best_with(800, 1, -1);
    EXPECT(p.lodgers == 1 && p.recompute == 10 && p.expert_parallel == 1);
    p = best_with(700, -1, 0); /* nothing may be repeated */
    EXPECT(p.lodgers == 3 && p.recompute == 0);
}
