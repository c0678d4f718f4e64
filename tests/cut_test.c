/* Where a pipeline is cut, against a solver of mixed integer programs (cbc, where it is installed). */
#include "model/deepseek_v2.h"
#include "plan/cut.h"
#include "sched/pipeline.h"
#include "tests/cbc.h"
#include "tests/small_model.h"
#include "tests/test.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct problem {
    struct arena *arena;
    const struct graph *graph;
    struct cluster cluster;
    struct cut_places at;
    struct plan plan;
};

static uint64_t state;
static int draw(int below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int)((state >> 33) % (uint64_t)below);
}

static void begin(struct problem *x, int seed)
{
    struct model_values v;
    state = (uint64_t)seed * 7919 + 17;
    struct model_config m = small_model(32 << draw(6), 16 << draw(3));
    m.layers = 2 + draw(7);
    m.first_dense = draw(3);
    m.dense_width = 16 << draw(5);
    const struct model_options o = { .batch = 8, .sequence = 16 };
    x->arena = arena_new("test");
    x->graph = deepseek_v2_graph(x->arena, &m, &o, &v);
    cluster_cpu(&x->cluster, 1, 1, 8);
    x->cluster.call_us = draw(20);
    x->cluster.flops_per_s = 1e9 * (1 + draw(50));
    x->plan = one_rank_plan(8, 16, 1000);
    cut_places(x->arena, x->graph, &x->cluster, &x->plan.numbers, &x->at);
    x->plan.stages = 2 + draw(4);
    x->plan.n_ranks = x->plan.unit_ranks = x->plan.stages;
    x->plan.chunks = 1 + draw(2);
}

static double slowest_part(const struct problem *x)
{
    double most = 0;
    for (int i = 0; i < plan_parts(&x->plan); i++)
        most = fmax(most, x->at.before[x->plan.cut[i + 1]] - x->at.before[x->plan.cut[i]]);
    return most;
}

/* The sum of weight[node] over the places of cut k; x_k_node = 1 where it lies. Ends are fixed. */
static void add_place(FILE *f, const struct problem *x, const char *sign, int k, const double *weight)
{
    for (int i = 0; i <= x->graph->n_nodes; i++)
        if (x->at.oldest[i] >= 0)
            fprintf(f, " %s %.9g x_%d_%d", sign, weight[i], k, i);
}

/* minimize t; cut k + 1 lies behind cut k, and nothing older than cut k crosses it. */
static void write_program(const struct problem *x, const char *path)
{
    FILE *f = fopen(path, "w");
    const int n = x->graph->n_nodes, parts = plan_parts(&x->plan);
    double *index = ARENA_NEW(x->arena, double, n + 1), *oldest = ARENA_NEW(x->arena, double, n + 1),
           *one = ARENA_NEW(x->arena, double, n + 1);
    for (int i = 0; i <= n; i++) {
        index[i] = i;
        oldest[i] = x->at.oldest[i];
        one[i] = 1;
    }
    fprintf(f, "Minimize\n t\nSubject To\n");
    for (int k = 0; k <= parts; k++) {
        add_place(f, x, "+", k, one);
        fprintf(f, " = 1\n");
    }
    fprintf(f, " x_0_0 = 1\n x_%d_%d = 1\n", parts, n);
    for (int k = 0; k < parts; k++) {
        add_place(f, x, "+", k + 1, x->at.before);
        add_place(f, x, "-", k, x->at.before);
        fprintf(f, " - t <= 0\n");
        add_place(f, x, "+", k + 1, index);
        add_place(f, x, "-", k, index);
        fprintf(f, " >= 1\n");
        add_place(f, x, "+", k + 1, oldest);
        add_place(f, x, "-", k, index);
        fprintf(f, " >= 0\n");
    }
    fprintf(f, "Binary\n");
    for (int k = 0; k <= parts; k++)
        for (int i = 0; i <= n; i++)
            if (x->at.oldest[i] >= 0)
                fprintf(f, " x_%d_%d\n", k, i);
    fprintf(f, "End\n");
    fclose(f);
}

/* Negative: there is no solution. */
static double solve(struct arena *a)
{
    const char *line = cbc_solve(a, "cut", "ratio 0");
    return strncmp(line, "Optimal", 7) == 0 ? cbc_value(line) : -1;
}

