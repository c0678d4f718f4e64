/* search.c - see search.h. What is excluded without being lowered cannot win: its states alone are larger than the
 * memory, or what its like takes without any collective and without repeating anything is slower than the best found. */
#include "plan/search.h"
#include "base/pool.h"
#include "plan/fit.h"
#include "plan/floor.h"
#include "plan/found.h"
#include "plan/limits.h"
#include "plan/queue.h"
#include <math.h>

/* For all rows, and half as much again; where two rounds travel beside each other, for half of that. */
static int64_t default_rows(const struct plan *p, const struct plan_limits *l, int64_t token_copies,
                            int64_t experts)
{
    if (p->expert_parallel == 1)
        return 0;
    const int64_t sequences = p->micro_batch * p->width_parallel, segment = sequences * p->sequence,
                  mean = sequences * token_copies; /* rows received when routing is even */
    const int64_t pads = p->tile > 1 ? experts * (p->tile - 1) : 0, all = mean + mean / 2 + pads;
    int64_t rows = plan_at_once(p) > 1 && p->numbers.backend == CUDA ? all / 2 : all;
    if (plan_whole_segments(p) && rows < segment)
        rows = segment;
    if (l->row_capacity)
        rows = l->row_capacity;
    return (rows + p->tile - 1) / p->tile * p->tile;
}

static bool try(struct space *s, struct plan *p, struct err *e)
{
    int64_t least = 0;
    const struct plan_judge *j = s->judge;
    p->row_capacity = default_rows(p, s->l, s->token_copies, s->experts);
    p->lodgers = s->l->lodgers > 0 ? s->l->lodgers : 0;
    if (!plan_check(p, NULL, e) || (j->least_bytes && !j->least_bytes(j->context, p, &least, e)))
        return false;
    if (s->for_smallest)
        return fit_smallest(s, p, least, e);
    s->out->n_candidates++;
    p->memory.peak_bytes = least;
    if (!fit_has_room(s, p)) {
        s->out->n_too_large++;
        return true;
    }
    if (fit_too_slow(s, s->floor_us)) {
        s->out->n_too_slow++;
        return true;
    }
    if (!fit_measure(s, p, e))
        return false;
    if (fit_too_slow(s, p->cost.step_us))
        s->out->n_too_slow++;
    else if (fit_has_room(s, p))
        found_keep(s->out->best, &s->out->n, p);
    else
        s->out->n_too_large++;
    return true;
}

/* More is split only where less does not fit without repeating anything: it costs time, and gains nothing but memory. */
static bool try_levels(struct space *s, struct plan p, struct err *e)
{
    const int fixed = p.zero_ranks == 1 ? 0 : s->l->zero, last = p.zero_ranks == 1 ? 0 : 3;
    for (int level = fixed >= 0 ? fixed : 1; level <= (fixed >= 0 ? fixed : last); level++) {
        struct plan tried = p;
        tried.zero = level;
        if (!try(s, &tried, e))
            return false;
        const bool may_keep = s->l->keep_rows == KEEP_AUTO && !tried.keep_rows && tried.cost.kept_us > 0 &&
                              !fit_cannot_win(s, tried.cost.step_us - tried.cost.kept_us);
        const bool enough = tried.cost.step_us > 0 && fit_has_room(s, &tried) &&
                            tried.recompute <= tried.recompute_least && !may_keep;
        if (!s->for_smallest && (enough || fit_too_slow(s, s->floor_us)))
            break;
    }
    return true;
}

/* Of work that nothing is known of: a bound that excludes nothing, and is there (0 would be asked for again). Of work that splits
 * nothing: one that excludes all of its like. */
static const double unknown_us = 1e-9, never_us = INFINITY;

