/* cut.h - where a graph may be cut into parts of a pipeline: between two nodes where all that crosses is cut by tokens
 * and is little: about what one residual sum and its addend are. What crosses a cut is made in the part before it and
 * read in the part behind it, nowhere else. */
#pragma once
#include "plan/plan.h"
/* Values made before node `at` and read by it or a later one; out has room for n_values. Returns how many. */
int cut_crossing(const struct graph *g, int at, value *out);
/* Fills p->cut so that the slowest part takes the least time. Too few places to cut at: false. */
bool cut_choose(const struct graph *g, const struct cluster *c, struct plan *p, struct err *e);
/* Cuts in ascending order at such places, and no parameter in two stages. */
bool cut_check(const struct plan *p, const struct graph *g, struct err *e);
