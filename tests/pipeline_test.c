/* Pipelines: every part of every micro-batch runs once each way, in an order in which nobody waits for ever. */
#include "plan/cut.h"
#include "sched/pipeline.h"
#include "sched/predict.h"
#include "sched/sched.h"
#include "tests/small_model.h"
#include "tests/test.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct run {
    int stages, parts;
    int64_t micro, n;
    struct pipeline_step *order; /* [stages][n] */
    bool *done;                  /* [virtual stages][micro][2] */
};

static bool *cell(const struct run *r, int virtual_stage, int64_t micro, bool backward)
{
    return &r->done[(virtual_stage * r->micro + micro) * 2 + backward];
}

/* What a step waits for: the virtual stage before it, and on the way back the one behind it and its own forward. */
static bool ready(const struct run *r, int stage, const struct pipeline_step *s)
{
    const int v = s->part * r->stages + stage, last = r->stages * r->parts - 1;
    if (!s->backward)
        return v == 0 || *cell(r, v - 1, s->micro, false);
    return *cell(r, v, s->micro, false) && (v == last || *cell(r, v + 1, s->micro, true));
}

/* A step ends with a message, which has room when that of the micro-batch PASS_COPIES before it was taken: when the step
 * that reads it has begun. One that waits for its inputs has not. */
static bool has_room(const struct run *r, int stage, const struct pipeline_step *s)
{
    const int v = s->part * r->stages + stage, last = r->stages * r->parts - 1,
              next = s->backward ? v - 1 : v + 1;
    return next < 0 || next > last || s->micro < PASS_COPIES ||
           *cell(r, next, s->micro - PASS_COPIES, s->backward);
}

static void check(int stages, int parts, int64_t micro)
{
    struct run r = { stages, parts, micro, 2 * parts * micro, NULL, NULL };
    int64_t *at = calloc((size_t)stages, sizeof *at), left = stages * r.n;
    r.order = calloc((size_t)(stages * r.n), sizeof *r.order);
    r.done = calloc((size_t)(stages * parts * micro * 2), sizeof *r.done);
    for (int s = 0; s < stages; s++)
        pipeline_order(stages, parts, micro, s, r.order + s * r.n);
    for (bool moved = true; moved;) {
        moved = false;
        for (int s = 0; s < stages; s++) {
            const struct pipeline_step *next = r.order + s * r.n + at[s];
            if (at[s] == r.n || !ready(&r, s, next) || !has_room(&r, s, next))
                continue;
            bool *done = cell(&r, next->part * stages + s, next->micro, next->backward);
            EXPECTF(!*done, "%d stages %d parts: a step runs twice", stages, parts);
            *done = moved = true;
            at[s]++;
            left--;
        }
    }
    EXPECTF(left == 0, "%d stages, %d parts, %lld micro-batches: stuck with %lld steps left", stages, parts,
            (long long)micro, (long long)left);
    for (int s = 0; parts == 1 && s < stages; s++) {
        const int64_t behind = stages - s, most = behind < micro ? behind : micro;
        EXPECT_INT(pipeline_in_flight(r.order + s * r.n, r.n, 0), most);
    }
    free(at);
    free(r.order);
    free(r.done);
}

TEST(every_step_once_and_no_deadlock)
{
    for (int stages = 1; stages <= 8; stages++)
        for (int64_t micro = 1; micro <= 17; micro++)
            check(stages, 1, micro);
    for (int stages = 2; stages <= 4; stages++)
        for (int parts = 2; parts <= 4; parts++)
            for (int64_t groups = 1; groups <= 4; groups++)
                check(stages, parts, groups * stages);
}

/* Ways of messages as NCCL has them: what a rank asks of one begins in that order, and both ends of a message wait for each
 * other. A rank itself goes on behind what it sends, until it needs the copy again; and waits for what it receives. */
