/* found.h - the lists of a search: a few plans, fastest first. */
#pragma once
#include "plan/search.h"
/* Into a list of at most SEARCH_KEEP. */
void found_keep(struct plan *list, int *n, const struct plan *p);
void found_merge(struct search_result *all, const struct search_result *found);
/* The last that would be kept of both; infinite where there is room. */
double found_last_us(const struct search_result *a, const struct search_result *b);
