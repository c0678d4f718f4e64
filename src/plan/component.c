/* component.c - see component.h. Union and find over (value, dimension). */
#include "plan/component.h"
#include <string.h>

enum { DIMS = 6 };
struct state {
    const struct graph *g;
    const struct node_split *split;
    int *parent;            /* by value * DIMS + dimension */
    bool *bad, *with_param; /* by root */
};

static int find(const struct state *s, int i)
{
    while (s->parent[i] != i)
        i = s->parent[i] = s->parent[s->parent[i]];
    return i;
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

/* Member of the letter in argument j, or -1. */
static int member(const struct node *n, int j, int letter)
{
    for (int k = 0; k < n->anno->arg[j].n_dims; k++)
        if (n->anno->arg[j].dim[k].letter == letter)
            return n->arg[j] * DIMS + value_dim(n, j, k);
    return -1;
}

static bool splittable(const struct state *s, int node, int letter)
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

static void join_letter(const struct state *s, int node, int letter)
{
    const struct node *n = &s->g->nodes[node];
    int first = -1;
    for (int j = 0; j < n->anno->n_args; j++) {
        const int m = member(n, j, letter);
        if (m < 0)
            continue;
        if (first >= 0)
            s->parent[find(s, m)] = find(s, first);
        first = m;
    }
}

/* Cut by tokens as all values outside are? */
static bool by_tokens(const struct state *s, int node, int j)
{
    const struct node *n = &s->g->nodes[node];
    const struct anno_arg *f = &n->anno->arg[j];
    return s->split[node].batch >= 0 && f->n_dims > 0 && f->dim[0].letter == s->split[node].batch &&
           f->dim[0].rows_of < 0;
}

/* Does a part of the letter leave last dimensions that are multiples of `width`? */
static bool keeps_widths(const struct state *s, int node, int letter, int tensor, int width)
{
    const struct node *n = &s->g->nodes[node];
    for (int j = 0; j < n->anno->n_args; j++) {
        const struct anno_arg *f = &n->anno->arg[j];
        const struct anno_dim *last = &f->dim[f->n_dims - 1];
        if (f->model_float && last->letter == letter &&
            n->dim[letter] / tensor * (last->factor < 0 ? 1 : n->dim[last->factor]) % width)
            return false;
    }
    return true;
}

/* May the node run with this letter split? Outputs carry it, or lack it and are sums of tokens' rows. */
static bool allows(const struct state *s, int node, int letter, int tensor, int width)
{
    const struct node *n = &s->g->nodes[node];
    const struct anno *a = n->anno;
    if (!splittable(s, node, letter) || n->dim[letter] % tensor ||
        !keeps_widths(s, node, letter, tensor, width))
        return false;
    for (int j = 0; j < a->n_args; j++) {
        const enum value_kind kind = s->g->values[n->arg[j]].kind;
        if (member(n, j, letter) >= 0)
            continue;
        if (j >= a->n_inputs
                ? a->kind[letter] != DIM_REDUCE || a->arg[j].dtype != F32 || !by_tokens(s, node, j)
                : kind != VALUE_PARAM && kind != VALUE_CONST && !by_tokens(s, node, j))
            return false;
    }
    return true;
}

static void judge(const struct state *s, int tensor, int width)
{
    for (int i = 0; i < s->g->n_nodes; i++)
        for (int l = 0; l < s->g->nodes[i].anno->n_letters; l++)
            for (int j = 0; j < s->g->nodes[i].anno->n_args; j++) {
                const int m = member(&s->g->nodes[i], j, l);
                if (m < 0)
                    continue;
                s->bad[find(s, m)] |= !allows(s, i, l, tensor, width);
                s->with_param[find(s, m)] |= s->g->values[m / DIMS].kind == VALUE_PARAM;
            }
    for (int v = 0; v < s->g->n_kept; v++) /* the host reads them whole */
        for (int k = 0; k < DIMS; k++)
            s->bad[find(s, s->g->kept[v] * DIMS + k)] = true;
}

static bool wanted(const struct state *s, int root)
{
    return !s->bad[root] && s->with_param[root];
}

/* A node has one split letter: a component that comes second to it stays whole. False when nothing was struck out. */
static bool strike_rivals(struct state *s)
{
    for (int i = 0; i < s->g->n_nodes; i++) {
        int taken = -1;
        for (int l = 0; l < s->g->nodes[i].anno->n_letters; l++)
            for (int j = 0; j < s->g->nodes[i].anno->n_args; j++) {
                const int m = member(&s->g->nodes[i], j, l), root = m < 0 ? -1 : find(s, m);
                if (root < 0 || !wanted(s, root) || root == taken)
                    continue;
                if (taken >= 0) {
                    s->bad[root] = true;
                    return true;
                }
                taken = root;
            }
    }
    return false;
}

void components_find(struct arena *a, const struct graph *g, const struct node_split *split, int tensor,
                     int width, struct components *out)
{
    const int n = g->n_values * DIMS;
    *out = (struct components){ ARENA_NEW(a, int, g->n_nodes), ARENA_NEW(a, int, g->n_values) };
    memset(out->letter, -1, (size_t)g->n_nodes * sizeof *out->letter);
    memset(out->dim, -1, (size_t)g->n_values * sizeof *out->dim);
    if (tensor == 1)
        return;
    struct state s = { g, split, ARENA_NEW(a, int, n), ARENA_NEW(a, bool, n), ARENA_NEW(a, bool, n) };
    for (int i = 0; i < n; i++)
        s.parent[i] = i;
    for (int i = 0; i < g->n_nodes; i++)
        for (int l = 0; l < g->nodes[i].anno->n_letters; l++)
            join_letter(&s, i, l);
    judge(&s, tensor, width);
    while (strike_rivals(&s))
        ;
    for (int v = 0; v < g->n_values; v++)
        for (int k = 0; k < DIMS; k++)
            if (wanted(&s, find(&s, v * DIMS + k)))
                out->dim[v] = k;
    for (int i = 0; i < g->n_nodes; i++)
        for (int l = 0; l < g->nodes[i].anno->n_letters; l++)
            for (int j = 0; j < g->nodes[i].anno->n_args; j++) {
                const int m = member(&g->nodes[i], j, l);
                if (m >= 0 && wanted(&s, find(&s, m)))
                    out->letter[i] = l;
            }
}
