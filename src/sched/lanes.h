/* lanes.h - communication beside compute. With plan.overlap a rank works in two lanes: bulk communication, in the order of
 * the list, in one; everything else, in the order of the list too, in the other. Only `after` of an instruction holds a lane
 * back for the other one.
 *   Communication waits for the last instruction of compute that stands before it: it begins where it stands.
 *   Compute waits before the first instruction that needs what communication brings or overwrites what it still reads,
 * that is, conflicts with it (access.h). The end of a loop waits for all communication of the loop.
 *   Of sums of gradients and gathered weights, which nobody may need for long, two are under way at most.
 * Both lanes begin and end a section together. Between where it may begin and where it has surely ended, the buffers of an
 * instruction of communication are its own: lifetimes (memory.c) cover that span. */
#pragma once
#include "sched/sched.h"
/* Fills .beside, .after and .mark of all lists; instructions are in their final order. */
void lanes_make(struct program *p, struct arena *a);
/* Where an instruction may run, as others of its list stand around it: *first to *last, both inclusive. */
struct span {
    int first, last;
};
/* By instruction of a list; alone in its place where it is not beside. */
struct span *lanes_spans(struct arena *a, const struct program *p, enum list_kind which);
/* The sections of a list that are run at once, in their order; returns how many. out: [2 * PLAN_CHUNKS] */
int lanes_sections(const struct program *p, enum list_kind which, struct section *out);