enum { MOST_STAGES = 4, MOST_WAYS = 4 };
struct asked { /* of a way */
    const struct instr *in;
    struct asked *next;
};
struct stage {
    struct program p;
    struct pipeline_step *order;
    int64_t turn;
    int index;
    bool asked; /* what stands at `index` */
    struct asked *first[MOST_WAYS];
    int *under_way; /* by outbox */
};
/* Number of the way that a message takes on this rank. */
typedef int way_of(const struct instr *in);

static int way_of_its_own(const struct instr *in)
{
    return 2 * (in->tag % 2) + (in->kind == RUN_PASS_IN);
}

static int way_by_direction(const struct instr *in)
{
    return in->tag % 2;
}

static int one_way(const struct instr *in)
{
    (void)in;
    return 0;
}

static struct section section_of(const struct stage *s)
{
    const struct pipeline_step *step = &s->order[s->turn];
    return step->backward ? s->p.backward[step->part] : s->p.forward[step->part];
}

/* The next message that the rank comes to; NULL: it has ended. */
static const struct instr *next_message(struct stage *s, int64_t n_turns)
{
    for (; s->turn < n_turns; s->turn++, s->index = 0) {
        const struct section run = section_of(s);
        for (; s->index < run.to - run.from; s->index++) {
            const struct instr *in = &s->p.list[LIST_MICRO].item[run.from + s->index];
            if (in->kind == RUN_PASS_OUT || in->kind == RUN_PASS_IN)
                return in;
        }
    }
    return NULL;
}

/* Both ends have come to the head of their ways. */
static bool transfer(struct stage *all, int n, way_of *way)
{
    for (int r = 0; r < n; r++)
        for (int k = 0; k < MOST_WAYS; k++) {
            struct asked *out = all[r].first[k];
            if (!out || out->in->kind != RUN_PASS_OUT)
                continue;
            struct stage *other = &all[out->in->peer];
            const struct instr back = { .kind = RUN_PASS_IN, .tag = out->in->tag };
            const int at = way(&back);
            struct asked *in = other->first[at];
            if (!in || in->in->kind != RUN_PASS_IN || in->in->peer != r ||
                in->in->tag % 2 != out->in->tag % 2)
                continue;
            EXPECTF(in->in->tag == out->in->tag && in->in->n == out->in->n, "%s arrives as %s", out->in->name,
                    in->in->name);
            all[r].under_way[out->in->box]--;
            all[r].first[k] = out->next;
            other->first[at] = in->next;
            return true;
        }
    return false;
}

static void ask(struct arena *a, struct stage *s, const struct instr *in, int way)
{
    struct asked **end = &s->first[way];
    while (*end)
        end = &(*end)->next;
    *end = ARENA_NEW(a, struct asked, 1);
    **end = (struct asked){ in, NULL };
}

static bool is_asked(const struct stage *s, const struct instr *in, int way)
{
    for (const struct asked *x = s->first[way]; x; x = x->next)
        if (x->in == in)
            return true;
    return false;
}

/* The rank comes to its next message, or goes on behind it. */
static bool advance(struct arena *a, struct stage *s, int64_t n_turns, way_of *way)
{
    const struct instr *in = next_message(s, n_turns);
    if (!in)
        return false;
    if (in->kind == RUN_PASS_OUT) {
        if (s->under_way[in->box] == PASS_COPIES)
            return false;
        s->under_way[in->box]++;
        ask(a, s, in, way(in));
    } else if (!s->asked) {
        ask(a, s, in, way(in));
        s->asked = true;
        return true;
    } else if (is_asked(s, in, way(in))) {
        return false;
    }
    s->asked = false;
    s->index++;
    return true;
}

