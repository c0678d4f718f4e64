/* report.h - what compile prints. */
#pragma once
#include "base/str.h"
#include "plan/search.h"
#include "run/setup.h"
/* found.n = 0: the plan was read from a file, nothing was searched. */
void report_plan(struct str *out, const struct setup *s, const struct plan *p,
                 const struct search_result *found, int64_t limit);
/* One line: how weights, master, moments and gradients are stored, and what is computed again. */
void report_numbers(struct str *out, const struct plan *p);
/* One line: shards, and numbers of workers with the same bits; nothing where there are none. */
void report_shards(struct str *out, const struct plan *p);