/* A micro-batch of the same work without a pipeline; its memory does not matter. */
static void look_at(const struct space *s, struct plan *one)
{
    const struct plan_bar nothing = { 0, -1, 1 };
    struct err why = { 0 };
    one->stages = one->chunks = one->zero_ranks = 1;
    one->accumulation = 1;
    one->zero = one->recompute = one->shards = 0;
    one->global_batch = one->micro_batch * plan_workers(one);
    one->row_capacity = default_rows(one, s->l, s->token_copies, s->experts);
    if (!plan_check(one, NULL, &why))
        one->cost.compute_us = unknown_us;
    else if (!s->judge->measure(s->judge->context, &nothing, one, &why))
        one->cost.compute_us = never_us;
}

static double stages_us(struct space *s, const struct plan *p)
{
    struct plan one = *p;
    const double us = fit_stages_floor(s, s->floors, p);
    if (us > 0)
        return us;
    look_at(s, &one);
    s->out->n_measured++;
    floor_note(s->noted, &one);
    return fit_stages_floor(s, s->noted, p);
}

static bool try_zero(struct space *s, struct plan p, struct err *e)
{
    const int choices[3] = { 1, plan_unit_workers(&p), plan_workers(&p) };
    s->floor_us = p.stages > 1 && s->l->any_stages ? stages_us(s, &p) : 0;
    for (int i = 0; i < 3; i++) {
        const bool on = choices[i] > 1;
        if ((i > 0 && choices[i] == choices[i - 1]) || (s->l->zero == 0 && on) ||
            (s->l->zero > 0 && !on && plan_workers(&p) > 1))
            continue;
        p.zero_ranks = choices[i];
        if (!try_levels(s, p, e))
            return false;
    }
    return true;
}

/* The vocabulary whole or split, as the user says; or both: split gains memory, and less of it is to be added up. It does not
 * compute or exchange less. */
static bool try_vocabulary(struct space *s, struct plan p, struct err *e)
{
    const enum split_choice wanted = p.tensor_parallel == 1 ? SPLIT_OFF : s->l->vocabulary;
    struct err why = { 0 };
    p.vocabulary_parallel = 1;
    if (wanted != SPLIT_ON && !try_zero(s, p, e))
        return false;
    if (wanted == SPLIT_AUTO && fit_too_slow(s, s->floor_us) && !s->for_smallest)
        return true;
    p.vocabulary_parallel = p.tensor_parallel;
    return wanted == SPLIT_OFF || try_zero(s, p, wanted == SPLIT_ON ? e : &why) || wanted == SPLIT_AUTO;
}

/* Sums have another order where the width of experts is split: where bits matter, only where it is asked for. */
static enum split_choice widths_of(const struct space *s, const struct plan *p)
{
    if (p->tensor_parallel == 1 || s->experts == 0)
        return SPLIT_OFF;
    const bool not_timed = p->numbers.backend == CUDA;
    return s->l->widths == SPLIT_AUTO && (p->reproducible || not_timed) ? SPLIT_OFF : s->l->widths;
}

/* Whole and split: that gains memory, and time where less to add up outweighs tokens of all members. */
static bool try_widths(struct space *s, struct plan p, struct err *e)
{
    const enum split_choice wanted = widths_of(s, &p);
    const int64_t together = (int64_t)p.expert_parallel * p.tensor_parallel;
    struct err why = { 0 };
    p.width_parallel = 1;
    if (wanted != SPLIT_ON && !try_vocabulary(s, p, e))
        return false;
    if (wanted == SPLIT_OFF || plan_unit_workers(&p) % together)
        return true;
    p.width_parallel = p.tensor_parallel;
    return try_vocabulary(s, p, wanted == SPLIT_ON ? e : &why) || wanted == SPLIT_AUTO;
}

/* Candidates of one micro-batch and two degrees. */
struct unit {
    struct plan p;
    struct search_result found;
    struct floors noted;
    struct err why;
    bool ok;
};

/* Units of a wave are tried at once, and know of what those of earlier waves found: so that nothing depends on the number
 * of threads. */
enum { WAVE = 8 };
struct wave {
    const struct space *s;
    int n;
    struct unit unit[WAVE];
};

