/* candidate.c - see candidate.h. */
#include "run/candidate.h"
#include "base/pool.h"
#include "plan/cut.h"
#include "sched/levels.h"
#include "sched/pipeline.h"
#include "sched/predict.h"
#include <math.h>
#include <string.h>

enum { GRAPHS = 24 }; /* of a thread: batches by vocabularies in parts */

/* Candidates of the same batch and vocabulary share a graph; of those, candidates with as many stages and chunks the cuts;
 * those that differ in ZeRO only the components, and in recomputation only the layouts. */
struct drawn {
    struct arena *arena; /* of all below; NULL = none yet */
    struct graph *graph;
    int64_t batch, sequence;
    int vocabulary_parallel;
    struct plan cut; /* stages 0: none yet */
    char like[17],
        same[17]; /* hashes of the last candidate, without ZeRO and recomputation, without recomputation */
    struct components tensor;
    struct layout *layout;              /* by stage: of its rank that owns most */
    size_t behind_graph, behind_tensor; /* marks of the arena */
};
struct measuring { /* of one thread at a time */
    const struct setup *s;
    struct drawn drawn[GRAPHS];
    int n_drawn;        /* so far; a new one takes the place of the oldest */
    struct arena *work; /* of one lowering */
    bool busy;          /* atomic */
};
struct candidates {
    int n;
    struct measuring *measuring;
};

/* NULL: no such graph can be. */
static struct drawn *draw(struct measuring *m, const struct plan *p, struct err *e)
{
    struct model_values v;
    for (int i = 0; i < GRAPHS; i++) {
        struct drawn *d = &m->drawn[i];
        if (d->arena && d->batch == plan_graph_batch(p) && d->sequence == p->sequence &&
            d->vocabulary_parallel == p->vocabulary_parallel)
            return d;
    }
    struct drawn *d = &m->drawn[m->n_drawn++ % GRAPHS];
    arena_free(d->arena);
    *d = (struct drawn){ .arena = arena_new("graph of candidates"),
                         .batch = plan_graph_batch(p),
                         .sequence = p->sequence,
                         .vocabulary_parallel = p->vocabulary_parallel };
    d->graph = setup_graph(m->s, d->arena, p, false, &v);
    d->behind_graph = arena_mark(d->arena);
    return graph_check(d->graph, e) ? d : NULL;
}

struct candidates *candidates_new(struct arena *a, const struct setup *s)
{
    struct candidates *c = ARENA_NEW(a, struct candidates, 1);
    c->n = pool_threads();
    c->measuring = ARENA_NEW(a, struct measuring, c->n);
    for (int i = 0; i < c->n; i++)
        c->measuring[i] = (struct measuring){ .s = s, .work = arena_new("lowering of a candidate") };
    return c;
}

void candidates_free(struct candidates *c)
{
    for (int i = 0; i < c->n; i++) {
        arena_free(c->measuring[i].work);
        for (int k = 0; k < GRAPHS; k++)
            arena_free(c->measuring[i].drawn[k].arena);
    }
}

/* One that no other thread has. */
static struct measuring *begin(struct candidates *c)
{
    for (int i = 0; i < c->n; i++)
        if (!__atomic_exchange_n(&c->measuring[i].busy, true, __ATOMIC_ACQUIRE))
            return &c->measuring[i];
    die("more threads judge candidates than the pool has");
}

static void end(struct measuring *m)
{
    arena_reset(m->work, 0);
    __atomic_store_n(&m->busy, false, __ATOMIC_RELEASE);
}

/* A third of a part is forward. */
static double step_of_parts(const struct plan *p, const double *part_us)
{
    double forward_us[PLAN_PARTS], backward_us[PLAN_PARTS];
    for (int i = 0; i < plan_parts(p); i++) {
        const int at = i % p->stages * p->chunks + i / p->stages; /* stage by stage */
        forward_us[at] = part_us[i] / 3;
        backward_us[at] = part_us[i] - forward_us[at];
    }
    return pipeline_us(p->stages, p->chunks, p->accumulation, forward_us, backward_us);
}