TEST(cuts_are_those_of_a_solver)
{
    int impossible = 0;
    if (!have_cbc())
        return;
    for (int seed = 0; seed < 100; seed++) {
        struct problem x;
        struct err e = { 0 };
        begin(&x, seed);
        write_program(&x, arena_printf(x.arena, "%s/cut.lp", test_dir()));
        const double best = solve(x.arena);
        const bool ok = cut_choose(x.graph, &x.cluster, NULL, &x.plan, &e);
        EXPECTF(ok == (best >= 0), "case %d: %s", seed, e.text);
        if (ok)
            EXPECTF(fabs(slowest_part(&x) - best) <= 1e-6 * best, "case %d: %.9g us, the solver has %.9g",
                    seed, slowest_part(&x), best);
        impossible += !ok;
        arena_free(x.arena);
    }
    EXPECTF(impossible < 50, "%d of 100 cannot be cut", impossible);
}

/* Of the schedule itself; a third of a part is forward. */
static double schedule_us(const struct plan *p, const double *part_us)
{
    double us[2][PLAN_PARTS];
    for (int i = 0; i < plan_parts(p); i++)
        for (int k = 0; k < 2; k++)
            us[k][i % p->stages * p->chunks + i / p->stages] = part_us[i] * (k + 1) / 3;
    return pipeline_us(p->stages, p->chunks, p->accumulation, us[0], us[1]);
}

static double judged(const struct problem *x, const struct plan *p)
{
    double part_us[PLAN_PARTS] = { 0 };
    for (int i = 0; i < plan_parts(p); i++)
        part_us[i] = x->at.before[p->cut[i + 1]] - x->at.before[p->cut[i]];
    return schedule_us(p, part_us);
}

enum { MOST_TRIED = 20000 };

/* The least of all cuts from the k-th on; more than MOST_TRIED in all: gives up. */
static void try_all(const struct problem *x, struct plan *p, int k, int *tried, double *least)
{
    const int parts = plan_parts(p), n = x->graph->n_nodes;
    if (*tried > MOST_TRIED)
        return;
    if (k == parts) {
        if (x->at.oldest[n] >= p->cut[k - 1]) {
            p->cut[k] = n;
            *least = fmin(*least, judged(x, p));
            ++*tried;
        }
        return;
    }
    for (int i = p->cut[k - 1] + 1; i < n; i++)
        if (x->at.oldest[i] >= p->cut[k - 1]) {
            p->cut[k] = i;
            try_all(x, p, k + 1, tried, least);
        }
}

/* Search from even parts: never worse than those, and near to the best of all cuts. */
TEST(cuts_follow_the_schedule)
{
    double off = 0, most = 0, gained = 0;
    int n = 0;
    for (int seed = 0; seed < 400 && n < 60; seed++) {
        struct problem x;
        struct err e = { 0 };
        begin(&x, seed);
        x.plan.accumulation = x.plan.stages * (1 + seed % 3);
        struct plan even = x.plan, all = x.plan;
        double least = INFINITY;
        int tried = 0;
        if (cut_choose(x.graph, &x.cluster, schedule_us, &x.plan, &e)) {
            try_all(&x, &all, 1, &tried, &least);
            EXPECT(cut_choose(x.graph, &x.cluster, NULL, &even, &e) && cut_check(&x.plan, x.graph, &e));
            EXPECT(judged(&x, &x.plan) <= judged(&x, &even) * (1 + 1e-9));
        }
        if (tried > 0 && tried <= MOST_TRIED) {
            const double above = judged(&x, &x.plan) / least - 1;
            EXPECTF(above > -1e-9, "case %d: %g below the best of all", seed, -above);
            off += above;
            most = fmax(most, above);
            gained += judged(&x, &even) / judged(&x, &x.plan) - 1;
            n++;
        }
        arena_free(x.arena);
    }
    printf("  %d cases: %.2f %% above the best of all, %.1f at most; even parts %.2f %% above these\n", n,
           100 * off / n, 100 * most, 100 * gained / n);
    EXPECT(n >= 40 && off / n < 0.01 && most < 0.1 && gained > 0);
}
