/* join.c - what runs with the tokens of a tensor group for the sake of experts whose width it splits. Such a node reads
 * rows that others made and leaves rows that are partial sums, so both are followed: to nodes that make what it reads,
 * back to values that are cut by tokens and come in by a gather; and to nodes that add up what it leaves, on to values
 * that are cut by tokens again and leave as any partial sum does. A summand beside the rows must be a partial sum as
 * well: that of another split node, which then need not leave by itself. Gradients need no rule of their own: those
 * of what the experts read are partial sums on the way back to the tokens, and those of what they leave are whole. */
#include "plan/component_impl.h"
#include <string.h>

struct join {
    const struct component_state *s;
    const struct components *others; /* all that is split besides */
    int *width;                      /* by node: the letter of the experts' width; -1 = none */
    bool *joined;                    /* by node */
    bool *inner, *partial;           /* by value */
    bool changed, possible;          /* possible: so far */
};

static bool is_width(const struct component_state *s, int member)
{
    const int root = member < 0 ? -1 : component_root(s, member);
    return root >= 0 && s->with_rows[root] && s->with_param[root] && !s->bad[root];
}

static int width_letter(const struct component_state *s, int node)
{
    const struct node *n = &s->g->nodes[node];
    for (int l = 0; l < n->anno->n_letters; l++)
        for (int j = 0; j < n->anno->n_args; j++)
            if (is_width(s, component_member(n, j, l)))
                return l;
    return -1;
}

static bool has_width(const struct join *x, int node, int j)
{
    return x->width[node] >= 0 && component_member(&x->s->g->nodes[node], j, x->width[node]) >= 0;
}

static void set(struct join *x, bool *flag)
{
    x->changed |= !*flag;
    *flag = true;
}

/* A partial sum stays where it is for those who add it up. */
static void leave_partial(struct join *x, value v)
{
    const struct graph *g = x->s->g;
    set(x, &x->inner[v]);
    set(x, &x->partial[v]);
    for (int i = 0; i < g->n_nodes; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++)
            if (g->nodes[i].arg[j] == v)
                set(x, &x->joined[i]);
}

static void pull_input(struct join *x, int node, int j)
{
    const struct node *n = &x->s->g->nodes[node];
    const value v = n->arg[j];
    const int maker = x->s->g->values[v].node;
    if (x->s->g->values[v].kind != VALUE_ACT || x->inner[v])
        return;
    if (n->op->sums >> j & 1) {
        x->possible &= x->others->letter[maker] >= 0 && x->others->dim[v] < 0;
        leave_partial(x, v);
    } else if (!component_by_tokens(x->s, node, j)) {
        set(x, &x->joined[maker]);
    }
}

static void push_output(struct join *x, int node, int j)
{
    const struct node *n = &x->s->g->nodes[node];
    const value v = n->arg[j];
    if (x->width[node] < 0 && !n->op->sums)
        set(x, &x->inner[v]);
    else if (!component_by_tokens(x->s, node, j) && !x->inner[v])
        leave_partial(x, v);
}

static void follow(struct join *x, int node)
{
    const struct node *n = &x->s->g->nodes[node];
    for (int j = 0; j < n->anno->n_args; j++) {
        if (has_width(x, node, j))
            continue;
        if (j < n->anno->n_inputs)
            pull_input(x, node, j);
        else
            push_output(x, node, j);
    }
}

/* May a value that is read here be what it is? */
static bool input_allowed(const struct join *x, int node, int j)
{
    const struct node *n = &x->s->g->nodes[node];
    const struct value_info *v = &x->s->g->values[n->arg[j]];
    const bool sums = n->op->sums >> j & 1;
    if (v->kind == VALUE_PARAM || (n->op->sums && !sums && n->anno->arg[j].dtype == F32))
        return false;
    return x->partial[n->arg[j]] == sums;
}

static bool node_allowed(const struct join *x, int node)
{
    const struct node *n = &x->s->g->nodes[node];
    const int letter = x->width[node];
    if (x->others->letter[node] >= 0 || (letter >= 0 && x->joined[node]) ||
        (x->joined[node] && (x->s->split[node].expert >= 0 || x->s->split[node].batch < 0)))
        return false;
    for (int j = 0; j < n->anno->n_args; j++) {
        if (has_width(x, node, j))
            continue;
        if (j < n->anno->n_inputs
                ? !input_allowed(x, node, j)
                : letter >= 0 && (n->anno->kind[letter] != DIM_REDUCE || n->anno->arg[j].dtype != F32))
            return false;
    }
    return true;
}

/* Nobody else reads what is inside. */
static bool values_allowed(const struct join *x)
{
    const struct graph *g = x->s->g;
    for (int i = 0; i < g->n_kept; i++)
        if (x->inner[g->kept[i]])
            return false;
    for (int i = 0; i < g->n_nodes; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++)
            if (x->inner[g->nodes[i].arg[j]] && !x->joined[i] && x->width[i] < 0)
                return false;
    return true;
}

static bool allowed(const struct join *x)
{
    bool ok = x->possible && values_allowed(x);
    for (int i = 0; i < x->s->g->n_nodes && ok; i++)
        ok = (x->width[i] < 0 && !x->joined[i]) || node_allowed(x, i);
    return ok;
}

static void take(const struct join *x, struct components *out)
{
    const struct graph *g = x->s->g;
    for (int i = 0; i < g->n_nodes; i++) {
        out->joined[i] |= x->joined[i];
        if (x->width[i] >= 0)
            out->letter[i] = x->width[i];
    }
    for (int v = 0; v < g->n_values; v++) {
        out->inner[v] |= x->inner[v];
        for (int k = 0; k < COMPONENT_DIMS; k++)
            if (is_width(x->s, v * COMPONENT_DIMS + k))
                out->dim[v] = k;
    }
}

void component_join(struct arena *a, const struct component_state *s, struct components *out)
{
    const struct graph *g = s->g;
    struct join x = { .s = s,
                      .others = out,
                      .width = ARENA_NEW(a, int, g->n_nodes),
                      .joined = ARENA_NEW(a, bool, g->n_nodes),
                      .inner = ARENA_NEW(a, bool, g->n_values),
                      .partial = ARENA_NEW(a, bool, g->n_values),
                      .changed = true,
                      .possible = true };
    for (int i = 0; i < g->n_nodes; i++)
        x.width[i] = width_letter(s, i);
    while (x.changed) {
        x.changed = false;
        for (int i = 0; i < g->n_nodes; i++)
            if (x.width[i] >= 0 || x.joined[i])
                follow(&x, i);
    }
    if (allowed(&x))
        take(&x, out);
}
