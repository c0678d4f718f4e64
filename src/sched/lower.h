/* lower.h - inside sched/: the state of one lowering. */
#pragma once
#include "sched/sched.h"
struct lower {
    struct arena *arena;
    struct program *p;
    struct node_split *split;       /* by node */
    struct ref *inner, *inner_grad; /* by value: copies inside the current exchange region */
    struct ref *kept;               /* by value */
    struct ref *parts;              /* by parameter: gradients apart by sender */
    struct ref *node_counts;        /* by first node of a region: the counts that backward reuses */
    struct ref round_end, counts;
    int n_parts;
    int64_t most_experts;
};
extern const struct ref NOWHERE;
int lower_buffer(struct lower *l, const char *name, enum memory_class class, int64_t bytes);
int lower_persistent(struct lower *l, const char *name, enum memory_class class, int64_t bytes);
struct instr *lower_emit(struct lower *l, enum list_kind which, enum instr_kind kind, const char *name);
void lower_update(struct lower *l, const struct adamw *o); /* update.c */
