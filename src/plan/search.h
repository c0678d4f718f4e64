/* search.h - finds the fastest plan that fits. The space: stages x micro-batch x expert parallel x tensor parallel x ZeRO
 * (off, inside a unit, across units; levels) x recomputation, for the given number of ranks and scale units. A candidate is
 * lowered, so its memory is exact, unless a bound shows before that it cannot be among the best. */
#pragma once
#include "plan/plan.h"
/* Beyond which nobody asks how far. */
struct plan_bar {
    int64_t bytes,
        sure_bytes; /* sure: what is alive at once up to this is taken to fit without gaps between offsets */
    double us;
};
/* Given by the caller, because plan/ knows neither the model nor the schedule. Called by as many threads at a time as the
 * pool has; what it says depends on the candidate alone. */
struct plan_judge {
    /* Fills cost, memory and .recompute_* of a candidate (graph, lowering, clock). Where it takes bar->us or more, .memory
     * stays 0; where it needs more than bar->bytes, .memory.peak_bytes may be anything that is more, but not too much; and
     * anything less where that is at most bar->sure_bytes.
     * false: it cannot be built; err says why. */
    bool (*measure)(void *context, const struct plan_bar *bar, struct plan *p, struct err *e);
    /* Bytes that it needs at least, whatever is repeated; much cheaper. NULL = no such bound. */
    bool (*least_bytes)(void *context, struct plan *p, int64_t *bytes, struct err *e);
    void *context;
};
enum { SEARCH_KEEP = 6 };
struct search_result {
    int n; /* best first; at most SEARCH_KEEP */
    struct plan best[SEARCH_KEEP];
    int n_larger; /* that do not fit and are faster than best[0], fastest first: of those that were measured */
    struct plan larger[SEARCH_KEEP];
    struct plan smallest; /* where nothing fits: the least memory of all */
    int n_candidates;     /* of which: */
    int n_too_large,
        n_too_slow; /* without being lowered, or lowered once: they cannot fit; cannot be among the best */
    int n_measured; /* times that something was lowered */
};
/* base: n_ranks, sequence, head_chunk, reproducible, shards, tile and signatures set. `experts` 0 = dense model.
 * token_copies: rows of one sequence (S x K). Nothing fits: false with EXIT_MEMORY, by how much, and what would. */
bool search_plan(const struct plan *base, const struct plan_limits *l, int64_t experts, int64_t token_copies,
                 const struct plan_judge *judge, struct search_result *out, struct err *e);
/* Why `other` is not the plan: one sentence. */
void search_reason(const struct plan *best, const struct plan *other, char *text, size_t bytes);
