/* floor.c - see floor.h. */
#include "plan/floor.h"
#include <math.h>

double floor_of(const struct plan *p)
{
    return p->cost.compute_us + p->cost.exchange_us - p->cost.kept_us;
}

static struct floor floor_at(const struct plan *p, double us)
{
    return (struct floor){ p->micro_batch,         p->expert_parallel, p->tensor_parallel,
                           p->vocabulary_parallel, p->width_parallel,  us };
}

/* Index of the same work, or f->n. */
static int find(const struct floors *f, const struct floor *x)
{
    int i = 0;
    while (i < f->n &&
           !(f->of[i].micro_batch == x->micro_batch && f->of[i].expert_parallel == x->expert_parallel &&
             f->of[i].tensor_parallel == x->tensor_parallel &&
             f->of[i].vocabulary_parallel == x->vocabulary_parallel &&
             f->of[i].width_parallel == x->width_parallel))
        i++;
    return i;
}

static void note(struct floors *f, const struct floor *x)
{
    const int i = find(f, x);
    if (i < f->n)
        f->of[i].us = fmin(f->of[i].us, x->us);
    else if (f->n < FLOORS)
        f->of[f->n++] = *x;
}

void floor_note(struct floors *f, const struct plan *p)
{
    const struct floor x = floor_at(p, floor_of(p) / (double)p->accumulation);
    if (p->stages == 1)
        note(f, &x);
}

void floor_merge(struct floors *f, const struct floors *found)
{
    for (int i = 0; i < found->n; i++)
        note(f, &found->of[i]);
}

double floor_of_stages(const struct floors *f, const struct plan *p, bool waits)
{
    const struct floor x = floor_at(p, 0);
    const int i = find(f, &x);
    const double idle = waits ? (p->stages - 1) / (double)(p->accumulation * p->chunks) : 0;
    return i == f->n ? 0 : f->of[i].us * (double)p->accumulation / p->stages * (1 + idle);
}
