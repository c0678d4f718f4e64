/* limits.h - limits of a user (plan.h) that no plan keeps, in the words of the options. */
#pragma once
#include "plan/plan.h"
/* `experts` 0 = dense model. false: err says which. */
bool limits_check(const struct plan_limits *l, int64_t experts, struct err *e);
/* They passed, and still there was no candidate: returns false with what forbids them all. */
bool limits_forbid_all(const struct plan_limits *l, struct err *e);