static void try_unit(void *context, int64_t i)
{
    const struct wave *w = context;
    struct unit *u = &((struct wave *)context)->unit[i];
    struct space s = *w->s;
    u->found = (struct search_result){ 0 };
    u->noted.n = 0;
    u->why = (struct err){ 0 };
    s.before = w->s->out;
    s.noted = &u->noted;
    s.out = &u->found;
    u->ok = try_widths(&s, u->p, &u->why);
}

static bool try_wave(struct wave *w, struct err *e)
{
    pool_run(w->n, try_unit, w);
    for (int i = 0; i < w->n; i++) {
        const struct unit *u = &w->unit[i];
        found_merge(w->s->out, &u->found);
        floor_merge(w->s->noted, &u->noted);
        if (u->ok || (w->s->l->tensor_parallel == 0 && u->p.tensor_parallel > 1))
            continue; /* this degree may split nothing of this model */
        if (w->s->l->stages == 0 && u->p.stages > 1)
            continue; /* nobody asked for a pipeline, and it cannot be cut so */
        *e = u->why;
        return false;
    }
    w->n = 0;
    return true;
}

struct looks {
    const struct space *s;
    struct plan *one;
};

static void look_at_one(void *context, int64_t i)
{
    const struct looks *l = context;
    look_at(l->s, &l->one[i]);
}

/* What the same work takes without a pipeline, where that was not tried. */
static void look_without(struct space *s, struct queue *q)
{
    struct looks l = { s, ARENA_NEW(q->arena, struct plan, q->n + 1) };
    struct floors *wanted = ARENA_NEW(q->arena, struct floors, 1);
    int n = 0;
    for (int i = 0; i < q->n; i++) {
        struct plan *p = &q->item[i].p;
        p->vocabulary_parallel = p->width_parallel = 1;
        l.one[n] = *p;
        l.one[n].stages = 1;
        l.one[n].cost.compute_us = 1;
        if (fit_stages_floor(s, s->floors, p) > 0 || fit_stages_floor(s, wanted, p) > 0)
            continue;
        floor_note(wanted, &l.one[n++]);
    }
    pool_run(n, look_at_one, &l);
    s->out->n_measured += n;
    for (int i = 0; i < n; i++)
        floor_note(s->noted, &l.one[i]);
    for (int i = 0; i < q->n; i++)
        q->item[i].us = fit_stages_floor(s, s->floors, &q->item[i].p);
}

static bool try_queue(struct space *s, struct queue *q, struct err *e)
{
    struct wave *w = ARENA_NEW(q->arena, struct wave, 1);
    w->s = s;
    for (int i = 0; i < q->n; i++) {
        const struct queued *x = &q->item[i];
        if (fit_too_slow(s, x->us) && widths_of(s, &x->p) == SPLIT_OFF) {
            s->out->n_candidates++;
            s->out->n_too_slow++;
            continue;
        }
        w->unit[w->n++].p = x->p;
        if (w->n == WAVE && !try_wave(w, e))
            return false;
    }
    return try_wave(w, e);
}

/* One number of stages, and of parts of each. */
static bool try_length(struct space *s, struct plan p, struct err *e)
{
    struct arena *a = arena_new("candidates");
    struct queue q = { .arena = a, .limits = s->l, .experts = s->experts };
    queue_add(&q, p);
    const bool ok = try_queue(s, &q, e);
    arena_free(a);
    return ok;
}

/* Pipelines that nobody asked for: those that take least at least come first, and exclude most of the others. */
enum { FREE_STAGES = 16, FREE_PARTS = 32, FREE_CHUNKS = 4 };
static bool try_pipelines(struct space *s, struct plan p, struct err *e)
{
    struct arena *a = arena_new("candidates");
    struct queue q = { .arena = a, .limits = s->l, .experts = s->experts, .busy_stages = true };
    for (p.stages = 2; p.stages <= p.unit_ranks && p.stages <= FREE_STAGES; p.stages++)
        for (p.chunks = 1;
             p.chunks <= FREE_CHUNKS && p.stages * p.chunks <= FREE_PARTS && queue_divides(s->l, &p);
             p.chunks *= 2)
            queue_add(&q, p);
    look_without(s, &q);
    queue_sort(&q);
    const bool ok = try_queue(s, &q, e);
    arena_free(a);
    return ok;
}