static void lower_stages(struct arena *a, struct plan *p, struct stage *all)
{
    static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };
    struct model_config m = small_model(96, 32);
    struct model_values v;
    struct cluster c;
    struct err e = { 0 };
    const struct model_options o = { .batch = 1, .sequence = p->sequence, .vocabulary_parts = 1 };
    m.layers = 8;
    const struct graph *g = deepseek_v2_graph(a, &m, &o, &v);
    cluster_cpu(&c, 1, 1, 1);
    EXPECTF(cut_choose(g, &c, NULL, p, &e) && plan_check(p, g, &e), "%s", e.text);
    for (int r = 0; r < p->n_ranks; r++) {
        sched_lower(a, g, p, r, true, &adam, &all[r].p);
        all[r].under_way = ARENA_NEW(a, int, all[r].p.n_outboxes);
        all[r].order = ARENA_NEW(a, struct pipeline_step, 2 * p->chunks * p->accumulation);
        pipeline_order(p->stages, p->chunks, p->accumulation, r, all[r].order);
    }
}

/* Do all ranks reach the end? */
static bool all_arrive(int stages, int chunks, int64_t micro, way_of *way)
{
    struct arena *a = arena_new("messages");
    struct stage all[MOST_STAGES] = { 0 };
    struct plan p = one_rank_plan(1, 4, 1000);
    p.n_ranks = p.unit_ranks = p.stages = stages;
    p.chunks = chunks;
    p.accumulation = p.global_batch = micro;
    lower_stages(a, &p, all);
    bool moved = true, ended = true;
    while (moved) {
        moved = transfer(all, stages, way);
        for (int r = 0; r < stages; r++)
            moved |= advance(a, &all[r], 2 * chunks * micro, way);
    }
    for (int r = 0; r < stages; r++)
        ended &= all[r].turn == 2 * chunks * micro;
    arena_free(a);
    return ended;
}

/* Each direction between two ranks has a way of its own: whatever waits there waits for nothing else. With fewer ways ranks
 * wait for ever: neighbours that send to each other first; or, interleaved, the last stage that sends to the first one. */
TEST(messages_arrive_by_ways_of_their_own)
{
    for (int stages = 2; stages <= MOST_STAGES; stages++)
        for (int chunks = 1; stages * chunks <= 8 && chunks <= 3; chunks++)
            for (int groups = 1; groups <= 4; groups++)
                EXPECTF(all_arrive(stages, chunks, groups * stages, way_of_its_own),
                        "%d stages, %d chunks, %d micro-batches: stuck", stages, chunks, groups * stages);
    for (int micro = 1; micro <= 7; micro += 2)
        EXPECTF(all_arrive(3, 1, micro, way_of_its_own), "3 stages, %d micro-batches: stuck", micro);
    EXPECT(!all_arrive(2, 1, 4, one_way));
    EXPECT(!all_arrive(4, 1, 8, one_way));
    EXPECT(all_arrive(4, 1, 8, way_by_direction));
    EXPECT(!all_arrive(2, 2, 4, way_by_direction));
    EXPECT(!all_arrive(4, 2, 8, way_by_direction));
}

/* Is there room for all copies of a message, apart from that of other kinds, whatever the list? */
static void check_room(const struct program *p, const struct instr *in)
{
    const bool out = in->kind == RUN_PASS_OUT;
    EXPECT(in->ref[1].buffer >= 0 && in->ref[1].at_bytes == 0);
    EXPECT_INT(p->buffers[in->ref[1].buffer].bytes, pass_copy_bytes(in) * (out ? PASS_COPIES : 1));
    for (int k = 0; k < LISTS; k++)
        for (int i = 0; i < p->list[k].n; i++) {
            const struct instr *other = &p->list[k].item[i];
            const bool same = other->kind == in->kind && other->tag == in->tag;
            EXPECT(same ? other->box == in->box && other->ref[1].buffer == in->ref[1].buffer
                        : other->ref[1].buffer != in->ref[1].buffer);
        }
}

