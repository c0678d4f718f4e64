/* component.c - see component.h. Union and find over (value, dimension). */
#include "plan/component_impl.h"
#include <string.h>

enum { DIMS = COMPONENT_DIMS };

int component_root(const struct component_state *s, int member)
{
    while (s->parent[member] != member)
        member = s->parent[member] = s->parent[s->parent[member]];
    return member;
}

static bool is_leading(const struct anno *a, int letter)
{
    return letter >= 0 && strcmp(a->letter[letter], "n") == 0;
}

/* Dimension of the value at which annotation dimension k of argument j stands: n may take several. */
static int value_dim(const struct node *n, int j, int k)
{
    int at = 0;
    for (int i = 0; i < k; i++)
        at += is_leading(n->anno, n->anno->arg[j].dim[i].letter) ? n->n_leading : 1;
    return at;
}

int component_member(const struct node *n, int j, int letter)
{
    for (int k = 0; k < n->anno->arg[j].n_dims; k++)
        if (n->anno->arg[j].dim[k].letter == letter)
            return n->arg[j] * DIMS + value_dim(n, j, k);
    return -1;
}

static bool splittable(const struct component_state *s, int node, int letter)
{
    const struct anno *a = s->g->nodes[node].anno;
    if (letter == s->split[node].batch || letter == s->split[node].expert || is_leading(a, letter))
        return false;
    for (int j = 0; j < a->n_args; j++)
        for (int k = 0; k < a->arg[j].n_dims; k++)
            if (a->arg[j].dim[k].letter == letter && a->arg[j].dim[k].rows_of >= 0)
                return false;
    return a->kind[letter] != DIM_WHOLE;
}

static void join_letter(const struct component_state *s, int node, int letter)
{
    const struct node *n = &s->g->nodes[node];
    int first = -1;
    for (int j = 0; j < n->anno->n_args; j++) {
        const int m = component_member(n, j, letter);
        if (m < 0)
            continue;
        if (first >= 0)
            s->parent[component_root(s, m)] = component_root(s, first);
        first = m;
    }
}

bool component_by_tokens(const struct component_state *s, int node, int j)
{
    const struct node *n = &s->g->nodes[node];
    const struct anno_arg *f = &n->anno->arg[j];
    return s->split[node].batch >= 0 && f->n_dims > 0 && f->dim[0].letter == s->split[node].batch &&
           f->dim[0].rows_of < 0;
}

/* Does a part of the letter leave last dimensions that are multiples of `width`? */
static bool keeps_widths(const struct component_state *s, int node, int letter)
{
    const struct node *n = &s->g->nodes[node];
    for (int j = 0; j < n->anno->n_args; j++) {
        const struct anno_arg *f = &n->anno->arg[j];
        const struct anno_dim *last = &f->dim[f->n_dims - 1];
        if (f->model_float && last->letter == letter &&
            n->dim[letter] / s->tensor * (last->factor < 0 ? 1 : n->dim[last->factor]) % s->width)
            return false;
    }
    return true;
}

/* May the node run with this letter split? Outputs carry it, or lack it and are sums of tokens' rows. What surrounds
 * rows by expert is judged by join.c. */
static bool allows(const struct component_state *s, int node, int letter)
{
    const struct node *n = &s->g->nodes[node];
    const struct anno *a = n->anno;
    if (!splittable(s, node, letter) || n->dim[letter] % s->tensor || !keeps_widths(s, node, letter))
        return false;
    if (s->split[node].expert >= 0)
        return s->experts;
    for (int j = 0; j < a->n_args; j++) {
        const enum value_kind kind = s->g->values[n->arg[j]].kind;
        if (component_member(n, j, letter) >= 0)
            continue;
        if (j >= a->n_inputs
                ? a->kind[letter] != DIM_REDUCE || a->arg[j].dtype != F32 || !component_by_tokens(s, node, j)
                : kind != VALUE_PARAM && kind != VALUE_CONST && !component_by_tokens(s, node, j))
            return false;
    }
    return true;
}

