/* predict.c - see predict.h. */
#include "sched/predict.h"
#include "base/arena.h"
#include "plan/tree.h"
#include "sched/clock.h"
#include "sched/lanes.h"
#include "sched/pipeline.h"
#include <math.h>

struct sums { /* of a section */
    const struct instr *item;
    enum list_kind which;
    double us[COST_CLASSES], all_us;
    double kept_us; /* of them, what is not run with plan.keep_rows */
};

static void add_wait(void *context, int index, bool for_group, double us)
{
    struct sums *s = context;
    (void)for_group; /* a rank alone: all come at once */
    s->us[sched_cost_class(&s->item[index], s->which)] += us;
}

struct aside {        /* that is no part of what a list takes */
    double beside_us; /* of its communication, under compute */
    double kept_us;   /* of what it takes, that plan.keep_rows would save */
};

/* A section `times` over, with what runs in the last micro-batch alone or without. Returns what it takes once. */
static double add(const struct program *p, const struct cluster *c, enum list_kind which, struct section s,
                  bool last, double times, double us[COST_CLASSES], struct aside *aside)
{
    struct arena *a = arena_new("prediction");
    struct sums sums = { .item = p->list[which].item, .which = which };
    struct clock clock = { .waited = add_wait, .context = &sums };
    clock_new(a, p, &clock);
    clock_section(&clock, &p->list[which], s.from);
    for (int i = s.from; i < s.to; i++) {
        const struct instr *in = &p->list[which].item[i];
        const double each = in->last && !last ? 0 : sched_instr_us(p, in, c);
        clock_run(&clock, i, clock_come(&clock, i), each);
        sums.all_us += each;
        if (!p->plan.keep_rows && sched_may_be_left(p, in, c))
            sums.kept_us += each;
        if (!clock_beside(&clock, i))
            sums.us[sched_cost_class(in, which)] += each;
    }
    clock_join(&clock, s.to);
    double once = 0;
    for (int k = 0; k < COST_CLASSES; k++) {
        us[k] += times * sums.us[k];
        once += sums.us[k];
    }
    aside->beside_us += times * (sums.all_us - clock.compute_us);
    aside->kept_us += times * sums.kept_us;
    arena_free(a);
    return once;
}

/* Level k keeps a sum, and adds it, once for each 2^(k + 1) shards. */
static void add_tree(const struct program *p, const struct cluster *c, double us[COST_CLASSES],
                     struct aside *aside)
{
    for (int k = 0; k < plan_tree_levels(&p->plan); k++)
        for (int part = 0; part < p->plan.chunks; part++) {
            const double times = (double)(plan_own_shards(&p->plan) >> (k + 1));
            add(p, c, LIST_TREE, p->tree_keep[part][k], false, times, us, aside);
            add(p, c, LIST_TREE, p->tree_add[part][k], false, times, us, aside);
        }
}

/* once: what each section takes, in the order of lanes_sections(). */
static void add_list(const struct program *p, const struct cluster *c, enum list_kind which, bool last,
                     double times, double us[COST_CLASSES], struct aside *aside, double *once)
{
    struct section section[2 * PLAN_CHUNKS];
    const int n = lanes_sections(p, which, section);
    for (int i = 0; i < n; i++)
        once[i] = add(p, c, which, section[i], last, times, us, aside);
}

/* What a stage waits, as a part of what it computes and exchanges: known of a plan that was measured. Else
 * stages are taken to be equal: the first micro-batch reaches the last one, and the last one comes back, while others wait. */
static double idle_part(const struct plan *p, const struct cluster *c)
{
    if (p->stages > 1 && p->cost.step_us > 0)
        return p->cost.bubble_us / (p->cost.compute_us + p->cost.exchange_us);
    return c->ranks_per_core > 1 ? 0 : (p->stages - 1) / (double)(p->accumulation * p->chunks);
}

/* Copies of moments go beside the update of others and the first forward; on their way back, beside twice as much. */
static void predict_offload(const struct program *p, const struct cluster *c, double micro_us,
                            struct stage_times *t)
{
    const struct offload *o = &p->offload;
    const double beside_us = t->cost.optimizer_us + micro_us / 3, /* a third of the products are forward's */
        copies_us = 1e6 * (double)o->bytes / c->host_bytes_per_s;
    const double hidden = o->each_bytes ? 1e-6 * beside_us * c->host_bytes_per_s / (double)o->each_bytes : 0;
    t->lodgers_hidden = p->plan.numbers.backend == CPU ? 0 : hidden < o->n_most ? (int)hidden : o->n_most;
    t->cost.compute_us += fmax(0, copies_us - (p->plan.numbers.backend == CPU ? 0 : beside_us));
}

