/* floor.h - what candidates of a search take at least, by what decides the work of a micro-batch: its size and the degrees.
 * n stages of a pipeline compute and exchange in all what the same micro-batch does without one, in n times the micro-batches;
 * and they wait at both ends. */
#pragma once
#include "plan/plan.h"
enum { FLOORS = 4096 };
struct floors {
    int n;
    struct floor {
        int64_t micro_batch;
        int expert_parallel, tensor_parallel, vocabulary_parallel, width_parallel;
        double us; /* of one micro-batch */
    } of[FLOORS];
};
/* Microseconds of a step of a plan that repeats nothing; its collectives, optimizer and bubble may take any time from 0 on. */
double floor_of(const struct plan *p);
/* Of a plan without a pipeline; the least of those of the same work counts. Others are not noted. */
void floor_note(struct floors *f, const struct plan *p);
void floor_merge(struct floors *f, const struct floors *found);
/* Below which no step of the pipeline is; 0: not known. waits: a stage that waits leaves nothing to others. */
double floor_of_stages(const struct floors *f, const struct plan *p, bool waits);
