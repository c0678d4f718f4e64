/* explain.c - see explain.h. A plan is lowered once (its slowest stage) and predicted with many clusters. */
#include "run/explain.h"
#include "config/config.h"
#include "sched/predict.h"
#include <math.h>
#include <stdio.h>

struct machines { /* a cluster whose rates may change */
    struct cluster cluster;
    struct rates table;
};
struct lever { /* what may change alone */
    const char *name;
    void (*scale)(struct machines *m, double factor); /* factor > 1: faster */
};

static void scale_link(struct link *l, double factor)
{
    for (int k = 0; k < TRANSFERS; k++)
        l->bytes_per_s[k] *= factor;
}

static void scale_inside(struct machines *m, double factor)
{
    scale_link(&m->cluster.inside, factor);
}

static void scale_between(struct machines *m, double factor)
{
    scale_link(&m->cluster.between, factor);
}

static void scale_latency(struct machines *m, double factor)
{
    m->cluster.inside.latency_us /= factor;
    m->cluster.between.latency_us /= factor;
}

static void scale_products(struct machines *m, double factor)
{
    m->cluster.flops_per_s *= factor;
    m->table.flops_part *= factor;
}

static void scale_memory(struct machines *m, double factor)
{
    m->cluster.memory_bytes_per_s *= factor;
    m->table.bytes_part *= factor;
}

static const struct lever levers[] = { { "links inside a node", scale_inside },
                                       { "links between nodes", scale_between },
                                       { "messages", scale_latency },
                                       { "matrix products", scale_products },
                                       { "memory", scale_memory } };
enum { MOST_STAGES = 16 }; /* of a pipeline that is tried */
enum { LEVERS = sizeof levers / sizeof *levers };

static double step_us(const struct program *p, const struct cluster *base, const struct lever *l,
                      double factor)
{
    struct machines m = { .cluster = *base };
    struct plan_cost cost;
    if (base->rates) {
        m.table = *base->rates;
        m.cluster.rates = &m.table;
    }
    l->scale(&m, factor);
    sched_predict(p, &m.cluster, &cost);
    return cost.step_us;
}

struct pair { /* of programs: that of the plan, and another */
    const struct program *best, *other;
    const struct cluster *cluster;
};

static bool wins(const struct pair *x, const struct lever *l, double factor)
{
    return step_us(x->other, x->cluster, l, factor) < step_us(x->best, x->cluster, l, factor);
}

/* The factor nearest to 1, up to `most` (or 1 / most), with which the other one wins; 0 = none. */
static double crossing(const struct pair *x, const struct lever *l, double most)
{
    double loses = 0, wins_at = log(most);
    if (!wins(x, l, most))
        return 0;
    while (fabs(wins_at - loses) > 0.002) {
        const double middle = (wins_at + loses) / 2;
        *(wins(x, l, exp(middle)) ? &wins_at : &loses) = middle;
    }
    return exp(wins_at);
}

/* The smallest change of one rate. */
static bool change_of_rate(const struct pair *x, char *text)
{
    double least = 0;
    const struct lever *what = NULL;
    for (int i = 0; i < LEVERS; i++)
        for (int slower = 0; slower < 2; slower++) {
            const double factor = crossing(x, &levers[i], slower ? 1e-3 : 1e3);
            if (factor > 0 && (!what || fabs(log(factor)) < fabs(log(least)))) {
                least = factor;
                what = &levers[i];
            }
        }
    if (what)
        snprintf(text, EXPLAIN_TEXT, "faster than the plan if %s were %.2f times as %s", what->name,
                 least > 1 ? least : 1 / least, least > 1 ? "fast" : "slow");
    return what != NULL;
}

static void change(const struct pair *x, const struct plan_limits *l, char *text)
{
    const struct plan *best = &x->best->plan, *other = &x->other->plan;
    const int64_t more = other->memory.peak_bytes - plan_slab_limit(l, other),
                  less = plan_slab_limit(l, best) - best->memory.peak_bytes;
    if (more > 0)
        snprintf(text, EXPLAIN_TEXT, "fits with %.3f GB more memory per rank", (double)more / 1e9);
    else if (!change_of_rate(x, text)) {
        if (other->memory.peak_bytes < best->memory.peak_bytes)
            snprintf(text, EXPLAIN_TEXT,
                     "no rate alone; it needs less: with %.3f GB less the plan does not fit",
                     (double)(less + 1) / 1e9);
        else
            snprintf(text, EXPLAIN_TEXT, "nothing: no rate alone, up to a thousandfold, and it needs %s",
                     other->memory.peak_bytes > best->memory.peak_bytes ? "more memory" : "the same memory");
    }
}

static void compare(const struct setup *s, const struct plan_limits *l, const struct program *best,
                    const struct plan *other, struct alternative *out)
{
    struct arena *a = arena_new("alternative");
    struct program program;
    setup_lower(s, a, other, &program);
    const struct pair x = { best, &program, &s->cluster };
    out->plan = *other;
    search_reason(&best->plan, other, out->why, sizeof out->why);
    change(&x, l, out->wins);
    arena_free(a);
}

struct buyer {
    const struct setup *s;
    const struct plan_limits *l;
    const struct plan *p;
    double until; /* no further search from then on */
    struct explanation *out;
};