static bool choose_cuts(const struct setup *s, struct drawn *d, struct plan *p, struct err *e)
{
    if (d->cut.stages == p->stages && d->cut.chunks == p->chunks && d->cut.accumulation == p->accumulation &&
        d->cut.numbers.gradient == p->numbers.gradient)
        memcpy(p->cut, d->cut.cut, sizeof p->cut);
    else if (!cut_choose(d->graph, &s->cluster, step_of_parts, p, e))
        return false;
    d->cut = *p;
    return true;
}

/* In parts that kernels take. */
static bool can_split(const struct plan *p, int parts, int64_t length, const char *name, const char *of,
                      const char *option, struct err *e)
{
    const int64_t each = (int64_t)parts * plan_width(p);
    return parts == 1 || length % each == 0 ||
           err_code(e, EXIT_USAGE,
                    "the %s of %lld%s cannot be split over --tensor_parallel %d: expected a multiple of "
                    "%lld, or %s auto",
                    name, (long long)length, of, p->tensor_parallel, (long long)each, option);
}

static bool can_split_all(const struct model_config *m, const struct plan *p, struct err *e)
{
    return can_split(p, p->vocabulary_parallel, m->vocab, "vocabulary", "", "--split_vocabulary", e) &&
           can_split(p, p->width_parallel, m->expert_width, "width", " of experts", "--split_experts", e);
}

/* The rank of a stage that owns most stands for the others. */
static void place_fullest(struct arena *a, const struct graph *g, const struct plan *p, int stage,
                          const struct components *tensor, struct layout *l)
{
    const int first = stage * plan_workers(p);
    layout_place(a, g, p, first, tensor, l);
    const int fullest = layout_fullest_rank(l, p);
    if (fullest != first)
        layout_place(a, g, p, fullest, tensor, l);
}

/* Is the hash of a candidate, with less in it, still what it was? Notes it. */
static bool is_still(char was[17], const struct plan *p)
{
    char hash[17];
    plan_hash(p, hash);
    const bool still = strcmp(hash, was) == 0;
    memcpy(was, hash, sizeof hash);
    return still;
}

/* The graph of a candidate, cut where its stages need it, and the layouts of ranks that stand for all. NULL: it cannot be. */
static struct drawn *make_ready(struct measuring *m, struct plan *p, struct err *e)
{
    struct drawn *d = can_split_all(&m->s->model, p, e) ? draw(m, p, e) : NULL;
    const bool chosen = plan_parts(p) == 1 || p->cut[plan_parts(p)] > 0;
    if (!d || (!chosen && !choose_cuts(m->s, d, p, e)))
        return NULL;
    struct plan like = *p, same = *p;
    same.recompute = like.recompute = like.zero = 0;
    same.keep_rows = like.keep_rows = false;
    like.zero_ranks = 1;
    if (!is_still(d->like, &like)) {
        arena_reset(d->arena, d->behind_graph);
        d->same[0] = 0;
        if (!plan_check(p, d->graph, e)) {
            d->like[0] = 0;
            return NULL;
        }
        layout_components(d->arena, d->graph, p, &d->tensor);
        d->behind_tensor = arena_mark(d->arena);
    }
    if (is_still(d->same, &same))
        return d;
    arena_reset(d->arena, d->behind_tensor);
    d->layout = ARENA_NEW(d->arena, struct layout, p->stages);
    for (int stage = 0; stage < p->stages; stage++)
        place_fullest(d->arena, d->graph, p, stage, &d->tensor, &d->layout[stage]);
    return d;
}

/* All but offsets. */
static void lower_rank(const struct setup *s, struct arena *a, const struct graph *g, const struct plan *p,
                       const struct layout *layout, struct program *out, struct stage_times *t)
{
    const struct adamw o = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
    sched_lower_lists(a, g, p, layout, true, &o, out);
    sched_predict_stage(out, &s->cluster, t);
}

