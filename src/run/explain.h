/* explain.h - why a plan is the plan: the next best ones and what would have to change for each, and what more memory or
 * faster links would buy. Computed with the rates of the cluster, changed one at a time. */
#pragma once
#include "base/str.h"
#include "plan/search.h"
#include "run/setup.h"
enum { ALTERNATIVES = 5, PURCHASES = 6, EXPLAIN_TEXT = 320 };
struct alternative {
    struct plan plan;
    char why[EXPLAIN_TEXT];  /* how it differs in time and memory */
    char wins[EXPLAIN_TEXT]; /* the change that would make it the faster one, or that fits */
};
struct purchase {
    char what[64];
    double step_us;   /* of the best plan then */
    struct plan plan; /* it; n_ranks 0: the plan stays */
};
struct explanation {
    int n;
    struct alternative alternative[ALTERNATIVES];
    int n_purchases, n_skipped; /* skipped: searches for which there was no time */
    struct purchase purchase[PURCHASES];
    double seconds; /* that this took */
};
/* l: with its memory_bytes. found: of the search that gave p. seconds: no search for purchases begins after so long. */
void explain_plan(const struct setup *s, const struct plan_limits *l, const struct plan *p,
                  const struct search_result *found, double seconds, struct explanation *out);
/* Nodes whose names differ in the number of the layer only. */
struct node_kind {
    char name[96];  /* without "model.layers.N." */
    char split[96]; /* "tokens over 8 ranks" */
    const char *op;
    int n_nodes;
};
int explain_kinds(struct arena *a, const struct graph *g, const struct plan *p, struct node_kind **out);
/* g: of the plan. limit: bytes of a rank. */
void explain_text(struct str *out, const struct graph *g, const struct plan *p, const struct explanation *x);
void explain_json(struct str *out, const struct graph *g, const struct plan *p, const struct explanation *x);
/* One page without anything from elsewhere: ranks x layers, memory, the time of a step, alternatives. */
void explain_html(struct str *out, const struct setup *s, const struct graph *g, const struct plan *p,
                  const struct explanation *x, int64_t limit);
