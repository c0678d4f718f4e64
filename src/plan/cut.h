/* cut.h - where a graph may be cut into parts of a pipeline: between two nodes where all that crosses is cut by tokens
 * and is little: about what one residual sum and its addend are. What crosses a cut is made in the part before it and
 * read in the part behind it, nowhere else. */
#pragma once
#include "plan/plan.h"
/* Values made before node `at` and read by it or a later one; out has room for n_values. Returns how many. */
int cut_crossing(const struct graph *g, int at, value *out);
/* Nodes [from, to) may be a part where oldest[from] >= 0 and oldest[to] >= from. */
struct cut_places {
    int *
        oldest; /* by node, and behind the last: the first maker of what crosses in front of it; -1: no place to cut at */
    double *before; /* by node, and behind the last: microseconds of all nodes in front of it */
};
void cut_places(struct arena *a, const struct graph *g, const struct cluster *c,
                const struct numbers *numbers, struct cut_places *out);
/* Microseconds of a step of parts that take so long, forward and backward, for each micro-batch. */
typedef double cut_judge(const struct plan *p, const double *part_us);
/* Fills p->cut so that the slowest part takes the least time; and from there on as the judge finds it better (NULL: as that is), for
 * even parts are not always the fastest schedule. Too few places to cut at: false. */
bool cut_choose(const struct graph *g, const struct cluster *c, cut_judge *step_us, struct plan *p,
                struct err *e);
/* Cuts in ascending order at such places; a parameter in one part, or in the first and the last one. */
bool cut_check(const struct plan *p, const struct graph *g, struct err *e);
