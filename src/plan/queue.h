/* queue.h - what a search tries: micro-batches and degrees, by a number of stages and of parts of each. */
#pragma once
#include "plan/plan.h"
struct queue {
    struct arena *arena;
    const struct plan_limits *limits;
    int64_t experts;
    bool busy_stages; /* only pipelines of at least as many micro-batches as stages */
    int n, room;
    struct queued {
        double us; /* a step takes at least; 0: not known */
        struct plan p;
    } * item;
};
/* Do the stages of a plan divide ranks and sequences? */
bool queue_divides(const struct plan_limits *l, const struct plan *p);
/* The user's micro-batch, or every divisor of a worker's share of the step; the user's degrees, or all that divide a unit. */
void queue_add(struct queue *q, struct plan p);
void queue_sort(
    struct queue *q); /* by .us; what is alike by what it is, so that the order depends on nothing else */
