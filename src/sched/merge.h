/* merge.h - which nodes a micro-batch runs as one call (op.h: both), where their backward stands: those with such a
 * kernel whose outputs nothing in the graph reads. */
#pragma once
#include "graph/graph.h"
bool merge_is(const struct graph *g, enum backend backend, int node);
