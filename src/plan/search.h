/* search.h - finds the fastest plan that fits. The space: expert parallel x tensor parallel x stages x ZeRO 0 to 3 (inside a unit, across
 * units) x micro-batch, for the given number of ranks and scale units. Every candidate is lowered, so its
 * memory is exact. */
#pragma once
#include "plan/plan.h"
/* Fills memory and cost of a candidate (graph, lowering, clock); given by the caller, because plan/ knows
 * neither the model nor the schedule. false: the candidate cannot be built; err says why. */
typedef bool plan_measure(void *context, struct plan *p, struct err *e);
enum { SEARCH_KEEP = 3 };
struct search_result {
    int n; /* best first; at most SEARCH_KEEP */
    struct plan best[SEARCH_KEEP];
    struct plan smallest; /* least memory among all candidates, also when nothing fits */
    int n_candidates, n_too_large;
};
/* base: n_ranks, sequence, head_chunk, reproducible, tile and signatures set. `experts` 0 = dense model.
 * token_copies: rows of one sequence (S x K). Nothing fits: false with EXIT_MEMORY, by how much, and what would. */
bool search_plan(const struct plan *base, const struct plan_limits *l, int64_t experts, int64_t token_copies,
                 plan_measure *measure, void *context, struct search_result *out, struct err *e);
/* Why `other` is not the plan: one sentence. */
void search_reason(const struct plan *best, const struct plan *other, char *text, size_t bytes);
