/* levels.h - whether a program fits, and a bound for what it would need with more recomputation: it would run the same
 * instructions and some more, so that whatever is alive at one of these moments would be alive there too; but for values
 * that are then made again, which are not between their last use in forward and their first in backward. Buffers of what
 * is under way beside others (lanes.h) are taken to be alive for as long there. */
#pragma once
#include "plan/search.h"
#include "sched/sched.h"
/* The least recomputation, above the program's own, with which the bound does not exceed `bytes`; recompute_most + 1:
 * none. */
int sched_next_level(struct arena *a, const struct program *x, int64_t bytes);
/* Raises .memory of p to that of x, whose offsets are assigned where the bar wants to know them; and .recompute_next where
 * it does not fit. */
void sched_fit(struct arena *a, struct program *x, const struct plan_bar *bar, struct plan *p);
