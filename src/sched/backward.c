/* backward.c - the backward half of a micro-batch: values that were dropped come back first, gradients of sums pass
 * on without a copy, and a residual sum with a norm works in place on them. */
#include "sched/lower.h"
#include "sched/offload.h"
#include <limits.h>

static void compute_again(struct lower *l, int node);

/* A dropped value gets a new place, in which backward finds it. */
void lower_want_again(struct lower *l, value v)
{
    const int at = l->stash.dropped_at[v];
    if (at == 0 || at > l->p->plan.recompute || l->present[v])
        return;
    l->present[v] = true;
    l->p->value[v] = NOWHERE;
    compute_again(l, l->p->graph->values[v].node);
}

/* Forward of a node once more, or its kernel that makes less. Inside a region, what backward reads must come back: the
 * kernel `again` does not make that. */
void lower_again_op(struct lower *l, int node, bool inside)
{
    const struct node *n = &l->p->graph->nodes[node];
    const bool again = n->op->saved_again[CPU] || (n->op->again[CPU] && !inside);
    uint32_t used = 0;
    for (int j = 0; j < n->anno->n_args; j++)
        if (!again || stash_reads(n, j) || stash_writes(n, j))
            used |= 1u << j;
    lower_run_forward(l, LIST_MICRO, node, inside, used)->again = again;
}

static void compute_again(struct lower *l, int node)
{
    const struct node *n = &l->p->graph->nodes[node];
    for (int j = 0; j < n->anno->n_args; j++)
        if (stash_reads(n, j))
            lower_want_again(l, n->arg[j]);
    for (int j = n->anno->n_inputs; j < n->anno->n_args; j++)
        if (stash_writes(n, j) && l->kept[n->arg[j]].buffer < 0)
            l->p->value[n->arg[j]] = NOWHERE; /* or its buffer would live from forward until here */
    lower_again_op(l, node, false);
    for (int j = n->anno->n_inputs; j < n->anno->n_args; j++)
        l->present[n->arg[j]] |= stash_writes(n, j);
}

/* Index of the backward step that reads the gradient of v: that of its producer. */
static int reader_of(const struct lower *l, value v)
{
    const int node = l->p->graph->values[v].node;
    return node < 0 ? -1 : l->back_of[node];
}

/* Does step b change the gradient of v: by adding to it, or in place, as v is the first output of a node that joins? */
static bool changes(const struct graph *g, const struct back *b, value v)
{
    const struct node *n = &g->nodes[b->node];
    if (n->op->joins && n->arg[n->anno->n_inputs] == v)
        return true;
    for (int j = 0; j < n->anno->n_inputs; j++)
        if ((b->want >> j & 1) && n->arg[j] == v)
            return true;
    return false;
}

static int change_after(const struct graph *g, int step, value v)
{
    for (int i = step + 1; i < g->n_backs; i++)
        if (changes(g, &g->backs[i], v))
            return i;
    return INT_MAX;
}

/* May the gradient of input j lie in `buffer` (-1 = a new one)? Not if that of another value lies there that is still
 * to be read when somebody changes this one, or the other way round. */
static bool may_share(const struct lower *l, const struct back *b, int j, int buffer)
{
    const struct graph *g = l->p->graph;
    const struct node *n = &g->nodes[b->node];
    const int step = (int)(b - g->backs);
    const value v = n->arg[j];
    if ((b->add >> j & 1) || !(b->want >> j & 1) || g->values[v].kind != VALUE_ACT ||
        l->p->grad[v].buffer >= 0)
        return false;
    for (int k = 0; k < n->anno->n_inputs; k++)
        if (k != j && n->arg[k] == v)
            return false;
    for (value u = 0; u < g->n_values && buffer >= 0; u++) {
        const int read = l->p->grad[u].buffer == buffer ? reader_of(l, u) : -1;
        if (read > step && (change_after(g, step, v) <= read || change_after(g, step, u) <= reader_of(l, v)))
            return false;
    }
    return true;
}

/* Inputs whose gradient is the output's; returns those that are left for the kernel. */
static uint32_t pass_gradients(struct lower *l, const struct back *b)
{
    const struct node *n = &l->p->graph->nodes[b->node];
    uint32_t left = b->want;
    for (int j = 0; j < n->anno->n_inputs && n->op->passes >> j; j++) {
        const struct ref at = lower_grad(l, b->node, n->anno->n_inputs, false);
        if ((n->op->passes >> j & 1) && may_share(l, b, j, at.buffer)) {
            l->p->grad[n->arg[j]] = at;
            left &= ~(1u << j);
        }
    }
    return left;
}

/* One buffer for the gradients of the inputs, that of the first output where it has one. */
static void join_gradients(struct lower *l, const struct back *b)
{
    const struct graph *g = l->p->graph;
    const struct node *n = &g->nodes[b->node];
    struct ref at = NOWHERE;
    if (n->op->joins && g->has_grad[n->arg[n->anno->n_inputs]])
        at = lower_grad(l, b->node, n->anno->n_inputs, false);
    for (int j = 0; n->op->joins && j < n->anno->n_inputs; j++)
        if (may_share(l, b, j, at.buffer)) {
            if (at.buffer < 0)
                at = lower_grad(l, b->node, j, false);
            l->p->grad[n->arg[j]] = at;
        }
}

/* Does the gradient of v lie in a buffer of its own? */
static bool is_alone(const struct lower *l, value v)
{
    for (int i = 0; i < l->p->graph->n_values; i++)
        if (i != v && l->p->grad[i].buffer >= 0 && l->p->grad[i].buffer == l->p->grad[v].buffer)
            return false;
    return true;
}

