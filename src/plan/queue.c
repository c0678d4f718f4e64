/* queue.c - see queue.h. */
#include "plan/queue.h"
#include "plan/tree.h"
#include <stdlib.h>

static void add(struct queue *q, const struct plan *p)
{
    q->item = arena_grow(q->arena, q->item, q->n, &q->room, 64, sizeof *q->item);
    q->item[q->n++] = (struct queued){ 0, *p };
}

static void add_tensor(struct queue *q, struct plan p)
{
    const struct plan_limits *l = q->limits;
    for (int t = 1; t <= plan_unit_workers(&p); t++) {
        const bool fixed = l->tensor_parallel > 0;
        if (fixed ? t != l->tensor_parallel : plan_unit_workers(&p) % t)
            continue;
        if (l->max_degree && t > l->max_degree)
            continue;
        if (!fixed && t > 1 && p.reproducible)
            continue; /* sums have another order: only where it is asked for */
        p.tensor_parallel = t;
        if (plan_tree_fits(&p))
            add(q, &p);
    }
}

static void add_experts(struct queue *q, struct plan p)
{
    const struct plan_limits *l = q->limits;
    for (int ep = 1; ep <= plan_unit_workers(&p); ep++) {
        const bool fixed = l->expert_parallel > 0;
        if (fixed ? ep != l->expert_parallel
                  : plan_unit_workers(&p) % ep || (ep > 1 && q->experts == 0) ||
                        (q->experts && q->experts % ep))
            continue;
        if (l->max_degree && ep > l->max_degree)
            continue;
        if (!fixed && p.reproducible && (ep & (ep - 1)))
            continue;
        p.expert_parallel = ep;
        add_tensor(q, p);
    }
}

void queue_add(struct queue *q, struct plan p)
{
    const struct plan_limits *l = q->limits;
    const int64_t share = l->global_batch / plan_workers(&p);
    for (int64_t b = 1; b <= share; b++) {
        if (share % b || (l->micro_batch && b * plan_unit_workers(&p) != l->micro_batch) ||
            (!l->micro_batch && b > 64) || (p.chunks > 1 && share / b % p.stages) ||
            (q->busy_stages && share / b < p.stages))
            continue;
        p.micro_batch = b;
        p.accumulation = share / b;
        add_experts(q, p);
    }
}

bool queue_divides(const struct plan_limits *l, const struct plan *p)
{
    return p->unit_ranks % p->stages == 0 && l->global_batch % plan_workers(p) == 0 &&
           (l->micro_batch == 0 || l->micro_batch % plan_unit_workers(p) == 0);
}

static int by_time(const void *x, const void *y)
{
    const struct queued *a = x, *b = y;
    if (a->us != b->us)
        return a->us < b->us ? -1 : 1;
    const int64_t of[][2] = { { a->p.stages, b->p.stages },
                              { a->p.chunks, b->p.chunks },
                              { a->p.micro_batch, b->p.micro_batch },
                              { a->p.expert_parallel, b->p.expert_parallel },
                              { a->p.tensor_parallel, b->p.tensor_parallel } };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (of[i][0] != of[i][1])
            return of[i][0] < of[i][1] ? -1 : 1;
    return 0;
}

void queue_sort(struct queue *q)
{
    qsort(q->item, (size_t)q->n, sizeof *q->item, by_time);
}
