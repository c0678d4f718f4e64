/* Where a pipeline is cut, against a solver of mixed integer programs (cbc, where it is installed). */
#include "model/deepseek_v2.h"
#include "plan/cut.h"
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
    cut_places(x->arena, x->graph, &x->cluster, &x->at);
    x->plan = one_rank_plan(8, 16, 1000);
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
        const bool ok = cut_choose(x.graph, &x.cluster, &x.plan, &e);
        EXPECTF(ok == (best >= 0), "case %d: %s", seed, e.text);
        if (ok)
            EXPECTF(fabs(slowest_part(&x) - best) <= 1e-6 * best, "case %d: %.9g us, the solver has %.9g",
                    seed, slowest_part(&x), best);
        impossible += !ok;
        arena_free(x.arena);
    }
    EXPECTF(impossible < 50, "%d of 100 cannot be cut", impossible);
}
