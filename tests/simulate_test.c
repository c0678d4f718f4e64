/* The null device, on lists made by hand: a zeroed byte takes 1 us of a rank alone; a route takes 1 us per byte beside the
 * latency and needs both ranks of an expert group. */
#include "base/arena.h"
#include "sched/simulate.h"
#include "tests/test.h"
#include <limits.h>

static const struct cluster slow = { .memory_bytes_per_s = 1e6,
                                     .ranks_per_node = 8,
                                     .inside = { { 1e6, 1e6, 1e6 }, 3 } };

struct hand { /* a rank */
    struct program p;
    struct instr item[LISTS][8];
};

static void begin(struct hand *h, int n_ranks, int64_t accumulation)
{
    *h = (struct hand){ .p.plan = { .n_ranks = n_ranks,
                                    .unit_ranks = n_ranks,
                                    .expert_parallel = n_ranks > 1 ? 2 : 1,
                                    .tensor_parallel = 1,
                                    .vocabulary_parallel = 1,
                                    .width_parallel = 1,
                                    .zero_ranks = 1,
                                    .row_capacity = 1,
                                    .stages = 1,
                                    .chunks = 1,
                                    .accumulation = accumulation } };
    for (int k = 0; k < LISTS; k++)
        h->p.list[k].item = h->item[k];
}

static void emit(struct hand *h, enum list_kind list, enum instr_kind kind, const char *name, int64_t n)
{
    h->item[list][h->p.list[list].n++] = (struct instr){ .kind = kind, .name = name, .node = -1, .n = n };
}

struct seen {
    int n, n_waiting;
    double waiting_us, busy_us;
};

static void watch(void *context, const struct sim_event *e)
{
    struct seen *s = context;
    s->n++;
    s->n_waiting += e->waiting;
    *(e->waiting ? &s->waiting_us : &s->busy_us) += e->end_us - e->begin_us;
}

static bool simulate(struct arena *a, const struct hand *h, int n, struct simulation *s, struct seen *seen,
                     struct err *e)
{
    const struct program **p = ARENA_NEW(a, const struct program *, n);
    for (int i = 0; i < n; i++)
        p[i] = &h[i].p;
    *s = (struct simulation){ .program = p, .cluster = &slow, .observe = watch, .context = seen };
    return sched_simulate(a, s, e);
}

TEST(one_rank_repeats_its_micro_batches)
{
    struct arena *a = arena_new("simulate");
    struct hand h;
    struct simulation s;
    struct seen seen = { 0 };
    struct err e = { 0 };
    begin(&h, 1, 3);
    emit(&h, LIST_MICRO, RUN_ZERO, "a", 10);
    emit(&h, LIST_MICRO, RUN_ROUTE, "alone", 1000);
    emit(&h, LIST_UPDATE, RUN_ZERO, "b", 7);
    EXPECT(simulate(a, &h, 1, &s, &seen, &e));
    /* a rank alone sends nothing, but its route costs what prediction says: its bytes */
    EXPECT(fabs(s.rank[0].class_us[COST_COMPUTE] - 30) < 1e-9);
    EXPECT(fabs(s.rank[0].class_us[COST_OPTIMIZER] - 7) < 1e-9);
    EXPECT(fabs(s.step_us - 37 - s.rank[0].class_us[COST_EXCHANGE]) < 1e-9);
    EXPECT_INT(seen.n_waiting, 0);
    arena_free(a);
}

TEST(a_group_waits_for_its_last_member)
{
    struct arena *a = arena_new("simulate");
    struct hand h[4];
    struct simulation s;
    struct seen seen = { 0 };
    struct err e = { 0 };
    for (int r = 0; r < 4; r++) {
        begin(&h[r], 4, 2);
        emit(&h[r], LIST_MICRO, RUN_ZERO, "work", r == 1 ? 50 : 20); /* groups 0 1 and 2 3 */
        emit(&h[r], LIST_MICRO, RUN_ROUTE, "route", 10);
        emit(&h[r], LIST_UPDATE, RUN_ZERO, "update", 5);
    }
    EXPECTF(simulate(a, h, 4, &s, &seen, &e), "%s", e.text);
    const double route = 4 * (10 + 2) + 3;
    EXPECT(fabs(s.rank[0].wait_us - 2 * 30) < 1e-9 && s.rank[1].wait_us == 0);
    EXPECT(s.rank[2].wait_us == 0 && s.rank[3].wait_us == 0);
    EXPECT(fabs(s.rank[0].class_us[COST_EXCHANGE] - 2 * route) < 1e-9);
    EXPECT(fabs(s.rank[0].end_us - (2 * (50 + route) + 5)) < 1e-9);
    EXPECT(fabs(s.rank[1].end_us - s.rank[0].end_us) < 1e-9);
    EXPECT(fabs(s.rank[3].end_us - (2 * (20 + route) + 5)) < 1e-9); /* the other group goes ahead */
    EXPECT(fabs(s.step_us - s.rank[0].end_us) < 1e-9);
    EXPECT_INT(seen.n_waiting, 2);
    EXPECT(fabs(seen.waiting_us - 60) < 1e-9);
    arena_free(a);
}

