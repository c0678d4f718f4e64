/* Pipelines: every part of every micro-batch runs once each way, in an order in which nobody waits for ever. */
#include "sched/pipeline.h"
#include "tests/test.h"
#include <stdlib.h>
#include <string.h>

struct run {
    int stages, parts;
    int64_t micro, n;
    struct pipeline_step *order; /* [stages][n] */
    bool *done;                  /* [virtual stages][micro][2] */
};

/* Messages of one kind that a stage may have under way: its outbox (run/exec.c) has room for two. */
enum { UNDER_WAY = 2 };

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

/* A step ends with a message, which has room when that of the micro-batch UNDER_WAY before it was taken: when the step
 * that reads it has begun. One that waits for its inputs has not. */
static bool has_room(const struct run *r, int stage, const struct pipeline_step *s)
{
    const int v = s->part * r->stages + stage, last = r->stages * r->parts - 1,
              next = s->backward ? v - 1 : v + 1;
    return next < 0 || next > last || s->micro < UNDER_WAY ||
           *cell(r, next, s->micro - UNDER_WAY, s->backward);
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
