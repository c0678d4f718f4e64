/* measure_steps.h - what calls take in whole steps, on the CPU: a call that is repeated finds in the caches what the one before
 * it left. */
#pragma once
#include "plan/cluster.h"
#include "run/measure.h"
struct waits { /* of a step */
    double us; /* that exchanges took beyond what the links say: ranks come to them at different times */
    double messages;
};
/* Steps of m->engine, by all ranks together, no further ones after so many seconds: times of those calls that have none yet.
 * w, which may be NULL: against `links`. Returns the seconds of a step that this rank computed. */
double measure_steps(struct measure *m, struct arena *a, double enough_seconds, const struct cluster *links,
                     struct waits *w);