/* Two ranks; a route takes 10 + 3 + 3 us in the other lane. Compute: 5, then 20 beside the route, which rank 1 enters 7 us
 * later, then waits; 4 more, and a second route right behind the first, of which the end of the section waits. */
TEST(compute_waits_for_what_is_beside)
{
    struct arena *a = arena_new("simulate");
    struct hand h[2];
    struct simulation s;
    struct seen seen = { 0 };
    struct err e = { 0 };
    struct plan_cost cost;
    for (int r = 0; r < 2; r++) {
        begin(&h[r], 2, 1);
        h[r].p.plan.overlap = 1;
        h[r].p.plan.numbers.backend = CUDA;
        emit(&h[r], LIST_MICRO, RUN_ZERO, "first", r ? 12 : 5);
        emit(&h[r], LIST_MICRO, RUN_ROUTE, "route", 10);
        emit(&h[r], LIST_MICRO, RUN_ROUTE, "again", 10);
        emit(&h[r], LIST_MICRO, RUN_ZERO, "beside", 20);
        emit(&h[r], LIST_MICRO, RUN_ZERO, "behind", 4);
        struct instr *in = h[r].item[LIST_MICRO];
        in[1].beside = in[2].beside = true;
        in[1].after = in[2].after = 1;
        in[4].after = 2;
    }
    EXPECTF(simulate(a, h, 2, &s, &seen, &e), "%s", e.text);
    const double route = 4 * (10 + 2) + 3, first_end = 12 + route, second_end = 12 + 2 * route;
    EXPECT(fabs(s.rank[0].class_us[COST_COMPUTE] - (5 + 20 + 4)) < 1e-9);
    EXPECT(fabs(s.rank[0].class_us[COST_EXCHANGE] - (first_end - 25) - (second_end - first_end - 4)) < 1e-9);
    EXPECT(fabs(s.rank[1].class_us[COST_EXCHANGE] - (first_end - 32) - (second_end - first_end - 4)) < 1e-9);
    EXPECT(s.rank[0].wait_us == 0); /* the 7 us were under compute */
    EXPECT(fabs(s.rank[0].side_us - 2 * route) < 1e-9);
    EXPECT(fabs(s.rank[0].end_us - second_end) < 1e-9 && fabs(s.rank[1].end_us - second_end) < 1e-9);
    sched_predict(&h[1].p, &slow, &cost); /* a rank that waits for nobody: the same */
    EXPECT(fabs(cost.step_us - second_end) < 1e-9);
    EXPECT(fabs(cost.exchange_us - s.rank[1].class_us[COST_EXCHANGE]) < 1e-9);
    EXPECT(fabs(cost.beside_us - (2 * route - cost.exchange_us)) < 1e-9);
    arena_free(a);
}

TEST(what_is_last_runs_in_the_last_micro_batch)
{
    struct arena *a = arena_new("simulate");
    struct hand h;
    struct simulation s;
    struct seen seen = { 0 };
    struct err e = { 0 };
    struct plan_cost cost;
    begin(&h, 1, 3);
    emit(&h, LIST_MICRO, RUN_ZERO, "always", 10);
    emit(&h, LIST_MICRO, RUN_ZERO, "last", 4);
    h.item[LIST_MICRO][1].last = true;
    EXPECT(simulate(a, &h, 1, &s, &seen, &e));
    sched_predict(&h.p, &slow, &cost);
    EXPECT_INT(seen.n, 4);
    EXPECT(fabs(s.step_us - 34) < 1e-9 && fabs(cost.step_us - 34) < 1e-9);
    arena_free(a);
}

