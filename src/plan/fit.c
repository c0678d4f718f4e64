/* fit.c - see fit.h. */
#include "plan/fit.h"
#include "plan/found.h"
#include <math.h>

const struct plan_bar fit_no_bar = { INT64_MAX, -1, INFINITY };

/* From this time on nothing can be kept any more. */
static double slow_us(const struct space *s)
{
    const double last = found_last_us(s->before, s->out);
    return s->l->below_us > 0 && s->l->below_us < last ? s->l->below_us : last;
}

bool fit_too_slow(const struct space *s, double us)
{
    return us >= slow_us(s);
}

bool fit_cannot_win(const struct space *s, double us)
{
    return (s->before->n > 0 && us >= s->before->best[0].cost.step_us) ||
           (s->out->n > 0 && us >= s->out->best[0].cost.step_us) || fit_too_slow(s, us);
}

static bool always_keeps(const struct space *s, const struct plan *p)
{
    return s->l->keep_rows == KEEP_ON && p->expert_parallel > 1;
}

static bool measure_with(const struct space *s, int recompute, struct plan *p, struct err *e)
{
    const int64_t most = plan_slab_limit(s->l, p);
    const struct plan_bar bar = { most, s->careful ? -1 : most - most / 16, slow_us(s) };
    p->recompute = recompute;
    s->out->n_measured++;
    if (!s->judge->measure(s->judge->context, s->for_smallest ? &fit_no_bar : &bar, p, e))
        return false;
    if (s->l->recompute < 0 && recompute < p->recompute_least)
        return measure_with(s, p->recompute_least, p, e);
    return true;
}

bool fit_has_room(const struct space *s, const struct plan *p)
{
    return p->memory.peak_bytes <= plan_slab_limit(s->l, p);
}

/* The least recomputation that fits: each that the bound of those before does not exclude. More of it is taken never to
 * need less time; memory may go up and down. */
static bool repeat_until_it_fits(const struct space *s, struct plan *p, struct err *e)
{
    while (!fit_has_room(s, p) && p->recompute_next > p->recompute && p->recompute_next <= p->recompute_most)
        if (!measure_with(s, p->recompute_next, p, e))
            return false;
    return true;
}

double fit_stages_floor(const struct space *s, const struct floors *f, const struct plan *p)
{
    return floor_of_stages(f, p, !s->l->shared_cores);
}

/* With as many lodgers as cost no time, where that is faster. They take host memory: not for less than a hundredth. */
static const double LEAST_GAIN = 0.01;

static bool try_lodgers(const struct space *s, const struct plan *first, struct plan *p, struct err *e)
{
    const bool fixed = s->l->recompute >= 0;
    struct plan other = *first;
    other.lodgers = first->lodgers_most;
    if (!measure_with(s, first->recompute, &other, e) || (!fixed && !repeat_until_it_fits(s, &other, e)))
        return false;
    if (fit_has_room(s, &other) && (!fit_has_room(s, p) || other.cost.step_us < p->cost.step_us))
        *p = other;
    return true;
}

/* With the rows of experts kept, where that fits too: then less is computed and exchanged. Only where that may be the best plan. */
static bool try_keeping(const struct space *s, const struct plan *first, struct plan *p, struct err *e)
{
    struct plan other = *first;
    if (s->l->keep_rows != KEEP_AUTO || first->cost.kept_us == 0 ||
        first->kept_bytes > plan_slab_limit(s->l, first) ||
        fit_cannot_win(s, first->cost.step_us - first->cost.kept_us))
        return true;
    other.keep_rows = true;
    if (!measure_with(s, first->recompute, &other, e))
        return false;
    if (!fit_has_room(s, &other))
        found_keep(s->out->larger, &s->out->n_larger, &other);
    else if (other.cost.step_us < first->cost.step_us)
        *p = other;
    return true;
}

bool fit_measure(struct space *s, struct plan *p, struct err *e)
{
    const bool fixed = s->l->recompute >= 0;
    p->keep_rows = always_keeps(s, p);
    if (!measure_with(s, fixed ? s->l->recompute : 0, p, e))
        return false;
    s->floor_us = fmax(floor_of(p), p->stages > 1 ? fit_stages_floor(s, s->floors, p) : 0);
    floor_note(s->noted, p);
    const struct plan first = *p;
    if (fit_has_room(s, p))
        return try_keeping(s, &first, p, e);
    found_keep(s->out->larger, &s->out->n_larger, p);
    if (!fixed && !repeat_until_it_fits(s, p, e))
        return false;
    const double gain_us = fit_has_room(s, p) ? p->cost.step_us - first.cost.step_us : INFINITY; /* at most */
    return s->l->lodgers >= 0 || first.lodgers_most == 0 || p->stages > 1 || p->expert_parallel > 1 ||
           fit_too_slow(s, first.cost.step_us) || gain_us < LEAST_GAIN * first.cost.step_us ||
           try_lodgers(s, &first, p, e);
}

bool fit_smallest(const struct space *s, struct plan *p, int64_t least, struct err *e)
{
    struct plan *smallest = &s->out->smallest;
    if (smallest->n_ranks == 0)
        *smallest = s->before->smallest;
    if (smallest->n_ranks && least >= smallest->memory.peak_bytes)
        return true;
    const bool fixed = s->l->recompute >= 0;
    p->keep_rows = always_keeps(s, p);
    if (!measure_with(s, fixed ? s->l->recompute : 0, p, e))
        return false;
    for (int i = 0; i < 2; i++) {
        if (smallest->n_ranks == 0 || p->memory.peak_bytes < smallest->memory.peak_bytes)
            *smallest = *p;
        if (fixed || i > 0 || p->recompute_most <= p->recompute)
            break;
        if (!measure_with(s, p->recompute_most, p, e))
            return false;
    }
    return true;
}
