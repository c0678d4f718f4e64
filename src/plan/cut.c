/* cut.c - see cut.h. */
#include "plan/cut.h"
#include "plan/layout.h"
#include <math.h>
#include <string.h>

static bool is_kept(const struct graph *g, value v)
{
    for (int i = 0; i < g->n_kept; i++)
        if (g->kept[i] == v)
            return true;
    return false;
}

/* The last node that reads each value; -1: none. */
static int *last_readers(struct arena *a, const struct graph *g)
{
    int *last = ARENA_NEW(a, int, g->n_values);
    for (value v = 0; v < g->n_values; v++)
        last[v] = -1;
    for (int i = 0; i < g->n_nodes; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++)
            last[g->nodes[i].arg[j]] = i;
    return last;
}

static int list_crossing(const struct graph *g, const int *last, int at, value *out)
{
    int n = 0;
    for (value v = 0; v < g->n_values; v++)
        if (g->values[v].kind == VALUE_ACT && g->values[v].node < at && last[v] >= at)
            out[n++] = v;
    return n;
}

int cut_crossing(const struct graph *g, int at, value *out)
{
    struct arena *a = arena_new("crossing");
    const int n = list_crossing(g, last_readers(a, g), at, out);
    arena_free(a);
    return n;
}

/* Is v one row of the model's floats per token? Statistics in float32 are none: little, but no place of a model. */
static bool is_by_tokens(const struct graph *g, const struct node_split *split, value v)
{
    const struct node *n = &g->nodes[g->values[v].node];
    int j = n->anno->n_inputs;
    while (n->arg[j] != v)
        j++;
    const struct anno_arg *f = &n->anno->arg[j];
    const int batch = split[g->values[v].node].batch;
    return batch >= 0 && f->n_dims && f->dim[0].letter == batch && f->model_float && !is_kept(g, v);
}

/* Elements per token that cross in front of a node; INFINITY where that is no place to cut at. */
static double width_at(const struct graph *g, const struct node_split *split, const int *last, int at,
                       value *room, int *oldest)
{
    const int n = list_crossing(g, last, at, room);
    double width = n ? 0 : INFINITY;
    *oldest = at;
    for (int i = 0; i < n; i++) {
        const struct value_info *v = &g->values[room[i]];
        *oldest = v->node < *oldest ? v->node : *oldest;
        width += is_by_tokens(g, split, room[i]) ? (double)graph_elements(v) : INFINITY;
    }
    return width;
}

static void find_places(struct arena *a, const struct graph *g, struct cut_places *out)
{
    struct node_split *split = ARENA_NEW(a, struct node_split, g->n_nodes);
    value *room = ARENA_NEW(a, value, g->n_values);
    const int *last = last_readers(a, g);
    double *width = ARENA_NEW(a, double, g->n_nodes + 1), least = INFINITY;
    layout_split(a, g, split);
    out->oldest = ARENA_NEW(a, int, g->n_nodes + 1);
    for (int i = 1; i < g->n_nodes; i++) {
        width[i] = width_at(g, split, last, i, room, &out->oldest[i]);
        least = width[i] < least ? width[i] : least;
    }
    for (int i = 1; i < g->n_nodes; i++)
        if (width[i] == INFINITY || width[i] > 2 * least) /* a sum and its addend */
            out->oldest[i] = -1;
    out->oldest[0] = out->oldest[g->n_nodes] = g->n_nodes; /* nothing crosses */
}

static void add_times(struct arena *a, const struct graph *g, const struct cluster *c, struct cut_places *out)
{
    out->before = ARENA_NEW(a, double, g->n_nodes + 1);
    for (int i = 0; i < g->n_nodes; i++) {
        double flops[2], bytes[2];
        op_cost(g->nodes[i].op, g->nodes[i].dim, g->nodes[i].attr, flops, bytes);
        const double compute = (flops[0] + flops[1]) / c->flops_per_s,
                     memory = (bytes[0] + bytes[1]) / c->memory_bytes_per_s;
        out->before[i + 1] = out->before[i] + 1e6 * (compute > memory ? compute : memory) + 2 * c->call_us;
    }
}