static void judge(const struct component_state *s)
{
    for (int i = 0; i < s->g->n_nodes; i++)
        for (int l = 0; l < s->g->nodes[i].anno->n_letters; l++) {
            const bool allowed = allows(s, i, l);
            for (int j = 0; j < s->g->nodes[i].anno->n_args; j++) {
                const int m = component_member(&s->g->nodes[i], j, l);
                if (m < 0)
                    continue;
                const int root = component_root(s, m);
                s->bad[root] |= !allowed;
                s->with_param[root] |= s->g->values[m / DIMS].kind == VALUE_PARAM;
                s->with_rows[root] |= s->split[i].expert >= 0;
            }
        }
    for (int v = 0; v < s->g->n_kept; v++) /* the host reads them whole */
        for (int k = 0; k < DIMS; k++)
            s->bad[component_root(s, s->g->kept[v] * DIMS + k)] = true;
}

static bool wanted(const struct component_state *s, int root)
{
    return !s->bad[root] && s->with_param[root] && !s->with_rows[root];
}

/* A node has one split letter: components that come second to it stay whole. Nodes before it then have one still. */
static void strike_rivals(const struct component_state *s)
{
    for (int i = 0; i < s->g->n_nodes; i++) {
        int taken = -1;
        for (int l = 0; l < s->g->nodes[i].anno->n_letters; l++)
            for (int j = 0; j < s->g->nodes[i].anno->n_args; j++) {
                const int m = component_member(&s->g->nodes[i], j, l),
                          root = m < 0 ? -1 : component_root(s, m);
                if (root < 0 || !wanted(s, root) || root == taken)
                    continue;
                if (taken >= 0)
                    s->bad[root] = true;
                else
                    taken = root;
            }
    }
}

static void take_wanted(const struct component_state *s, struct components *out)
{
    const struct graph *g = s->g;
    for (int v = 0; v < g->n_values; v++)
        for (int k = 0; k < DIMS; k++)
            if (wanted(s, component_root(s, v * DIMS + k)))
                out->dim[v] = k;
    for (int i = 0; i < g->n_nodes; i++)
        for (int l = 0; l < g->nodes[i].anno->n_letters; l++)
            for (int j = 0; j < g->nodes[i].anno->n_args; j++) {
                const int m = component_member(&g->nodes[i], j, l);
                if (m >= 0 && wanted(s, component_root(s, m)))
                    out->letter[i] = l;
            }
}

static void find(struct arena *a, const struct component_state *s, struct components *out)
{
    for (int i = 0; i < s->g->n_values * DIMS; i++)
        s->parent[i] = i;
    for (int i = 0; i < s->g->n_nodes; i++)
        for (int l = 0; l < s->g->nodes[i].anno->n_letters; l++)
            join_letter(s, i, l);
    judge(s);
    strike_rivals(s);
    take_wanted(s, out);
    if (s->experts)
        component_join(a, s, out);
}

void components_find(struct arena *a, const struct graph *g, const struct node_split *split, int tensor,
                     int width, bool experts, struct components *out)
{
    const int n = g->n_values * DIMS;
    *out = (struct components){ ARENA_NEW(a, int, g->n_nodes), ARENA_NEW(a, int, g->n_values),
                                ARENA_NEW(a, bool, g->n_nodes), ARENA_NEW(a, bool, g->n_values) };
    memset(out->letter, -1, (size_t)g->n_nodes * sizeof *out->letter);
    memset(out->dim, -1, (size_t)g->n_values * sizeof *out->dim);
    if (tensor == 1)
        return;
    const size_t mark = arena_mark(a);
    find(a,
         &(struct component_state){ g, split, ARENA_NEW(a, int, n), ARENA_NEW(a, bool, n),
                                    ARENA_NEW(a, bool, n), ARENA_NEW(a, bool, n), tensor, width, experts },
         out);
    arena_reset(a, mark);
}
