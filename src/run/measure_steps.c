/* measure_steps.c - see measure_steps.h. */
#include "run/measure_steps.h"
#include "sched/predict.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST_STEPS = 3, MOST_STEPS = 25 };

struct timed {                 /* a whole step */
    double seconds;            /* of the slowest rank */
    double computed;           /* by this rank */
    double call[MEASURE_MOST]; /* of a distinct call, on this rank: others may have other ranges of a flat */
    struct waits waits;
};

static void clear_spent(struct exec *x)
{
    for (int k = 0; k < LISTS; k++)
        memset(x->spent[k], 0, (size_t)x->program->list[k].n * sizeof *x->spent[k]);
}

static struct waits waits_of(const struct measure *m, const struct cluster *links)
{
    const struct exec *x = &m->engine.exec;
    const struct program *p = x->program;
    const double times = (double)m->plan.accumulation;
    struct cluster later = *links;
    struct waits w = { 0, 0 };
    later.inside.latency_us += 1;
    later.between.latency_us += 1;
    for (int i = 0; i < p->list[LIST_MICRO].n; i++) {
        const struct instr *in = &p->list[LIST_MICRO].item[i];
        if (sched_cost_class(in, LIST_MICRO) != COST_EXCHANGE)
            continue;
        const double told = sched_instr_us(p, in, links);
        w.us += 1e6 * x->spent[LIST_MICRO][i] - times * told;
        w.messages += times * (sched_instr_us(p, in, &later) - told);
    }
    return w;
}

static void time_step(struct measure *m, const struct cluster *links, struct timed *out)
{
    struct exec *x = &m->engine.exec;
    double times[MEASURE_MOST] = { 0 }; /* that a call was run by this rank */
    *out = (struct timed){ 0 };
    clear_spent(x);
    comm_barrier();
    const double start = exec_now();
    step_train(&m->stepper, 0, 0, m->plan.global_batch);
    out->seconds = comm_max(exec_now() - start);
    for (int k = 0; k < LISTS; k++)
        for (int i = 0; i < x->program->list[k].n; i++)
            if (x->program->list[k].item[i].kind == RUN_OP && x->spent[k][i] > 0) {
                const int64_t at = measure_find(m, (enum list_kind)k, &x->program->list[k].item[i]) - m->call;
                out->call[at] += x->spent[k][i];
                out->computed += x->spent[k][i];
                times[at] += (double)(k == LIST_MICRO ? m->plan.accumulation : 1);
            }
    for (int i = 0; i < m->n; i++)
        out->call[i] /= fmax(1, times[i]);
    if (links)
        out->waits = waits_of(m, links);
}

static int shorter_first(const void *x, const void *y)
{
    const struct timed *a = x, *b = y;
    return a->seconds < b->seconds ? -1 : a->seconds > b->seconds;
}

/* Sorted rows have room for more than there are; a call's time is taken as if all were there. */
static double whole_call(const struct measure *m, const struct measured *r)
{
    return 1 / sched_rows_part(&m->engine.program, r->first);
}

/* The mean of the quicker half, for what else the machine does belongs to no operator, and ranks that share a core interrupt each
 * other. */
double measure_steps(struct measure *m, struct arena *a, double enough_seconds, const struct cluster *links,
                     struct waits *w)
{
    struct exec *x = &m->engine.exec;
    struct timed *steps = ARENA_NEW(a, struct timed, MOST_STEPS);
    double computed = 0;
    int n = 0;
    for (int k = 0; k < LISTS; k++)
        x->spent[k] = ARENA_NEW(a, double, x->program->list[k].n + 1);
    for (const double begin = exec_now();
         n < FEWEST_STEPS || (n < MOST_STEPS && comm_max(exec_now() - begin) < enough_seconds);)
        time_step(m, w ? links : NULL, &steps[n++]);
    qsort(steps, (size_t)n, sizeof *steps, shorter_first);
    const int half = (n + 1) / 2;
    for (int k = 0; k < half; k++) {
        computed += steps[k].computed / half;
        if (w) {
            w->us += steps[k].waits.us / half;
            w->messages += steps[k].waits.messages / half;
        }
    }
    for (int i = 0; i < m->n; i++) {
        double sum = 0;
        for (int k = 0; k < half; k++)
            sum += steps[k].call[i];
        if (m->call[i].seconds == 0 && sum > 0)
            m->call[i].seconds = m->call[i].least_seconds = sum / half * whole_call(m, &m->call[i]);
    }
    return computed;
}