/* A pipeline where it is asked for. Else none, or any that is faster; and where nothing fits, the shortest with which anything does. */
static bool try_stages(struct space *s, struct plan p, struct err *e)
{
    const int asked = s->l->stages;
    for (p.stages = asked ? asked : 1; p.stages <= (asked ? asked : p.unit_ranks); p.stages++) {
        p.chunks = asked > 1 ? s->l->chunks : 1;
        if (queue_divides(s->l, &p) && !try_length(s, p, e))
            return false;
        if (p.stages == 1 && asked == 0 && s->l->any_stages && !s->for_smallest && !try_pipelines(s, p, e))
            return false;
        if (s->out->n > 0)
            break;
    }
    return true;
}

struct finish {
    const struct space *s;
    bool ok[2 * SEARCH_KEEP];
    struct err why[2 * SEARCH_KEEP];
};

static void finish_one(void *context, int64_t i)
{
    struct finish *f = context;
    struct search_result *out = f->s->out;
    f->ok[i] = f->s->judge->measure(f->s->judge->context, &fit_no_bar,
                                    i < out->n ? &out->best[i] : &out->larger[i - out->n], &f->why[i]);
}

/* What is told is measured to the end: the plans, and those that are faster than the first of them, but do not fit. *fit:
 * the plans do, as they were taken to. */
static bool finish(const struct space *s, bool *fit, struct err *e)
{
    struct search_result *out = s->out;
    struct finish f = { .s = s };
    while (out->n_larger > 0 && out->larger[out->n_larger - 1].cost.step_us >= out->best[0].cost.step_us)
        out->n_larger--;
    pool_run(out->n + out->n_larger, finish_one, &f);
    out->n_measured += out->n + out->n_larger;
    *fit = true;
    for (int i = 0; i < out->n + out->n_larger; i++) {
        if (!f.ok[i]) {
            *e = f.why[i];
            return false;
        }
        *fit = *fit && (i >= out->n || fit_has_room(s, &out->best[i]));
    }
    return true;
}

/* plan_check() speaks of a plan that was read; here options made it. */
static bool blame_options(struct err *e)
{
    if (e->code == EXIT_INPUT)
        e->code = EXIT_USAGE;
    return false;
}

static bool search(struct space *s, const struct plan *p, struct err *e)
{
    struct search_result *out = s->out;
    bool fit = true;
    *out = (struct search_result){ 0 };
    if (!try_stages(s, *p, e))
        return blame_options(e);
    if (out->n_candidates == 0)
        return limits_forbid_all(s->l, e);
    if (out->n > 0 && !finish(s, &fit, e))
        return false;
    if (out->n > 0 && fit)
        return true;
    if (!fit) {
        s->careful = true;
        return search(s, p, e);
    }
    if (s->l->below_us > 0)
        return err_set(e, "no plan is faster");
    s->for_smallest = true;
    return try_stages(s, *p, e) && limits_too_small(s->l, &out->smallest, out->n_candidates, e);
}

bool search_plan(const struct plan *base, const struct plan_limits *l, int64_t experts, int64_t token_copies,
                 const struct plan_judge *judge, struct search_result *out, struct err *e)
{
    const struct search_result nothing = { 0 };
    struct plan_limits limits = *l;
    if (l->lodgers > 0)
        limits.stages = limits.expert_parallel = 1;
    struct arena *a = arena_new("floors");
    struct floors *f = ARENA_NEW(a, struct floors, 1);
    struct space s = { .l = &limits,
                       .experts = experts,
                       .token_copies = token_copies,
                       .judge = judge,
                       .before = &nothing,
                       .floors = f,
                       .noted = f,
                       .out = out };
    struct plan p = *base;
    p.n_ranks = l->n_ranks;
    p.global_batch = l->global_batch;
    p.unit_ranks = l->unit_ranks ? l->unit_ranks : l->n_ranks;
    const bool ok = limits_check(l, experts, e) && search(&s, &p, e);
    arena_free(a);
    return ok;
}
