/* twins_test.c - rows of a token travel once to each member, on the host; collect_cuda_test.c has the same on a device. */
#include "device/device_impl.h"
#include "sched/predict.h"
#include "sched/sched.h"
#include "tests/small_model.h"
#include "tests/twins.h"

static const struct twins_case cases[] = {
    { 1, 1, 1, 1, 4, 1, TWINS_ANY },          { 1, 2, 4, 1, 4, 2, TWINS_ANY },
    { 50, 2, 8, 1, 12, 4, TWINS_ANY },        { 33, 6, 16, 8, 20, 2, TWINS_ANY },
    { 40, 6, 24, 8, 8, 3, TWINS_ANY },        { 64, 6, 64, 8, 36, 8, TWINS_ANY },
    { 20, 3, 12, 8, 8, 4, TWINS_ONE_MEMBER }, { 20, 3, 12, 8, 8, 4, TWINS_HALF_EMPTY },
    { 3, 2, 64, 128, 16, 8, TWINS_ANY },
};

TEST(a_row_that_travels_once_comes_to_all_its_places)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        twins_try(&device_cpu, &cases[i], device_pull_cpu);
}

TEST(tokens_of_one_member_travel_once)
{
    const struct twins_case one = { 20, 3, 12, 1, 8, 4, TWINS_ONE_MEMBER };
    EXPECT(twins_try(&device_cpu, &one, device_pull_cpu) == 20 * 4);
}

TEST(experts_on_other_ranks_share_nothing)
{
    const struct twins_case each = { 20, 4, 4, 1, 8, 4, TWINS_ANY }; /* every token has all four */
    EXPECT(twins_try(&device_cpu, &each, device_pull_cpu) == 20 * 4 * 4);
}

/* Microseconds of the first exchange of rows of the model's width that is sent in forward, on links that take time alone;
 * *once: may its rows travel once? */
static double send_us(const struct plan *p, const struct cluster *c, bool *once)
{
    static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };
    struct arena *a = arena_new("sends");
    const struct model_config m = small_model(64, 32);
    struct program x;
    double us = -1;
    *once = false;
    sched_lower(a, graph_for_plan(a, p, &m), p, 0, true, &adam, &x);
    for (int i = 0; i < x.list[LIST_MICRO].n && us < 0; i++) {
        const struct instr *in = &x.list[LIST_MICRO].item[i];
        if (in->kind == RUN_SEND && in->row_bytes == 32 * 4) {
            *once = in->copies == 2;
            us = sched_instr_us(&x, in, c);
        }
    }
    arena_free(a);
    return us;
}

TEST(the_prediction_knows_what_travels)
{
    struct plan p = one_rank_plan(8, 16, 100);
    struct cluster c;
    bool once;
    p.n_ranks = p.unit_ranks = p.expert_parallel = 4;
    p.micro_batch = 2;
    p.row_capacity = 64; /* the copies of 32 tokens */
    EXPECT(fabs(plan_rows_once(&p, 6) - 3 * (1 - pow(0.75, 6))) < 1e-12 && plan_rows_once(&p, 1) == 0.75);
    cluster_builtin("h200", &c);
    c.memory_bytes_per_s = INFINITY;
    const double row_us = 1e6 * 32 * 4 / c.inside.bytes_per_s[TRANSFER_EXCHANGE],
                 call_us = 3 * c.inside.latency_us;
    EXPECT(fabs(send_us(&p, &c, &once) - 32 * 3 * (1 - 0.75 * 0.75) * row_us - call_us) < 1e-9 && once);
    p.row_capacity = 63; /* two rounds: copies */
    EXPECT(fabs(send_us(&p, &c, &once) - 64 * 0.75 * row_us - 2 * call_us) < 1e-9 && once);
    p.row_capacity = 64;
    p.overlap = PLAN_AT_ONCE; /* two rounds at once, each with half of the rows */
    EXPECT(fabs(send_us(&p, &c, &once) - 32 * 0.75 * row_us - call_us) < 1e-9 && !once);
}
