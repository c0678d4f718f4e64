/* stash.c - see stash.h. What computing a node again reads is there in backward anyway, or dropped too, or stays alive
 * for it: then the bytes that stay count against those that leave. */
#include "sched/stash.h"
#include "plan/cut.h"
#include "sched/merge.h"
#include <ctype.h>
#include <stdlib.h>

struct kind {
    const char *name;      /* of its first node */
    double seconds, bytes; /* to compute again, by a rough machine; that leave memory */
};
struct state {
    const struct graph *g;
    bool *saved;          /* by value: some backward step reads it */
    int *dropped_at;      /* by value: stash.h, so far */
    bool *fixed;          /* by value: the host reads it, or another stage */
    const int64_t *bytes; /* by value, on this rank */
    int *kind_of;         /* by node; -1 = never dropped */
    struct kind *kind;
    int n_kinds;
};

/* Equal but for digits? */
static bool same_kind(const char *x, const char *y)
{
    for (;; x++, y++) {
        while (isdigit((unsigned char)*x))
            x++;
        while (isdigit((unsigned char)*y))
            y++;
        if (*x != *y)
            return false;
        if (*x == 0)
            return true;
    }
}

/* A node of one call finds its inputs where forward left them. */
static void mark_saved(struct state *s, enum backend backend)
{
    for (int i = 0; i < s->g->n_backs; i++) {
        const struct node *n = &s->g->nodes[s->g->backs[i].node];
        if (merge_is(s->g, backend, s->g->backs[i].node))
            continue;
        for (int j = 0; j < n->anno->n_args; j++)
            if (n->anno->saved >> j & 1)
                s->saved[n->arg[j]] = true;
    }
}

bool stash_writes(const struct node *n, int arg)
{
    const bool saved = n->anno->saved >> arg & 1;
    return arg >= n->anno->n_inputs && !(n->op->again[CPU] && saved) && !(n->op->saved_again[CPU] && !saved);
}

bool stash_reads(const struct node *n, int arg)
{
    const bool saved = n->anno->saved >> arg & 1;
    if (n->op->again[CPU])
        return saved;
    return arg < n->anno->n_inputs && (saved || !n->op->saved_again[CPU]);
}

/* An output that backward reads, and that can be made again. */
static bool leaves(const struct state *s, const struct node *n, int arg)
{
    return stash_writes(n, arg) && s->saved[n->arg[arg]] && !s->fixed[n->arg[arg]];
}

/* Does argument j of n have to stay alive for computing n again, given what is saved and dropped so far? */
static bool stays(const struct state *s, const struct node *n, int j)
{
    const value v = n->arg[j];
    return stash_reads(n, j) && s->g->values[v].kind == VALUE_ACT && !s->saved[v] && !s->dropped_at[v];
}

/* A kernel `again` passes over the node's outputs: it reads those that are saved and writes the others. */
static double again_bytes(const struct graph *g, const struct node *n)
{
    double bytes = 0;
    for (int j = n->anno->n_inputs; j < n->anno->n_args; j++)
        bytes += (double)graph_elements(&g->values[n->arg[j]]) * (g->values[n->arg[j]].model_float ? 2 : 4);
    return bytes;
}

/* Streams at 3.5 TB/s, products at 600 TFLOP/s. */
double stash_seconds(const struct graph *g, const struct node *n)
{
    double flops[2], bytes[2];
    if (n->op->again[CPU])
        return again_bytes(g, n) / 3.5e12;
    op_cost(n->op, n->dim, n->attr, flops, bytes);
    const double memory = bytes[0] / 2 / 3.5e12, compute = flops[0] / 600e12,
                 part = n->op->saved_again[CPU] ? n->op->saved_again_part : 1;
    return part * (compute > memory ? compute : memory);
}

