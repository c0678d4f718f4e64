/* found.c - see found.h. */
#include "plan/found.h"
#include <math.h>
#include <stdio.h>

void found_keep(struct plan *list, int *n, const struct plan *p)
{
    int at = *n;
    while (at > 0 && p->cost.step_us < list[at - 1].cost.step_us)
        at--;
    if (at >= SEARCH_KEEP)
        return;
    if (*n < SEARCH_KEEP)
        ++*n;
    for (int i = *n - 1; i > at; i--)
        list[i] = list[i - 1];
    list[at] = *p;
}

double found_last_us(const struct search_result *a, const struct search_result *b)
{
    double us = 0;
    if (a->n + b->n < SEARCH_KEEP)
        return INFINITY;
    for (int i = 0, j = 0; i + j < SEARCH_KEEP;)
        us = j == b->n || (i < a->n && a->best[i].cost.step_us <= b->best[j].cost.step_us)
                 ? a->best[i++].cost.step_us
                 : b->best[j++].cost.step_us;
    return us;
}

void found_merge(struct search_result *all, const struct search_result *found)
{
    for (int i = 0; i < found->n; i++)
        found_keep(all->best, &all->n, &found->best[i]);
    for (int i = 0; i < found->n_larger; i++)
        found_keep(all->larger, &all->n_larger, &found->larger[i]);
    if (found->smallest.n_ranks &&
        (all->smallest.n_ranks == 0 || found->smallest.memory.peak_bytes < all->smallest.memory.peak_bytes))
        all->smallest = found->smallest;
    all->n_candidates += found->n_candidates;
    all->n_too_large += found->n_too_large;
    all->n_too_slow += found->n_too_slow;
    all->n_measured += found->n_measured;
}

void search_reason(const struct plan *best, const struct plan *o, char *text, size_t bytes)
{
    const struct plan_cost *a = &best->cost, *b = &o->cost;
    const double parts[5] = { b->compute_us - a->compute_us, b->exchange_us - a->exchange_us,
                              b->reduce_us - a->reduce_us, b->optimizer_us - a->optimizer_us,
                              b->bubble_us - a->bubble_us };
    static const char *const names[5] = { "compute", "token exchange", "gradient and weight collectives",
                                          "optimizer", "the bubble of the pipeline" };
    int most = 0;
    for (int i = 1; i < 5; i++)
        if (parts[i] > parts[most])
            most = i;
    const double ms = (b->step_us - a->step_us) / 1e3,
                 mb = (double)(o->memory.peak_bytes - best->memory.peak_bytes) / 1e6;
    if (ms < 0)
        snprintf(text, bytes, "faster by %.1f ms a step; %+.1f MB of memory, which do not fit", -ms, mb);
    else
        snprintf(text, bytes, "slower by %.1f ms a step, %.1f ms of it in %s; %+.1f MB of memory", ms,
                 parts[most] / 1e3, names[most], mb);
}
