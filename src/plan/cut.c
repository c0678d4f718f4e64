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

/* Of a node, forward and backward: by the table of the device, or by what it reaches of FLOPs and bytes. */
static double node_us(const struct graph *g, const struct node *n, const struct cluster *c,
                      const struct numbers *numbers)
{
    const struct rates *table = c->rates && c->rates->backend == numbers->backend ? c->rates : NULL;
    double flops[2], bytes[2], gradient[2] = { 0, 0 }, us = 0;
    op_cost(n->op, n->dim, n->attr, flops, bytes);
    for (int j = 0; j < n->anno->n_inputs; j++)
        if (g->values[n->arg[j]].param >= 0)
            gradient[1] += 2 * (double)graph_elements(&g->values[n->arg[j]]) *
                           (double)num_dtype_bytes(numbers->gradient);
    for (int way = WAY_FWD; way <= WAY_BWD; way++) {
        const struct rates_call call = { .op = n->op->name, .way = (enum way)way };
        const double seconds =
            table ? rates_seconds(table, &call, flops[way], bytes[way], gradient[way]) : -1;
        us += 1e6 * (seconds >= 0 ? seconds
                                  : fmax(flops[way] / c->flops_per_s, bytes[way] / c->memory_bytes_per_s));
    }
    return us + 2 * c->call_us;
}

void cut_places(struct arena *a, const struct graph *g, const struct cluster *c,
                const struct numbers *numbers, struct cut_places *out)
{
    find_places(a, g, out);
    out->before = ARENA_NEW(a, double, g->n_nodes + 1);
    for (int i = 0; i < g->n_nodes; i++)
        out->before[i + 1] = out->before[i] + node_us(g, &g->nodes[i], c, numbers);
}

/* May nodes [from, to) be a part? */
static bool may_be_part(const struct cut_places *p, int from, int to)
{
    return p->oldest[from] >= 0 && p->oldest[to] >= from;
}

/* Of the slowest part as little as can be; false: there are too few places. */
static bool even_parts(struct arena *a, const struct cut_places *at, int n_nodes, struct plan *p)
{
    const int parts = plan_parts(p);
    int *place = ARENA_NEW(a, int, n_nodes + 1), n = 0;
    for (int i = 0; i <= n_nodes; i++)
        if (at->oldest[i] >= 0)
            place[n++] = i;
    /* worst[k][i]: of the slowest of k parts in front of place i, at best; from: where the last of them begins */
    double *worst = ARENA_NEW(a, double, (int64_t)(parts + 1) * n);
    int *from = ARENA_NEW(a, int, (int64_t)(parts + 1) * n);
    for (int k = 0; k <= parts; k++)
        for (int i = 0; i < n; i++) {
            double *best = &worst[k * n + i];
            *best = k == 0 && i == 0 ? 0 : INFINITY;
            for (int j = 0; k > 0 && j < i; j++) {
                const double slowest =
                    fmax(worst[(k - 1) * n + j], at->before[place[i]] - at->before[place[j]]);
                if (slowest < *best && may_be_part(at, place[j], place[i])) {
                    *best = slowest;
                    from[k * n + i] = j;
                }
            }
        }
    if (worst[parts * n + n - 1] == INFINITY)
        return false;
    for (int k = parts, i = n - 1; k >= 0; i = from[k-- * n + i])
        p->cut[k] = place[i];
    return true;
}

/* What each part takes. */
static void time_parts(const struct cut_places *at, const struct plan *p, double part_us[PLAN_PARTS])
{
    for (int i = 0; i < plan_parts(p); i++)
        part_us[i] = at->before[p->cut[i + 1]] - at->before[p->cut[i]];
}

/* Below which no step is: its micro-batches through the slowest stage. */
static double floor_us(const struct plan *p, const double *part_us)
{
    double stage[PLAN_PARTS] = { 0 }, most = 0;
    for (int i = 0; i < plan_parts(p); i++)
        stage[i % p->stages] += part_us[i];
    for (int i = 0; i < p->stages; i++)
        most = fmax(most, stage[i]);
    return (double)p->accumulation * most;
}

/* Moves cuts [first, last] to the next places that way; false: they would not be between parts. */
static bool shift(const struct cut_places *at, struct plan *p, int first, int last, int way)
{
    const int end = p->cut[plan_parts(p)];
    for (int k = first; k <= last; k++)
        do
            p->cut[k] += way;
        while (p->cut[k] > 0 && p->cut[k] < end && at->oldest[p->cut[k]] < 0);
    for (int k = first - 1; k <= last; k++)
        if (p->cut[k] >= p->cut[k + 1] || !may_be_part(at, p->cut[k], p->cut[k + 1]))
            return false;
    return true;
}

/* Is it below *least? Notes it. */
static bool gains(const struct cut_places *at, cut_judge *step_us, const struct plan *p, double *least)
{
    double part_us[PLAN_PARTS] = { 0 };
    const double enough = *least * (1 - 1e-6);
    time_parts(at, p, part_us);
    if (floor_us(p, part_us) >= enough)
        return false;
    const double us = step_us(p, part_us);
    if (us >= enough)
        return false;
    *least = us;
    return true;
}

/* Shifts rows of neighbouring cuts, so that work moves from a stage to any other one, as long as it gains. */
static void shift_cuts(const struct cut_places *at, cut_judge *step_us, struct plan *p)
{
    double least = INFINITY;
    for (bool again = gains(at, step_us, p, &least); again;) {
        again = false;
        for (int first = 1; first < plan_parts(p); first++)
            for (int last = first; last < plan_parts(p) && last < first + p->stages; last++)
                for (int way = -1; way <= 1; way += 2) {
                    struct plan trial = *p;
                    if (!shift(at, &trial, first, last, way) || !gains(at, step_us, &trial, &least))
                        continue;
                    memcpy(p->cut, trial.cut, sizeof p->cut);
                    again = true;
                }
    }
}

bool cut_choose(const struct graph *g, const struct cluster *c, cut_judge *step_us, struct plan *p,
                struct err *e)
{
    struct arena *a = arena_new("cuts");
    struct cut_places at;
    cut_places(a, g, c, &p->numbers, &at);
    const bool ok = even_parts(a, &at, g->n_nodes, p);
    if (ok && step_us)
        shift_cuts(&at, step_us, p);
    arena_free(a);
    return ok ||
           err_code(e, EXIT_USAGE,
                    "--pipeline_stages %d, --pipeline_chunks %d: this model cannot be cut into %d parts",
                    p->stages, p->chunks, plan_parts(p));
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
