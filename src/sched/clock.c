/* clock.c - see clock.h. Communication waits for nothing that stands behind it, so whatever compute waits for is its group
 * that comes, or an instruction that runs: there are no other gaps. */
#include "sched/clock.h"
#include "base/arena.h"
#include <math.h>

void clock_new(struct arena *a, const struct program *p, struct clock *c)
{
    int n = 0;
    for (int k = 0; k < LISTS; k++)
        n = p->list[k].n > n ? p->list[k].n : n;
    c->one_lane = p->plan.numbers.backend == CPU;
    c->come_us = ARENA_NEW(a, double, n + 1);
    c->begin_us = ARENA_NEW(a, double, n + 1);
    c->end_us = ARENA_NEW(a, double, n + 1);
}

bool clock_beside(const struct clock *c, int i)
{
    return c->item[i].beside && !c->one_lane;
}

void clock_section(struct clock *c, const struct list *list, int from)
{
    c->item = list->item;
    c->shown = from;
    c->side_us = c->compute_us;
}

static void wait_until(struct clock *c, int index, bool for_group, double begin_us, double end_us)
{
    const double us = end_us - fmax(c->compute_us, begin_us);
    if (us <= 0)
        return;
    c->waited(c->context, index, for_group, us);
    c->compute_us = end_us;
}

static void wait_below(struct clock *c, int to)
{
    for (; c->shown < to; c->shown++)
        if (clock_beside(c, c->shown)) {
            wait_until(c, c->shown, true, c->come_us[c->shown], c->begin_us[c->shown]);
            wait_until(c, c->shown, false, c->begin_us[c->shown], c->end_us[c->shown]);
        }
}

double clock_come(struct clock *c, int i)
{
    const int after = c->item[i].after;
    if (clock_beside(c, i))
        return c->come_us[i] = after ? fmax(c->side_us, c->end_us[after - 1]) : c->side_us;
    wait_below(c, after);
    return c->compute_us;
}

void clock_run(struct clock *c, int i, double begin_us, double us)
{
    double *now_us = clock_beside(c, i) ? &c->side_us : &c->compute_us;
    c->begin_us[i] = begin_us;
    *now_us = c->end_us[i] = begin_us + us;
}

void clock_join(struct clock *c, int to)
{
    wait_below(c, to);
    c->side_us = c->compute_us;
}
