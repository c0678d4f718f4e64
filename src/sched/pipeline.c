/* pipeline.c - see pipeline.h. */
#include "sched/pipeline.h"
#include "base/arena.h"
#include "base/err.h"

/* Forwards, or backwards, of a rank: micro-batches [first, first + stages) through one part, through the next one, and then
 * those behind them. Backward goes through the parts the other way round. */
struct turn {
    bool backward;
    int part, micro;
    int64_t first;
};

static struct pipeline_step next(struct turn *t, int stages, int parts)
{
    const struct pipeline_step s = { t->backward ? parts - 1 - t->part : t->part, t->first + t->micro,
                                     t->backward };
    if (++t->micro < stages)
        return s;
    t->micro = 0;
    if (++t->part < parts)
        return s;
    t->part = 0;
    t->first += stages;
    return s;
}

/* Forward steps before the first backward one. */
static int64_t warm_up(int stages, int parts, int64_t micro, int stage)
{
    const int64_t all = micro * parts, behind = stages - stage - 1,
                  wanted = parts == 1 ? behind : 2 * behind + (int64_t)(parts - 1) * stages;
    return wanted < all ? wanted : all;
}

void pipeline_order(int stages, int parts, int64_t micro, int stage, struct pipeline_step *out)
{
    const int64_t all = micro * parts, first = warm_up(stages, parts, micro, stage);
    struct turn forward = { .backward = false }, backward = { .backward = true };
    for (int64_t k = 0; k < first; k++)
        *out++ = next(&forward, stages, parts);
    for (int64_t k = first; k < all; k++) {
        *out++ = next(&forward, stages, parts);
        *out++ = next(&backward, stages, parts);
    }
    for (int64_t k = all - first; k < all; k++)
        *out++ = next(&backward, stages, parts);
}

struct walk { /* of all stages */
    int stages, parts;
    int64_t micro, n; /* n: steps of a stage */
    const double *us[2];
    double *done[2]; /* [parts * stages][micro]: when forward, backward ended; negative: not yet */
};

static double *done_at(const struct walk *w, bool backward, int virtual_stage, int64_t micro)
{
    return &w->done[backward][virtual_stage * w->micro + micro];
}

/* When what the step needs is there; negative: not yet. */
static double needs(const struct walk *w, int stage, const struct pipeline_step *s)
{
    const int v = s->part * w->stages + stage;
    if (s->backward)
        return v == w->parts * w->stages - 1 ? *done_at(w, false, v, s->micro)
                                             : *done_at(w, true, v + 1, s->micro);
    return v == 0 ? 0 : *done_at(w, false, v - 1, s->micro);
}

/* Runs what a stage can; returns how many steps. */
static int64_t go_on(const struct walk *w, int stage, const struct pipeline_step *order, int64_t *at,
                     double *free_at)
{
    const int64_t before = *at;
    for (; *at < w->n; ++*at) {
        const struct pipeline_step *s = &order[*at];
        const double from = needs(w, stage, s);
        if (from < 0)
            break;
        *free_at = (from > *free_at ? from : *free_at) + w->us[s->backward][stage * w->parts + s->part];
        *done_at(w, s->backward, s->part * w->stages + stage, s->micro) = *free_at;
    }
    return *at - before;
}

static double walk_us(struct arena *a, struct walk *w)
{
    struct pipeline_step *order = ARENA_NEW(a, struct pipeline_step, w->n * w->stages);
    int64_t *at = ARENA_NEW(a, int64_t, w->stages), left = w->n * w->stages;
    double *free_at = ARENA_NEW(a, double, w->stages), last = 0;
    for (int k = 0; k < 2; k++) {
        w->done[k] = ARENA_NEW(a, double, w->parts * w->stages * w->micro);
        for (int64_t i = 0; i < w->parts * w->stages * w->micro; i++)
            w->done[k][i] = -1;
    }
    for (int stage = 0; stage < w->stages; stage++)
        pipeline_order(w->stages, w->parts, w->micro, stage, order + stage * w->n);
    while (left > 0) {
        int64_t n = 0;
        for (int stage = 0; stage < w->stages; stage++)
            n += go_on(w, stage, order + stage * w->n, &at[stage], &free_at[stage]);
        CHECK(n > 0, "a schedule of %d stages that does not end", w->stages);
        left -= n;
    }
    for (int stage = 0; stage < w->stages; stage++)
        last = free_at[stage] > last ? free_at[stage] : last;
    return last;
}

/* From some micro-batches on each takes what the slowest stage does. */
double pipeline_us(int stages, int parts, int64_t micro, const double *forward_us, const double *backward_us)
{
    const int64_t enough = 4 * stages, n = micro < enough ? micro : enough + micro % stages;
    struct arena *a = arena_new("schedule");
    struct walk w = {
        .stages = stages, .parts = parts, .micro = n, .n = 2 * parts * n, .us = { forward_us, backward_us }
    };
    double slowest = 0;
    for (int stage = 0; stage < stages; stage++) {
        double us = 0;
        for (int part = 0; part < parts; part++)
            us += forward_us[stage * parts + part] + backward_us[stage * parts + part];
        slowest = us > slowest ? us : slowest;
    }
    const double us = walk_us(a, &w) + slowest * (double)(micro - n);
    arena_free(a);
    return us;
}

int64_t pipeline_in_flight(const struct pipeline_step *order, int64_t n, int part)
{
    int64_t now = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        if (order[i].part != part)
            continue;
        now += order[i].backward ? -1 : 1;
        most = now > most ? now : most;
    }
    return most;
}