/* The best plan that is faster than `than`; false: none is, or there was no time to look. */
static bool buy(const struct buyer *b, const struct setup *s, const struct plan_limits *l,
                const struct plan *than, struct purchase *out)
{
    struct search_result found;
    if (exec_now() > b->until) {
        b->out->n_skipped++;
        return false;
    }
    if (!setup_faster(s, l, than, &found))
        return false;
    out->plan = found.best[0];
    out->step_us = out->plan.cost.step_us;
    return true;
}

static struct purchase *next_purchase(const struct buyer *b, const char *what, double step_us)
{
    struct purchase *x = &b->out->purchase[b->out->n_purchases++];
    *x = (struct purchase){ .step_us = step_us };
    snprintf(x->what, sizeof x->what, "%s", what);
    return x;
}

/* Twice the links: what the plan takes then, and whether another is faster. */
static void buy_links(const struct buyer *b, const struct program *best)
{
    struct setup doubled = *b->s;
    struct plan p = *b->p;
    scale_link(&doubled.cluster.inside, 2);
    scale_link(&doubled.cluster.between, 2);
    sched_predict(best, &doubled.cluster, &p.cost);
    buy(b, &doubled, b->l, &p, next_purchase(b, "links twice as fast", p.cost.step_us));
}

static void buy_memory(const struct buyer *b)
{
    struct plan_limits more = *b->l;
    more.memory_bytes += 1000000000;
    buy(b, b->s, &more, b->p, next_purchase(b, "1 GB more per rank", b->p->cost.step_us));
}

/* Where the search takes a pipeline only if nothing else fits: the best one for its time. */
static void buy_stages(const struct buyer *b)
{
    struct plan_limits staged = *b->l;
    struct purchase found = { .step_us = b->p->cost.step_us };
    struct plan best = *b->p;
    for (int n = 2; n <= MOST_STAGES && !setup_any_stages(b->s) && b->l->stages == 0 && b->p->stages == 1;
         n++) {
        staged.stages = n;
        staged.chunks = 1;
        if (b->p->unit_ranks % n == 0 && buy(b, b->s, &staged, &best, &found)) {
            best = found.plan;
            snprintf(found.what, sizeof found.what, "--pipeline_stages %d", n);
        }
    }
    if (found.plan.n_ranks)
        b->out->purchase[b->out->n_purchases++] = found;
}

static bool repeats(const struct plan *p)
{
    return p->recompute > p->recompute_least;
}

/* A plan with these numbers that is faster than *least, which it then is. */
static void try_numbers(const struct buyer *b, const struct numbers *n, const char *what, struct plan *least)
{
    struct plan than = *least;
    struct purchase found = { .step_us = than.cost.step_us };
    than.numbers = *n;
    snprintf(found.what, sizeof found.what, "%s", what);
    if (!buy(b, b->s, b->l, &than, &found))
        return;
    b->out->purchase[b->out->n_purchases++] = found;
    *least = found.plan;
}

/* The plan has the most exact numbers that fit. Less exact ones may be faster: gradients in bfloat16 are half as many bytes to
 * add and to sum over ranks, and both kinds leave memory where backward repeats operators for want of it. It says so, and they are
 * taken where they are asked for. */
static void buy_numbers(const struct buyer *b)
{
    struct plan with_moments = *b->p, with_gradient = *b->p;
    struct numbers moments = b->p->numbers, gradient = b->p->numbers;
    if (moments.backend == CPU)
        return;
    const bool less_moments = b->s->moments == 0 && moments.moments != MOMENTS_BYTE && repeats(b->p),
               less_gradient =
                   b->s->gradient == GRADIENT_AUTO && gradient.gradient == F32 && !b->p->reproducible;
    moments.moments = MOMENTS_BYTE;
    gradient.gradient = BF16;
    if (less_moments)
        try_numbers(b, &moments, "--moments int8", &with_moments);
    if (less_gradient)
        try_numbers(b, &gradient, "--gradient_dtype bf16", &with_gradient);
    if (!less_moments || !less_gradient || !repeats(&with_gradient))
        return;
    moments.gradient = BF16;
    try_numbers(b, &moments, "--moments int8 --gradient_dtype bf16",
                with_moments.cost.step_us < with_gradient.cost.step_us ? &with_moments : &with_gradient);
}

/* Those that do not fit first: they are faster. At most half of all, so that both kinds are seen. */
void explain_plan(const struct setup *s, const struct plan_limits *l, const struct plan *p,
                  const struct search_result *found, double seconds, struct explanation *out)
{
    struct arena *a = arena_new("explanation");
    struct program best;
    const double start = exec_now();
    const int slower = found->n > 0 ? found->n - 1 : 0, room = ALTERNATIVES - slower;
    const int larger = found->n_larger < (room > 2 ? room : 2) ? found->n_larger : room > 2 ? room : 2;
    *out = (struct explanation){ 0 };
    setup_lower(s, a, p, &best);
    best.plan = *p;
    for (int i = 0; i < larger; i++)
        compare(s, l, &best, &found->larger[i], &out->alternative[out->n++]);
    for (int i = 1; i < found->n && out->n < ALTERNATIVES; i++)
        compare(s, l, &best, &found->best[i], &out->alternative[out->n++]);
    const struct buyer b = { s, l, p, start + seconds, out };
    buy_memory(&b);
    buy_links(&b, &best);
    buy_stages(&b);
    buy_numbers(&b);
    arena_free(a);
    out->seconds = exec_now() - start;
}