/* A stage of two: forward, a message, backward, a message. */
static void begin_stage(struct hand *h, int stage, int tag_back)
{
    begin(h, 2, 2);
    h->p.plan.stages = 2;
    h->p.plan.expert_parallel = 1;
    h->p.layout.rank = stage;
    const enum instr_kind kind[2][4] = { { RUN_ZERO, RUN_PASS_OUT, RUN_PASS_IN, RUN_ZERO },
                                         { RUN_PASS_IN, RUN_ZERO, RUN_ZERO, RUN_PASS_OUT } };
    static const char *const names[4] = { "forward", "forward", "backward", "backward" };
    for (int i = 0; i < 4; i++) {
        emit(h, LIST_MICRO, kind[stage][i], names[i], kind[stage][i] != RUN_ZERO ? 5 : i < 2 ? 10 : 20);
        h->item[LIST_MICRO][i].peer = 1 - stage;
        h->item[LIST_MICRO][i].tag = i < 2 ? 7 : tag_back;
    }
    h->p.forward[0] = (struct section){ 0, 2 };
    h->p.backward[0] = (struct section){ 2, 4 };
    emit(h, LIST_UPDATE, RUN_ZERO, "update", 5);
}

/* Stage 0 runs F0 F1 B0 B1, stage 1 F0 B0 F1 B1; a message takes 5 + 3 us of who receives it. */
TEST(stages_wait_for_messages)
{
    struct arena *a = arena_new("simulate");
    struct hand h[2];
    struct simulation s;
    struct seen seen = { 0 };
    struct err e = { 0 };
    begin_stage(&h[0], 0, 8);
    begin_stage(&h[1], 1, 8);
    EXPECTF(simulate(a, h, 2, &s, &seen, &e), "%s", e.text);
    EXPECT(fabs(s.rank[0].wait_us - (48 - 20 + 86 - 76)) < 1e-9);
    EXPECT(fabs(s.rank[1].wait_us - 10) < 1e-9);
    EXPECT(fabs(s.rank[0].end_us - 119) < 1e-9);
    EXPECT(fabs(s.rank[1].end_us - 91) < 1e-9);
    EXPECT(fabs(s.rank[1].class_us[COST_EXCHANGE] - 16) < 1e-9);
    arena_free(a);
}

static void expect_deadlock(const struct hand *h, const char *who, const char *what)
{
    struct arena *a = arena_new("simulate");
    struct simulation s;
    struct seen seen = { 0 };
    struct err e = { 0 };
    EXPECT(!simulate(a, h, 2, &s, &seen, &e));
    EXPECT_INT(e.code, EXIT_MISMATCH);
    EXPECTF(strstr(e.text, who) && strstr(e.text, what), "%s", e.text);
    arena_free(a);
}

TEST(deadlocks_name_ranks_and_instructions)
{
    struct hand h[2];
    for (int r = 0; r < 2; r++)
        begin(&h[r], 2, 1);
    emit(&h[0], LIST_MICRO, RUN_ROUTE, "first route", 10);
    expect_deadlock(h, "rank 0 waits in route (first route) for rank 1", "at the end");
    emit(&h[1], LIST_MICRO, RUN_NORM_SUM, "norm", 1); /* a group of the same ranks, but another */
    emit(&h[1], LIST_MICRO, RUN_ROUTE, "first route", 10);
    emit(&h[0], LIST_MICRO, RUN_NORM_SUM, "norm", 1);
    expect_deadlock(h, "rank 0 waits in route (first route) for rank 1", "in norm");
    begin(&h[1], 2, 1);
    emit(&h[1], LIST_MICRO, RUN_RETURN, "rows", 10); /* the same group, something else */
    expect_deadlock(h, "rank 0", "return (rows)");
    begin_stage(&h[0], 0, 9); /* it waits for another message than is sent */
    begin_stage(&h[1], 1, 8);
    expect_deadlock(h, "rank 0 waits in pass in (backward)", "rank 1 never sends");
}

TEST(live_bytes_follow_lifetimes)
{
    struct arena *a = arena_new("simulate");
    struct hand h;
    begin(&h, 1, 1);
    for (int i = 0; i < 3; i++)
        emit(&h, LIST_MICRO, RUN_ZERO, "x", 1);
    emit(&h, LIST_UPDATE, RUN_ZERO, "y", 1);
    struct buffer buffers[] = { { .bytes = 1000, .first = 2, .last = INT_MAX },
                                { .bytes = 10, .first = 1, .last = 2 },
                                { .bytes = 5, .first = 2, .last = 3 },
                                { .bytes = 1, .first = 4, .last = 4 },
                                { .bytes = 7, .first = -1 } };
    h.p.buffers = buffers;
    h.p.n_buffers = 5;
    const int64_t *live = sched_live_bytes(a, &h.p), want[] = { 1010, 1015, 1005, 1001 };
    for (int i = 0; i < 4; i++)
        EXPECT_INT(live[i], want[i]);
    arena_free(a);
}