/* Memory and time of a stage, where they are the largest so far. Every stage repeats the same kinds of nodes. */
static bool measure_stage(const struct setup *s, struct arena *a, const struct drawn *d, int stage,
                          const struct plan_bar *bar, struct plan *p, struct stage_times *t, struct err *e)
{
    struct program program;
    struct plan bare = *p; /* nothing of another stage */
    bare.cost = (struct plan_cost){ 0 };
    lower_rank(s, a, d->graph, &bare, &d->layout[stage], &program, t);
    p->recompute_most = program.recompute_most;
    p->kept_bytes = program.kept_bytes > p->kept_bytes ? program.kept_bytes : p->kept_bytes;
    p->lodgers_most = t->lodgers_hidden;
    p->host_bytes = program.offload.bytes > p->host_bytes ? program.offload.bytes : p->host_bytes;
    if (program.offload.each_bytes && p->lodgers_most > s->host_bytes / program.offload.each_bytes)
        p->lodgers_most = (int)(s->host_bytes / program.offload.each_bytes);
    if (sched_works_us(&t->cost) > sched_works_us(&p->cost))
        p->cost = t->cost;
    if (sched_works_us(&t->cost) < bar->us)
        sched_fit(a, &program, bar, p);
    return rules_recompute(&s->rules, d->graph, program.recompute_place, &p->recompute_least,
                           &p->recompute_most, e);
}

static bool measure_all(struct measuring *m, const struct plan_bar *bar, struct plan *p, struct err *e)
{
    struct stage_times stage_times[PLAN_PARTS];
    const struct drawn *d = make_ready(m, p, e);
    bool ok = d != NULL;
    p->memory = (struct plan_memory){ 0 };
    p->cost = (struct plan_cost){ 0 };
    p->recompute_next = p->recompute_most = 0;
    p->host_bytes = p->kept_bytes = 0;
    for (int stage = 0; ok && stage < p->stages && sched_works_us(&p->cost) < bar->us; stage++) {
        arena_reset(m->work, 0);
        ok = measure_stage(m->s, m->work, d, stage, bar, p, &stage_times[stage], e);
    }
    if (ok && p->stages > 1 && sched_works_us(&p->cost) < bar->us)
        sched_predict_pipeline(p, stage_times, &m->s->cluster, &p->cost);
    if (p->cost.step_us >= bar->us)
        p->memory = (struct plan_memory){ 0 };
    return ok;
}

static bool measure(void *context, const struct plan_bar *bar, struct plan *p, struct err *e)
{
    struct measuring *m = begin(context);
    const bool ok = measure_all(m, bar, p, e);
    end(m);
    return ok;
}

bool candidates_measure(struct candidates *c, struct plan *p, struct err *e)
{
    return measure(c, &(struct plan_bar){ INT64_MAX, -1, INFINITY }, p, e);
}

void setup_lower(const struct setup *s, struct arena *a, const struct plan *p, struct program *out)
{
    struct model_values v;
    const struct graph *g = setup_graph(s, a, p, false, &v);
    double least_off = 0;
    struct components tensor;
    layout_components(a, g, p, &tensor);
    for (int stage = 0; stage < p->stages; stage++) {
        struct program x;
        struct stage_times t;
        struct layout layout;
        place_fullest(a, g, p, stage, &tensor, &layout);
        lower_rank(s, a, g, p, &layout, &x, &t);
        /* the stage whose times the plan has; of a plan that was not measured, the slowest */
        const double works = sched_works_us(&t.cost),
                     off = p->cost.step_us > 0 ? fabs(works - sched_works_us(&p->cost)) : -works;
        if (stage == 0 || off < least_off) {
            least_off = off;
            *out = x;
        }
    }
}

static bool least_bytes(void *context, struct plan *p, int64_t *bytes, struct err *e)
{
    struct measuring *m = begin(context);
    const struct drawn *d = make_ready(m, p, e);
    *bytes = 0;
    for (int stage = 0; d && stage < p->stages; stage++) {
        arena_reset(m->work, 0);
        const int64_t least = sched_least_bytes(m->work, d->graph, p, &d->layout[stage]);
        *bytes = least > *bytes ? least : *bytes;
    }
    end(m);
    return d != NULL;
}

struct plan_judge candidates_judge(struct candidates *c)
{
    return (struct plan_judge){ measure, least_bytes, c };
}
