/* candidate.h - judges candidates for the search (plan/search.h): graph, cuts, layouts, lowering, clock. What they share is
 * kept from one to the next, apart for each of the threads that judge at a time. */
#pragma once
#include "run/setup.h"
struct candidates;
/* As many may be judged at a time as the pool has threads. */
struct candidates *candidates_new(struct arena *a, const struct setup *s);
void candidates_free(struct candidates *c);
struct plan_judge candidates_judge(struct candidates *c);
bool candidates_measure(struct candidates *c, struct plan *p, struct err *e); /* to the end, without a bar */
