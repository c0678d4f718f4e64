/* rules.h - what the user asks of operators by name: "experts: ep=4, width=on; attention: tensor=off, recompute=on". NAME stands for
 * every node that has it in its name. A plan has one degree of each kind: a rule for some operators holds for all that
 * are split so. */
#pragma once
#include "plan/plan.h"
enum { RULES = 16 };
struct rule {
    char name[64];
    int expert, tensor; /* degrees; 0 = free */
    enum split_choice width;
    int recompute; /* -1 = free, 0 = never, 1 = always */
};
struct rules {
    int n;
    struct rule rule[RULES];
};
bool rules_parse(const char *text, struct rules *out, struct err *e); /* NULL: none */
/* Fixes the degrees in l. Refuses names that no node has, and what contradicts l. */
bool rules_apply(const struct rules *r, const struct graph *g, struct plan_limits *l, struct err *e);
/* Bounds of a plan's `recompute`. place: by node, its place in the order of stash.h from 1 on, 0 = never dropped. */
bool rules_recompute(const struct rules *r, const struct graph *g, const int *place, int *least, int *most,
                     struct err *e);