TEST(a_device_has_room_for_messages)
{
    struct arena *a = arena_new("messages");
    struct stage all[MOST_STAGES] = { 0 };
    struct plan p = one_rank_plan(1, 4, 1000);
    int n = 0;
    p.n_ranks = p.unit_ranks = p.stages = p.chunks = 2;
    p.accumulation = p.global_batch = 4;
    p.numbers = (struct numbers){ CUDA, MASTER_SPLIT, MOMENTS_FLOAT, F32 };
    p.tile = plan_tile(CUDA, false);
    lower_stages(a, &p, all);
    for (int r = 0; r < 2; r++)
        for (int k = 0; k < LISTS; k++)
            for (int i = 0; i < all[r].p.list[k].n; i++) {
                const struct instr *in = &all[r].p.list[k].item[i];
                if (in->kind != RUN_PASS_OUT && in->kind != RUN_PASS_IN)
                    continue;
                check_room(&all[r].p, in);
                n++;
            }
    EXPECT_INT(n, 3 * 2 * 2 * 3); /* cuts, ends, values; forward, backward and evaluation */
    arena_free(a);
}

/* What NCCL takes for its ways is no memory of the slab. */
TEST(ways_take_memory_outside)
{
    const struct plan_limits l = { .memory_bytes = 1000, .way_bytes = 10 };
    struct plan p = { .stages = 1, .chunks = 1 };
    EXPECT_INT(plan_slab_limit(&l, &p), 1000);
    p.stages = 2;
    EXPECT_INT(plan_slab_limit(&l, &p), 980);
    p.chunks = 2;
    EXPECT_INT(plan_slab_limit(&l, &p), 960);
    p = (struct plan){ .stages = 3, .chunks = 1 };
    EXPECT_INT(plan_slab_limit(&l, &p), 960);
}

/* Equal stages wait for n - 1 of each part's forward and backward. */
static void expect_equal_stages(int stages, int parts, int64_t micro)
{
    double forward[64], backward[64];
    for (int i = 0; i < stages * parts; i++) {
        forward[i] = 3;
        backward[i] = 5;
    }
    EXPECT(fabs(pipeline_us(stages, parts, micro, forward, backward) -
                8.0 * (double)(micro * parts + stages - 1)) < 1e-6);
}

TEST(a_schedule_takes_its_time)
{
    const int64_t micros[] = { 1, 2, 5, 16, 17, 100 };
    for (int stages = 1; stages <= 8; stages++)
        for (int i = 0; i < 6; i++) {
            if (micros[i] >= stages)
                expect_equal_stages(stages, 1, micros[i]);
            expect_equal_stages(stages, 2, stages * micros[i]);
            expect_equal_stages(stages, 4, stages * micros[i]);
        }
    /* A slow stage works all the time but while the first micro-batch comes to it, and goes back from it to the first stage. */
    const double forward[] = { 1, 10, 1 }, backward[] = { 2, 20, 2 };
    EXPECT(fabs(pipeline_us(3, 1, 50, forward, backward) - (1 + 50 * 30 + 2)) < 1e-6);
}

static struct plan_cost cost_of(const double *each_us, double ranks_per_core)
{
    struct plan p = { .stages = 2, .chunks = 1, .accumulation = 4 };
    struct stage_times stage[2] = { 0 };
    const struct cluster c = { .ranks_per_core = ranks_per_core };
    struct plan_cost cost;
    for (int s = 0; s < 2; s++) {
        stage[s].forward_us[0] = each_us[s];
        stage[s].backward_us[0] = 2 * each_us[s];
        stage[s].cost = (struct plan_cost){ .compute_us = 12 * each_us[s], .step_us = 12 * each_us[s] };
    }
    sched_predict_pipeline(&p, stage, &c, &cost);
    return cost;
}

/* A rank that waits leaves its part of a core to those that compute. */
TEST(a_shared_core_does_not_wait)
{
    static const double even[] = { 1, 1 }, uneven[] = { 3, 1 };
    EXPECT(fabs(cost_of(even, 1).step_us - 15) < 1e-9 && fabs(cost_of(even, 1).bubble_us - 3) < 1e-9);
    EXPECT(fabs(cost_of(even, 2).step_us - 12) < 1e-9 && cost_of(even, 2).bubble_us == 0);
    EXPECT(fabs(cost_of(even, 1.1).step_us - 15 / 1.1) < 1e-9); /* not for longer than with a core for each */
    EXPECT(fabs(cost_of(uneven, 4).step_us - 36) < 1e-9);
}