static void add_kind(struct state *s, int node)
{
    const struct node *n = &s->g->nodes[node];
    int k = 0;
    double bytes = 0;
    for (int j = 0; j < n->anno->n_args; j++)
        bytes += leaves(s, n, j) ? (double)s->bytes[n->arg[j]] : 0;
    if (bytes == 0)
        return;
    while (k < s->n_kinds && !same_kind(s->kind[k].name, n->name))
        k++;
    if (k == s->n_kinds)
        s->kind[s->n_kinds++] = (struct kind){ .name = n->name };
    s->kind[k].seconds += stash_seconds(s->g, n);
    s->kind[k].bytes += bytes;
    s->kind_of[node] = k;
}

/* Bytes that a kind frees, less those that stay for it; a source of several nodes counts more than once. */
static double freed(const struct state *s, int kind)
{
    double bytes = s->kind[kind].bytes;
    for (int i = 0; i < s->g->n_nodes; i++) {
        const struct node *n = &s->g->nodes[i];
        for (int j = 0; s->kind_of[i] == kind && j < n->anno->n_args; j++)
            bytes -= stays(s, n, j) ? (double)s->bytes[n->arg[j]] : 0;
    }
    return bytes;
}

static void drop(struct state *s, int node, int place)
{
    const struct node *n = &s->g->nodes[node];
    for (int j = 0; j < n->anno->n_args; j++) {
        if (stays(s, n, j))
            s->saved[n->arg[j]] = true;
        if (leaves(s, n, j) && !s->dropped_at[n->arg[j]])
            s->dropped_at[n->arg[j]] = place;
    }
}

/* The cheapest kind per byte that it frees; -1 when none frees any. */
static int cheapest(const struct state *s, const bool *done)
{
    int best = -1;
    double least = 0;
    for (int k = 0; k < s->n_kinds; k++) {
        const double bytes = done[k] ? 0 : freed(s, k), price = s->kind[k].seconds / (bytes > 0 ? bytes : 1);
        if (bytes > 0 && (best < 0 || price < least)) {
            best = k;
            least = price;
        }
    }
    return best;
}

/* Values that the host reads stay where they are, and so do those that are passed on. */
static void fix_values(struct arena *a, const struct plan *p, struct state *s)
{
    value *passed = ARENA_NEW(a, value, s->g->n_values);
    for (int i = 0; i < s->g->n_kept; i++)
        s->fixed[s->g->kept[i]] = true;
    for (int part = 1; part < plan_parts(p); part++)
        for (int n = cut_crossing(s->g, p->cut[part], passed); n > 0; n--)
            s->fixed[passed[n - 1]] = true;
}

void stash_make(struct arena *a, const struct graph *g, const struct plan *p, const struct node_split *split,
                const bool *in_place, const int64_t *bytes, struct stash *out)
{
    struct state s = { .g = g,
                       .bytes = bytes,
                       .saved = ARENA_NEW(a, bool, g->n_values),
                       .dropped_at = ARENA_NEW(a, int, g->n_values),
                       .fixed = ARENA_NEW(a, bool, g->n_values),
                       .kind_of = ARENA_NEW(a, int, g->n_nodes),
                       .kind = ARENA_NEW(a, struct kind, g->n_nodes) };
    out->place = ARENA_NEW(a, int, g->n_nodes);
    mark_saved(&s, p->numbers.backend);
    fix_values(a, p, &s);
    for (int i = 0; i < g->n_nodes; i++) {
        s.kind_of[i] = -1;
        if (!in_place[i] && (split[i].expert < 0 || p->expert_parallel == 1))
            add_kind(&s, i);
    }
    bool *done = ARENA_NEW(a, bool, s.n_kinds + 1);
    for (int k = cheapest(&s, done); k >= 0; k = cheapest(&s, done)) {
        done[k] = true;
        for (int i = 0; i < g->n_nodes; i++) {
            if (s.kind_of[i] != k)
                continue;
            out->place[i] = ++out->n_nodes;
            drop(&s, i, out->n_nodes);
        }
    }
    out->dropped_at = s.dropped_at;
}
