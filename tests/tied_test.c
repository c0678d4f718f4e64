/* A matrix at both ends of a pipeline (doc/adr/0020): both own the same parts of it, it is counted and saved once, all ranks
 * come to its sum, and without a pipeline the two sums are apart where the bits have to be the same. */
#include "plan/layout.h"
#include "run/weights.h"
#include "sched/simulate.h"
#include "tests/random_plan.h"
#include "tests/test.h"
#include <string.h>

enum { PLANS = 120 };
static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };

static struct graph *tied_graph(struct arena *a, const struct plan *p)
{
    struct model_config m = small_model(96, 32);
    m.tied = true;
    return graph_for_plan(a, p, &m);
}

static int param_named(const struct graph *g, const char *part)
{
    for (int i = 0; i < g->params.n; i++)
        if (strstr(g->params.item[i].name, part))
            return i;
    CHECK(false, "no parameter %s", part);
}

/* Elements that a rank updates, counts and saves of what both ends have. */
static void expect_alike(const struct graph *g, const struct plan *p, int worker, int param)
{
    struct arena *a = arena_new("test");
    struct layout first, last;
    const int far = (p->stages - 1) * plan_workers(p);
    layout_make(a, g, p, worker, &first);
    layout_make(a, g, p, far + worker, &last);
    const struct flat *f = &first.flat[SHARED], *b = &last.flat[SHARED];
    const struct place *at = &first.place[param], *there = &last.place[param];
    EXPECT(f->n_elements > 0 && f->n_elements == b->n_elements && f->n_ranks == b->n_ranks);
    EXPECT(f->index == b->index && f->n_shards == b->n_shards && f->first_rank + far == b->first_rank);
    EXPECT(memcmp(f->cut, b->cut, (size_t)(f->n_ranks + 1) * sizeof *f->cut) == 0);
    EXPECT(at->flat == SHARED && there->flat == SHARED && at->at == there->at && at->run == there->run);
    EXPECT(at->begin == there->begin && at->end == there->end && at->slices == there->slices);
    EXPECT(!first.home && last.home && first.tied && last.tied && !first.apart && !last.apart);
    arena_free(a);
}

static void expect_elsewhere_nothing(const struct graph *g, const struct plan *p)
{
    struct arena *a = arena_new("test");
    for (int r = plan_workers(p); r < (p->stages - 1) * plan_workers(p); r++) {
        struct layout l;
        layout_make(a, g, p, r, &l);
        EXPECT_INT(l.flat[SHARED].n_elements, 0);
        EXPECT(l.tied);
        EXPECT_INT(sched_members(p, r, GROUP_ENDS, 0).n, 1);
    }
    arena_free(a);
}

/* By element of the full parameter: how many ranks save its weight, and its states? */
static void expect_saved_once(const struct graph *g, const struct plan *p, int param)
{
    struct arena *a = arena_new("test");
    const int64_t n = g->params.item[param].n_elements;
    unsigned char *states = ARENA_NEW(a, unsigned char, n), *stages = ARENA_NEW(a, unsigned char, p->stages);
    const struct ckpt_holding *h = weights_holdings(a, g, p);
    int64_t wrong = 0;
    for (int r = 0; r < p->n_ranks; r++) {
        for (int64_t k = 0; k < h[r].n_weights; k++)
            stages[plan_stage(p, r)] |= h[r].weights[k].param == param;
        for (int64_t k = 0; k < h[r].n_states; k++)
            for (int64_t e = h[r].states[k].begin; h[r].states[k].param == param && e < h[r].states[k].end;
                 e++)
                states[e]++;
    }
    for (int64_t e = 0; e < n; e++)
        wrong += states[e] != 1;
    for (int s = 0; s < p->stages; s++)
        EXPECT_INT(stages[s], s == p->stages - 1);
    EXPECTF(wrong == 0, "%lld elements have not one owner", (long long)wrong);
    arena_free(a);
}

/* Over all ranks: how often each sum of the norm is written. */
static void count_norm(const struct program *x, int *counted)
{
    const struct list *list = &x->list[LIST_UPDATE];
    for (int i = 0; i < list->n; i++)
        if (list->item[i].kind == RUN_OP && strcmp(list->item[i].op->name, "sqsum") == 0)
            for (int64_t k = 0; k < list->item[i].dim[0]; k++)
                counted[list->item[i].arg[1].at_bytes / (int64_t)sizeof(double) + k]++;
}

static int place_of(const struct program *x, enum instr_kind kind, int flat)
{
    for (int i = 0; i < x->list[LIST_UPDATE].n; i++)
        if (x->list[LIST_UPDATE].item[i].kind == kind && x->list[LIST_UPDATE].item[i].flat == flat)
            return i;
    return -1;
}

/* Behind the sum over the ranks, in front of what takes it on and counts it. */
static void expect_order(const struct program *x)
{
    const bool end = x->layout.stage == 0 || x->layout.home;
    const int at = place_of(x, RUN_SUM_ENDS, SHARED), reduce = place_of(x, RUN_REDUCE, SHARED),
              mirror = place_of(x, RUN_MIRROR, SHARED), norm = place_of(x, RUN_NORM_SUM, 0);
    EXPECT(end == (at >= 0) && reduce <= at && at < norm);
    EXPECT(mirror < 0 || at < mirror);
}