void sched_predict_stage(const struct program *p, const struct cluster *c, struct stage_times *t)
{
    const int parts = p->plan.chunks;
    double us[COST_CLASSES] = { 0 }, once[2 * PLAN_CHUNKS] = { 0 }, unused[2 * PLAN_CHUNKS];
    struct aside aside = { 0, 0 };
    add_list(p, c, LIST_MICRO, true, 1, us, &aside, once);
    if (p->plan.accumulation > 1)
        add_list(p, c, LIST_MICRO, false, (double)(p->plan.accumulation - 1), us, &aside, once);
    add_list(p, c, LIST_UPDATE, true, 1, us, &aside, unused);
    add_tree(p, c, us, &aside);
    for (int part = 0; part < parts; part++) {
        t->forward_us[part] = once[part];
        t->backward_us[part] = once[2 * parts - 1 - part];
    }
    struct plan_cost *cost = &t->cost;
    *cost = (struct plan_cost){ .compute_us = us[COST_COMPUTE],
                                .exchange_us = us[COST_EXCHANGE],
                                .reduce_us = us[COST_REDUCE],
                                .optimizer_us = us[COST_OPTIMIZER],
                                .beside_us = aside.beside_us,
                                .kept_us = aside.kept_us };
    predict_offload(p, c, once[0], t);
    cost->bubble_us = (cost->compute_us + cost->exchange_us) * idle_part(&p->plan, c);
    cost->step_us =
        cost->compute_us + cost->exchange_us + cost->reduce_us + cost->optimizer_us + cost->bubble_us;
}

void sched_predict(const struct program *p, const struct cluster *c, struct plan_cost *out)
{
    struct stage_times t;
    sched_predict_stage(p, c, &t);
    *out = t.cost;
}

double sched_works_us(const struct plan_cost *cost)
{
    return cost->step_us - cost->bubble_us;
}

/* Of all micro-batches. */
static double sections_us(const struct plan *p, const struct stage_times *t)
{
    double us = 0;
    for (int part = 0; part < p->chunks; part++)
        us += t->forward_us[part] + t->backward_us[part];
    return us * (double)p->accumulation;
}

/* Where ranks share cores, the cores are busy while any of them computes: the schedule takes what all compute, unless it
 * takes longer with a core for each. */
static double shared_us(const struct plan *p, const struct stage_times *stage, const struct cluster *c,
                        double us)
{
    double mean_us = 0;
    if (c->ranks_per_core <= 1)
        return us;
    for (int s = 0; s < p->stages; s++)
        mean_us += sections_us(p, &stage[s]) / p->stages;
    return fmax(us / c->ranks_per_core, mean_us);
}

/* Stages reduce and update when all have computed. */
void sched_predict_pipeline(const struct plan *p, const struct stage_times *stage, const struct cluster *c,
                            struct plan_cost *out)
{
    double forward_us[PLAN_PARTS], backward_us[PLAN_PARTS];
    for (int s = 0; s < p->stages; s++)
        for (int part = 0; part < p->chunks; part++) {
            forward_us[s * p->chunks + part] = stage[s].forward_us[part];
            backward_us[s * p->chunks + part] = stage[s].backward_us[part];
        }
    const double all =
        shared_us(p, stage, c, pipeline_us(p->stages, p->chunks, p->accumulation, forward_us, backward_us));
    double kept = 0; /* the largest part of a stage: the schedule gains no more than that */
    *out = (struct plan_cost){ 0 };
    for (int s = 0; s < p->stages; s++) {
        struct plan_cost cost = stage[s].cost;
        kept = fmax(kept, cost.kept_us / (cost.compute_us + cost.exchange_us));
        const double works = sched_works_us(&cost);
        cost.bubble_us = fmax(0, all - sections_us(p, &stage[s]));
        cost.step_us = works + cost.bubble_us;
        if (cost.step_us > out->step_us)
            *out = cost;
    }
    out->kept_us = kept * (out->compute_us + out->exchange_us + out->bubble_us);
}
