/* random_plan.h - layouts of the small model, drawn by seed: all that they can be, with two lanes. Some are none: is_legal(). */
#pragma once
#include "base/rng.h"
#include "plan/cut.h"
#include "tests/small_model.h"
#include <string.h>
struct draw {
    uint64_t seed, n;
};

static inline int below(struct draw *d, int n)
{
    return (int)(rng_u64(17, d->seed, d->n++) % (uint64_t)n);
}

static inline int divisor(struct draw *d, int n)
{
    int k = 1 + below(d, n);
    while (n % k)
        k--;
    return k;
}

static inline struct plan random_plan(struct draw *d)
{
    struct plan p = one_rank_plan(1, 16, 7 + below(d, 2) * 1000);
    p.n_ranks = (const int[]){ 2, 4, 4, 8, 8, 6 }[below(d, 6)];
    p.unit_ranks = below(d, 3) ? p.n_ranks : divisor(d, p.n_ranks);
    p.stages = below(d, 3) ? 1 : divisor(d, p.unit_ranks);
    p.chunks = p.stages > 1 ? 1 + below(d, 2) : 1;
    p.expert_parallel = below(d, 4) ? plan_unit_workers(&p) : divisor(d, plan_unit_workers(&p));
    p.tensor_parallel = below(d, 2) ? 1 : divisor(d, plan_unit_workers(&p));
    p.vocabulary_parallel = below(d, 2) ? 1 : p.tensor_parallel;
    p.zero_ranks = below(d, 2) ? plan_workers(&p) : plan_unit_workers(&p);
    p.zero = p.zero_ranks > 1 ? 1 + below(d, 3) : 0;
    p.micro_batch = 1 + below(d, 2);
    p.accumulation = p.stages * (1 + below(d, 2));
    p.global_batch = p.micro_batch * p.accumulation * plan_workers(&p);
    p.reproducible = below(d, 4) == 0;
    p.tile = plan_tile(CPU, p.reproducible);
    p.row_capacity = p.expert_parallel > 1 ? 8 * (1 + below(d, 8)) : 0;
    p.recompute = below(d, 2) * below(d, 60);
    p.overlap = 1 + below(d, 2);
    p.keep_rows = p.expert_parallel > 1 && below(d, 2);
    return p;
}

/* The small model for a plan; one in three has a matrix at both of its ends. */
static inline struct graph *random_graph(struct arena *a, struct draw *d, const struct plan *p)
{
    struct model_config m = small_model(96, 32);
    m.tied = below(d, 3) == 0;
    return graph_for_plan(a, p, &m);
}

/* Has the graph no matrix of its own for the head? */
static inline bool is_tied(const struct graph *g)
{
    for (int i = 0; i < g->params.n; i++)
        if (strstr(g->params.item[i].name, "lm_head"))
            return false;
    return true;
}

static inline bool is_legal(const struct graph *g, struct plan *p)
{
    struct cluster c;
    struct err e = { 0 };
    cluster_cpu(&c, 1, 1, 1);
    return (plan_parts(p) == 1 || cut_choose(g, &c, NULL, p, &e)) && plan_check(p, g, &e);
}
