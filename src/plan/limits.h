/* limits.h - limits of a user (plan.h) that no plan keeps, in the words of the options. */
#pragma once
#include "plan/plan.h"
/* `experts` 0 = dense model. false: err says which. */
bool limits_check(const struct plan_limits *l, int64_t experts, struct err *e);
/* They passed, and still there was no candidate: returns false with what forbids them all. */
bool limits_forbid_all(const struct plan_limits *l, struct err *e);
/* Of n_plans that there are p needs the least memory, and does not fit: false with EXIT_MEMORY, by how much, and what would. */
bool limits_too_small(const struct plan_limits *l, const struct plan *p, int n_plans, struct err *e);