/* All ranks' lists on a clock: nobody waits for ever. */
static void expect_run(const struct graph *g, const struct plan *p)
{
    struct arena *a = arena_new("test");
    const struct program **programs = ARENA_NEW(a, const struct program *, p->n_ranks);
    struct simulation s = { .program = programs };
    struct cluster c;
    struct err e = { 0 };
    struct layout l;
    int wrong = 0;
    layout_make(a, g, p, 0, &l);
    int *counted = ARENA_NEW(a, int, l.n_chunks_total);
    cluster_cpu(&c, 1, 1, 1);
    s.cluster = &c;
    for (int r = 0; r < p->n_ranks; r++) {
        struct program *x = ARENA_NEW(a, struct program, 1);
        sched_lower(a, g, p, r, true, &adam, x);
        programs[r] = x;
        count_norm(x, counted);
        if (p->stages > 1)
            expect_order(x);
    }
    for (int64_t k = 0; k < l.n_chunks_total; k++)
        wrong += counted[k] != 1;
    EXPECTF(wrong == 0, "%d chunks of the norm are not counted once", wrong);
    EXPECTF(sched_simulate(a, &s, &e), "%s", e.text);
    arena_free(a);
}

TEST(both_ends_have_the_same)
{
    int n = 0, n_sliced = 0, n_chunks = 0, n_middle = 0;
    for (uint64_t seed = 0; n < PLANS; seed++) {
        struct arena *a = arena_new("test");
        struct draw d = { seed, 0 };
        struct plan p = random_plan(&d);
        const struct graph *g = tied_graph(a, &p);
        if (p.stages > 1 && is_legal(g, &p)) {
            const int param = param_named(g, "embed_tokens");
            for (int w = 0; w < plan_workers(&p); w++)
                expect_alike(g, &p, w, param);
            expect_elsewhere_nothing(g, &p);
            expect_saved_once(g, &p, param);
            expect_run(g, &p);
            n_sliced += p.vocabulary_parallel > 1;
            n_chunks += p.chunks > 1;
            n_middle += p.stages > 2;
            n++;
        }
        arena_free(a);
    }
    EXPECTF(n_sliced > 5 && n_chunks > 20 && n_middle > 20, "%d sliced, %d in parts, %d with stages between",
            n_sliced, n_chunks, n_middle);
}

/* The gradients of the parameter that micro-batches write: buffers, and whether each begins with a write. */
static int gradient_buffers(const struct program *x, int param, int buffers[2], bool *all_begin)
{
    int n = 0;
    *all_begin = true;
    for (int i = 0; i < x->list[LIST_MICRO].n; i++) {
        const struct instr *in = &x->list[LIST_MICRO].item[i];
        const struct node *node = in->node >= 0 ? &x->graph->nodes[in->node] : NULL;
        for (int j = 0; node && in->backward && j < node->anno->n_inputs; j++)
            if (x->graph->values[node->arg[j]].param == param && in->grad[j].buffer >= 0 && n < 2) {
                buffers[n++] = in->grad[j].buffer;
                *all_begin &= in->first_writes >> j & 1;
            }
    }
    return n;
}

static int64_t gradient_bytes(const struct program *x)
{
    int64_t bytes = 0;
    for (int i = 0; i < x->n_buffers; i++)
        bytes += x->buffers[i].class == MEM_GRADIENTS ? x->buffers[i].bytes : 0;
    return bytes;
}

TEST(one_stage_keeps_the_sums_apart_where_asked)
{
    struct arena *a = arena_new("test");
    struct plan p = one_rank_plan(2, 16, 1000);
    struct program plain, exact;
    const struct graph *g = tied_graph(a, &p);
    const int param = param_named(g, "embed_tokens");
    int buffers[2] = { -1, -1 };
    bool all_begin;
    sched_lower(a, g, &p, 0, true, &adam, &plain);
    EXPECT_INT(gradient_buffers(&plain, param, buffers, &all_begin), 2);
    EXPECT(buffers[0] == buffers[1] && !all_begin && !plain.layout.apart);
    p.reproducible = true;
    p.tile = plan_tile(CPU, true);
    sched_lower(a, g, &p, 0, true, &adam, &exact);
    EXPECT_INT(gradient_buffers(&exact, param, buffers, &all_begin), 2);
    EXPECT(buffers[0] == exact.gradients[SHARED].buffer && buffers[1] == exact.apart.buffer && all_begin);
    EXPECT_INT(gradient_bytes(&exact) - gradient_bytes(&plain), g->params.item[param].n_elements * 4);
    arena_free(a);
}

TEST(other_weights_of_two_parts_are_refused)
{
    struct arena *a = arena_new("test");
    struct plan p = one_rank_plan(2, 16, 1000);
    struct err e = { 0 };
    p.stages = p.n_ranks = p.unit_ranks = 3;
    p.accumulation = 3;
    p.global_batch = 6;
    struct graph *g = tied_graph(a, &p);
    EXPECTF(is_legal(g, &p) && plan_check(&p, g, &e), "%s", e.text);
    const int norm = param_named(g, "layers.0.input_layernorm"),
              late = param_named(g, "layers.2.input_layernorm");
    for (value v = 0; v < g->n_values; v++)
        if (g->values[v].param == late)
            g->values[v].param = norm;
    EXPECT(!plan_check(&p, g, &e));
    EXPECTF(strstr(e.text, "layers.0.input_layernorm.weight is used in parts") && e.code == EXIT_USAGE, "%s",
            e.text);
    arena_free(a);
}