/* Of a node that works in place: nobody reads the gradient of its output any more. */
static void pass_in_place(struct lower *l, const struct back *b)
{
    const struct node *n = &l->p->graph->nodes[b->node];
    const value x = n->arg[0], y = n->arg[n->anno->n_inputs];
    if (l->in_place[b->node] && (b->want & 1) && !(b->add & 1) && l->p->grad[x].buffer < 0 &&
        l->p->grad[y].buffer >= 0 && is_alone(l, y))
        l->p->grad[x] = l->p->grad[y];
}

/* Where the arguments of a backward step lie. */
struct places {
    struct ref arg[OP_ARGS], grad[OP_ARGS];
};

static struct ref saved_arg(struct lower *l, int node, int j, bool inside)
{
    if (inside)
        return lower_region_arg(l, node, j);
    const struct ref at = lower_value(l, node, j, false);
    return lower_crosses(l, node, j) ? lower_enter(l, LIST_MICRO, node, j, at) : at;
}

/* Gradients of what left come in again; those of what came in are partial sums inside. */
static struct ref grad_arg(struct lower *l, int node, int j, bool inside)
{
    if (!lower_crosses(l, node, j))
        return lower_grad(l, node, j, inside);
    return j < l->p->graph->nodes[node].anno->n_inputs
               ? lower_inside(l, node, j)
               : lower_enter(l, LIST_MICRO, node, j, lower_grad(l, node, j, false));
}

/* Bits of gradients that no earlier step of this rank writes: each end of a tied parameter has its own sum. */
static uint32_t first_of(const struct lower *l, const struct back *b)
{
    const struct graph *g = l->p->graph;
    const struct node *n = &g->nodes[b->node];
    uint32_t first = b->first;
    for (int j = 0; j < n->anno->n_inputs; j++) {
        const int param = g->values[n->arg[j]].param;
        if (param >= 0 && l->p->layout.place[param].flat == SHARED)
            first |= b->add & 1u << j;
    }
    return first;
}

void lower_backward_op(struct lower *l, const struct back *b, bool inside)
{
    const uint32_t want = inside || lower_is_tensor(l, b->node) ? b->want : pass_gradients(l, b);
    if (want == 0)
        return;
    if (!inside && !lower_is_tensor(l, b->node))
        join_gradients(l, b);
    pass_in_place(l, b);
    const struct graph *g = l->p->graph;
    const struct anno *a = g->nodes[b->node].anno;
    const bool both = lower_is_merged(l, b->node);
    for (int j = 0; j < a->n_args && !inside && !both; j++)
        if (a->saved >> j & 1)
            lower_want_again(l, g->nodes[b->node].arg[j]);
    struct places at = { 0 };
    for (int j = 0; j < a->n_args; j++) {
        const bool wanted = j < a->n_inputs ? want >> j & 1 : g->has_grad[g->nodes[b->node].arg[j]];
        at.arg[j] = both || (a->saved >> j & 1) ? saved_arg(l, b->node, j, inside) : NOWHERE;
        at.grad[j] = wanted ? grad_arg(l, b->node, j, inside) : NOWHERE;
    }
    struct instr *i = lower_emit_op(l, LIST_MICRO, b->node, true);
    i->add = b->add;
    const uint32_t first = first_of(l, b);
    i->first_writes = inside && l->round > 0 ? 0 : first; /* later rounds add to the first one */
    for (int j = 0; j < a->n_args; j++) {
        if ((first >> j & 1) && lower_is_new(l, g->values[g->nodes[b->node].arg[j]].param))
            i->add &= ~(1u << j);
        i->arg[j] = at.arg[j];
        i->grad[j] = at.grad[j];
        if (g->values[g->nodes[b->node].arg[j]].kind == VALUE_PARAM && l->p->plan.numbers.gradient == F32)
            i->wide |= 1u << j;
        if (j < a->n_inputs && lower_crosses(l, b->node, j))
            i->add &= ~(1u << j); /* the sum over the members is added */
    }
    for (int j = 0; j < a->n_inputs; j++)
        if (at.grad[j].buffer >= 0 && lower_crosses(l, b->node, j))
            lower_leave(l, LIST_MICRO, b->node, j, at.grad[j], lower_grad(l, b->node, j, false),
                        b->add >> j & 1);
}

static void fetch_ahead(struct lower *l, int back, int first, int last)
{
    const struct graph *g = l->p->graph;
    lower_fetch(l, g->backs[back].node, true);
    for (int i = back + 1; i < g->n_backs && g->backs[i].node >= first && g->backs[i].node < last; i++)
        if (!lower_fetch_next(l, g->backs[i].node, true))
            return;
}

void lower_backward(struct lower *l, int first, int last)
{
    const struct graph *g = l->p->graph;
    for (int i = 0; i < g->n_backs; i++) {
        const int node = g->backs[i].node;
        if (node < first || node >= last)
            continue;
        fetch_ahead(l, i, first, last);
        const int region = lower_beside_backward(l, i, first, last);
        if (region == i && !lower_is_region(l, node)) {
            lower_backward_op(l, &g->backs[i], false);
            offload_leave(l, node);
            lower_reduce_done(l, i, l->p->plan.expert_parallel == 1);
            continue;
        }
        const struct region r = lower_region_at(l, g->backs[region].node);
        lower_region_backward(l, &r, (struct section){ i, region });
        for (i = region; i + 1 < g->n_backs && lower_in_region(&r, g->backs[i + 1].node);)
            i++;
        lower_reduce_done(l, i, true); /* the rows have come back, and none travel for a while */
    }
}
