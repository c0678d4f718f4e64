/* simulation.h - `moec simulate`: a step of a plan on the null device (sched/simulate.h), as a table and a trace. */
#pragma once
#include "base/str.h"
#include "run/setup.h"
/* trace: file to write, or NULL; of the first `trace_ranks` ranks. json: numbers instead of the table. Up to 32 ranks
 * have lists of their own; of more, all run those of the rank that owns most. */
bool simulation_run(struct arena *a, const struct setup *s, const struct plan *p, const char *trace,
                    int trace_ranks, bool json, struct str *out, struct err *e);