void cut_places(struct arena *a, const struct graph *g, const struct cluster *c, struct cut_places *out)
{
    find_places(a, g, out);
    add_times(a, g, c, out);
}

/* May nodes [from, to) be a part? */
static bool may_be_part(const struct cut_places *p, int from, int to)
{
    return p->oldest[from] >= 0 && p->oldest[to] >= from;
}

bool cut_choose(const struct graph *g, const struct cluster *c, struct plan *p, struct err *e)
{
    struct arena *a = arena_new("cuts");
    const int parts = plan_parts(p), n = g->n_nodes;
    struct cut_places at;
    cut_places(a, g, c, &at);
    /* worst[k][i]: of the slowest of k parts of nodes [0, i), at best; from: where the last of them begins */
    double *worst = ARENA_NEW(a, double, (int64_t)(parts + 1) * (n + 1));
    int *from = ARENA_NEW(a, int, (int64_t)(parts + 1) * (n + 1));
    for (int k = 0; k <= parts; k++)
        for (int i = 0; i <= n; i++) {
            double *best = &worst[k * (n + 1) + i];
            *best = k == 0 && i == 0 ? 0 : INFINITY;
            for (int j = 0; k > 0 && j < i; j++) {
                const double before = worst[(k - 1) * (n + 1) + j], last = at.before[i] - at.before[j],
                             slowest = before > last ? before : last;
                if (slowest < *best && may_be_part(&at, j, i)) {
                    *best = slowest;
                    from[k * (n + 1) + i] = j;
                }
            }
        }
    const bool ok = worst[parts * (n + 1) + n] < INFINITY;
    p->cut[parts] = n;
    for (int k = parts; ok && k > 0; k--)
        p->cut[k - 1] = from[k * (n + 1) + p->cut[k]];
    arena_free(a);
    return ok ||
           err_code(e, EXIT_USAGE,
                    "--pipeline_stages %d, --pipeline_chunks %d: this model cannot be cut into %d parts",
                    p->stages, p->chunks, parts);
}

/* A parameter that several nodes read is one matrix for both ends of the model, and of the pipeline (layout.h: SHARED). */
static bool check_params(const struct plan *p, const struct graph *g, const bool *expert, int *reader,
                         struct err *e)
{
    for (int i = 0; i < g->n_nodes; i++)
        for (int j = 0; j < g->nodes[i].anno->n_inputs; j++) {
            const int param = g->values[g->nodes[i].arg[j]].param, part = plan_part_of(p, i);
            if (param < 0)
                continue;
            if (reader[param] && (reader[param] != 1 || part != plan_parts(p) - 1 || expert[param]))
                return err_code(e, EXIT_USAGE,
                                "--pipeline_stages %d: %s is used in parts %d and %d of %d: expected the "
                                "first and the last one, as tied embeddings are, or 1 stage",
                                p->stages, g->params.item[param].name, reader[param] - 1, part,
                                plan_parts(p));
            reader[param] = part + 1;
        }
    return true;
}

bool cut_check(const struct plan *p, const struct graph *g, struct err *e)
{
    if (plan_parts(p) == 1)
        return true;
    struct arena *a = arena_new("cut check");
    struct cut_places at;
    find_places(a, g, &at);
    bool ok = p->cut[0] == 0 && p->cut[plan_parts(p)] == g->n_nodes;
    for (int i = 0; i < plan_parts(p) && ok; i++)
        ok = p->cut[i] < p->cut[i + 1] && p->cut[i + 1] <= g->n_nodes &&
             may_be_part(&at, p->cut[i], p->cut[i + 1]);
    if (!ok)
        err_set(e,
                "plan: cut, expected ascending nodes between which only a residual sum and its addend live");
    ok = ok && check_params(p, g, layout_experts(a, g), ARENA_NEW(a, int, g->params.n), e);
    arena_free(a);
    return ok;
}
