/* simulation.c - see simulation.h. */
#include "run/simulation.h"
#include "run/trace.h"
#include <stdio.h>

enum { OWN_LISTS = 32, SHOWN_RANKS = 16 };

static struct program *lower(struct arena *a, const struct graph *g, const struct plan *p, int rank)
{
    const struct adamw o = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
    struct program *x = ARENA_NEW(a, struct program, 1);
    sched_lower(a, g, p, rank, true, &o, x);
    return x;
}

/* Of every stage, the rank that owns most stands for the others where there are many. */
static const struct program **lower_ranks(struct arena *a, const struct setup *s, const struct plan *p)
{
    const struct model_options o = { .batch = plan_graph_batch(p),
                                     .sequence = p->sequence,
                                     .vocabulary_parts = p->vocabulary_parallel,
                                     .compat_nnscaler = s->compat_nnscaler };
    struct model_values v;
    const struct graph *g = model_graph(a, &s->model, &o, &v);
    const struct program **all = ARENA_NEW(a, const struct program *, p->n_ranks), *fullest = NULL;
    for (int r = 0; r < p->n_ranks; r++) {
        struct layout l;
        if (p->n_ranks > OWN_LISTS && plan_worker(p, r) == 0) {
            layout_make(a, g, p, r, &l);
            fullest = lower(a, g, p, layout_fullest_rank(&l, p));
        }
        all[r] = fullest ? fullest : lower(a, g, p, r);
    }
    return all;
}

struct column { /* of the table: least, mean and most over all ranks */
    double least, sum, most;
};

static void count(struct column *c, double x, bool first)
{
    c->least = first || x < c->least ? x : c->least;
    c->most = first || x > c->most ? x : c->most;
    c->sum += x;
}

enum { COLUMNS = 7 };

static void values_of(const struct simulation *s, int rank, double x[COLUMNS])
{
    const struct sim_rank *r = &s->rank[rank];
    for (int k = 0; k < COST_CLASSES; k++)
        x[k] = r->class_us[k] / 1e3;
    x[4] = r->wait_us / 1e3;
    x[5] = r->side_us / 1e3;
    x[6] = (double)s->program[rank]->memory.peak_bytes / 1e9;
}

static void add_row(struct str *out, const char *name, const double x[COLUMNS])
{
    str_addf(out, "%-8s %12.2f %12.2f %12.2f %12.2f %12.2f %12.2f %12.3f\n", name, x[0], x[1], x[2], x[3],
             x[4], x[5], x[6]);
}

static void add_table(struct str *out, const struct simulation *s, int n)
{
    struct column c[COLUMNS] = { 0 };
    double x[COLUMNS], least[COLUMNS], mean[COLUMNS], most[COLUMNS];
    str_addf(out, "%-8s %12s %12s %12s %12s %12s %12s %12s\n", "rank", "compute ms", "exchange",
             "collectives", "optimizer", "waiting", "beside", "peak GB");
    for (int r = 0; r < n; r++) {
        char name[16];
        values_of(s, r, x);
        for (int k = 0; k < COLUMNS; k++)
            count(&c[k], x[k], r == 0);
        snprintf(name, sizeof name, "%d", r);
        if (n <= SHOWN_RANKS)
            add_row(out, name, x);
    }
    for (int k = 0; k < COLUMNS; k++) {
        least[k] = c[k].least;
        mean[k] = c[k].sum / n;
        most[k] = c[k].most;
    }
    add_row(out, "least", least);
    add_row(out, "mean", mean);
    add_row(out, "most", most);
}

static void report(struct str *out, const struct setup *s, const struct plan *p, const struct simulation *x)
{
    const double tokens = (double)(p->global_batch * p->sequence), seconds = x->step_us / 1e6;
    str_addf(out, "simulated step of %d ranks: %.3f s, %.0f tokens/s (machines: %s", p->n_ranks, seconds,
             tokens / seconds, s->cluster.name);
    str_addf(out, s->cluster.rates ? ", operators: %s)\n" : ")\n",
             s->cluster.rates ? s->cluster.rates->name : "");
    if (p->n_ranks > OWN_LISTS)
        str_add(out, "all ranks of a stage run the lists of the one that owns most\n");
    add_table(out, x, p->n_ranks);
    if (p->overlap)
        str_add(out, "beside: communication in a lane of its own; the columns before have what compute waits "
                     "for it\n");
    str_add(out, "no deadlock: every collective is entered by all its ranks in the same order\n");
}

static void report_json(struct str *out, const struct plan *p, const struct simulation *x)
{
    static const char *const names[COLUMNS] = { "compute_ms", "exchange_ms", "reduce_ms", "optimizer_ms",
                                                "waiting_ms", "beside_ms",   "peak_gb" };
    str_addf(out, "{\"ranks\": %d, \"step_us\": %.9g, \"rank\": [", p->n_ranks, x->step_us);
    for (int r = 0; r < p->n_ranks; r++) {
        double v[COLUMNS];
        values_of(x, r, v);
        str_add(out, r ? ",\n{" : "\n{");
        for (int k = 0; k < COLUMNS; k++)
            str_addf(out, "%s\"%s\": %.9g", k ? ", " : "", names[k], v[k]);
        str_add(out, "}");
    }
    str_add(out, "]}\n");
}

bool simulation_run(struct arena *a, const struct setup *s, const struct plan *p, const char *trace,
                    int trace_ranks, bool json, struct str *out, struct err *e)
{
    const struct program **programs = lower_ranks(a, s, p);
    struct simulation x = { .program = programs, .cluster = &s->cluster };
    struct trace *t = NULL;
    if (trace) {
        t = trace_open(a, trace, programs, trace_ranks < p->n_ranks ? trace_ranks : p->n_ranks, e);
        if (!t)
            return false;
        x.observe = trace_event;
        x.context = t;
    }
    const bool ok = sched_simulate(a, &x, e);
    struct err lost = { 0 };
    if (t && !trace_publish(t, ok ? e : &lost) && ok)
        return false;
    if (ok && json)
        report_json(out, p, &x);
    else if (ok)
        report(out, s, p, &x);
    return ok;
}
