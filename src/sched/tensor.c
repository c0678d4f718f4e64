/* tensor.c - nodes that a tensor group shares run with a part of their split letter, if they have one, and with the tokens
 * of the whole group. What they read besides comes in by a gather along the tokens; the partial sums that they write go out by a
 * sum that leaves every member its own tokens. Backward is the mirror of it. */
#include "sched/lower.h"

bool lower_is_tensor(const struct lower *l, int node)
{
    return layout_is_tensor(&l->p->layout, node);
}

int64_t lower_token_share(const struct lower *l, int node)
{
    const struct plan *p = &l->p->plan;
    return plan_workers(p) / (lower_is_tensor(l, node) ? p->tensor_parallel : 1);
}

bool lower_crosses(const struct lower *l, int node, int arg)
{
    const value v = l->p->graph->nodes[node].arg[arg];
    const enum value_kind kind = l->p->graph->values[v].kind;
    return lower_is_tensor(l, node) && l->p->layout.tensor.dim[v] < 0 && !l->p->layout.tensor.inner[v] &&
           (kind == VALUE_ACT || kind == VALUE_INPUT);
}

struct ref lower_inside(struct lower *l, int node, int arg)
{
    const char *name = l->p->graph->values[l->p->graph->nodes[node].arg[arg]].name;
    return (struct ref){ lower_buffer(l, name, MEM_EXCHANGE, lower_value_bytes(l, node, arg)), 0 };
}

struct ref lower_enter(struct lower *l, enum list_kind which, int node, int arg, struct ref outer)
{
    const struct ref inner = lower_inside(l, node, arg);
    struct instr *i = lower_emit(l, which, RUN_TENSOR_GATHER, l->p->graph->nodes[node].name);
    i->node = node;
    i->ref[0] = outer;
    i->ref[1] = inner;
    i->n = lower_value_bytes(l, node, arg) / l->p->plan.tensor_parallel;
    return inner;
}

void lower_leave(struct lower *l, enum list_kind which, int node, int arg, struct ref inner, struct ref outer,
                 bool add)
{
    const struct value_info *v = &l->p->graph->values[l->p->graph->nodes[node].arg[arg]];
    const enum dtype t = v->model_float ? plan_float(&l->p->plan) : v->dtype;
    const int64_t bytes = lower_value_bytes(l, node, arg);
    const struct ref staging = { lower_buffer(l, "tensor staging", MEM_EXCHANGE, bytes), 0 };
    struct instr *i = lower_emit(l, which, RUN_TENSOR_SCATTER, l->p->graph->nodes[node].name);
    i->node = node;
    i->ref[0] = inner;
    i->ref[1] = outer;
    i->ref[2] = staging;
    i->n = bytes / l->p->plan.tensor_parallel / (int64_t)num_dtype_bytes(t);
    i->add = add;
    i->wide = t == F32;
}
