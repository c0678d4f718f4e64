/* What a schedule may not change: the bits of gradients and losses, whatever backward computes again and whichever
 * operators work in place. The lists of one rank are run here on a slab full of NaN. */
#include "base/arena.h"
#include "base/pool.h"
#include "base/rng.h"
#include "graph/registry.h"
#include "model/deepseek_v2.h"
#include "sched/sched.h"
#include "tests/small_model.h"
#include "tests/test.h"
#include <stdlib.h>
enum { S = 12, BATCH = 2, VOCAB = 40, WIDTH = 24 };
static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };
struct run {
    struct arena *arena;
    struct graph *g;
    struct program p;
    char *slab;
};

static void *at(const struct run *r, struct ref x)
{
    return x.buffer < 0 ? NULL : r->slab + r->p.buffers[x.buffer].at + x.at_bytes;
}

static int64_t floats_of(const struct run *r, struct ref x)
{
    return r->p.buffers[x.buffer].bytes / (int64_t)sizeof(float);
}

static void put_values(const struct run *r)
{
    for (int v = 0; v < r->g->n_values; v++) {
        const struct value_info *info = &r->g->values[v];
        void *to = at(r, r->p.value[v]);
        if (info->kind == VALUE_CONST)
            memcpy(to, info->data, (size_t)r->p.buffers[r->p.value[v].buffer].bytes);
        for (int64_t i = 0; info->kind == VALUE_INPUT && i < graph_elements(info); i++)
            ((int32_t *)to)[i] = (int32_t)(rng_u64(1, (uint64_t)v, (uint64_t)i) % VOCAB);
    }
}

static void put_flats(const struct run *r)
{
    for (int k = 0; k < FLATS; k++) {
        float *w = at(r, r->p.weights[k]);
        for (int64_t i = 0; i < r->p.layout.flat[k].n_elements; i++)
            w[i] = (float)rng_normal(2, (uint64_t)k, (uint64_t)i) / 3;
    }
    const struct ref weight[] = { r->p.nll_weight, r->p.aux_weight };
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; weight[k].buffer >= 0 && i < floats_of(r, weight[k]); i++)
            ((float *)at(r, weight[k]))[i] = 1;
}

static void call(const struct run *r, const struct instr *in)
{
    struct call c = { .add = instr_add(in, true), .wide = in->wide, .work = at(r, in->work) };
    EXPECT(in->kind == RUN_OP);
    for (int j = 0; j < OP_ARGS; j++) {
        c.arg[j] = at(r, in->arg[j]);
        c.grad[j] = at(r, in->grad[j]);
    }
    memcpy(c.dim, in->dim, sizeof c.dim);
    memcpy(c.attr, in->attr, sizeof c.attr);
    instr_kernel(in, CPU)(&c);
}

static struct run run_micro(struct graph *g, int recompute)
{
    struct run r = { .arena = arena_new("run"), .g = g };
    struct plan plan = one_rank_plan(BATCH, S, 7);
    plan.recompute = recompute;
    sched_lower(r.arena, g, &plan, 0, true, &adam, &r.p);
    r.slab = aligned_alloc(256, (size_t)r.p.memory.peak_bytes);
    memset(r.slab, 0xff, (size_t)r.p.memory.peak_bytes);
    put_values(&r);
    put_flats(&r);
    for (int i = 0; i < r.p.list[LIST_MICRO].n; i++)
        call(&r, &r.p.list[LIST_MICRO].item[i]);
    return r;
}

static void run_end(struct run *r)
{
    free(r->slab);
    arena_free(r->arena);
}

/* Gradients and losses; nothing of the NaN is left. */
static bool same_results(const struct run *x, const struct run *y)
{
    bool same = true;
    for (int k = 0; k < x->g->params.n; k++) {
        const struct place *place = &x->p.layout.place[k];
        const int64_t n = place->end - place->begin;
        const float *g = (float *)at(x, x->p.gradients[place->flat]) + place->at,
                    *other = (float *)at(y, y->p.gradients[place->flat]) + place->at;
        same &= memcmp(g, other, (size_t)n * sizeof *g) == 0;
        for (int64_t i = 0; i < n; i++)
            same &= isfinite(g[i]);
    }
    const struct ref a = x->p.value[x->g->roots[0].of], b = y->p.value[y->g->roots[0].of];
    return same && memcmp(at(x, a), at(y, b), (size_t)floats_of(x, a) * sizeof(float)) == 0;
}

static int in_place_nodes(const struct run *r)
{
    int n = 0;
    for (int i = 0; i < r->p.list[LIST_MICRO].n; i++) {
        const struct instr *in = &r->p.list[LIST_MICRO].item[i];
        const int y = r->g->nodes[in->node].anno->n_inputs;
        n += !in->backward && in->arg[0].buffer >= 0 && in->arg[0].buffer == in->arg[y].buffer;
    }
    return n;
}

/* All levels of recomputation against none, and against a graph none of whose operators may work in place. */
static void check_levels(struct graph *g, struct graph *apart, int n_in_place)
{
    struct op *plain = ARENA_NEW(apart->arena, struct op, apart->n_nodes);
    for (int i = 0; i < apart->n_nodes; i++) {
        plain[i] = *apart->nodes[i].op;
        plain[i].in_place = false;
        apart->nodes[i].op = &plain[i];
    }
    struct run want = run_micro(apart, 0);
    EXPECT_INT(in_place_nodes(&want), 0);
    EXPECT(want.p.recompute_most > 1);
    for (int recompute = 0; recompute <= want.p.recompute_most; recompute++) {
        struct run got = run_micro(g, recompute);
        EXPECTF(same_results(&got, &want), "other bits where %d of %d kinds are computed again", recompute,
                got.p.recompute_most);
        EXPECT_INT(in_place_nodes(&got), n_in_place);
        run_end(&got);
    }
    run_end(&want);
}

static struct graph *small_graph(struct arena *a, int64_t q_rank)
{
    struct model_config m = small_model(VOCAB, WIDTH);
    struct model_values v;
    const struct model_options o = { .batch = BATCH, .sequence = S };
    m.q_rank = q_rank;
    return deepseek_v2_graph(a, &m, &o, &v);
}

TEST(recomputation_changes_no_bit)
{
    struct arena *a = arena_new("test");
    pool_start(2);
    check_levels(small_graph(a, 0), small_graph(a, 0), 3);
    check_levels(small_graph(a, 12), small_graph(a, 12), 3);
    arena_free(a);
}

static value op(struct graph *g, const struct op *o, const char *name, const value *in, int n, double attr)
{
    return graph_op(g, o, name, in, n, &attr, attr > 0);
}

static value linear(struct graph *g, value x, const char *name, int64_t rows)
{
    const struct value_info *v = &g->values[x];
    const value w =
        graph_param(g, name, 2, (const int64_t[]){ rows, v->shape[v->n_dims - 1] }, INIT_NORMAL, 1);
    return op(g, &op_linear, name, (const value[]){ x, w }, 2, 0);
}

/* Where working in place is delicate. query: its input is one of three outputs of a node that backward computes again
 * for the sake of the others. turned: the gradient of its output is also that of `beside`, which is read later.
 * shared, saved: their inputs have another reader, a node or backward, so they may not. */
static struct graph *delicate_graph(struct arena *a)
{
    struct graph *g = graph_new(a);
    float *table = ARENA_NEW(a, float, S * 8);
    for (int i = 0; i < S * 8; i++)
        table[i] = (float)rng_normal(3, 0, (uint64_t)i);
    const int64_t ids[2] = { BATCH, S };
    const value t = graph_const(g, "table", F32, 2, (const int64_t[]){ S, 8 }, table);
    const value tokens = graph_input(g, "tokens", I32, 2, ids),
                labels = graph_input(g, "labels", I32, 2, ids);
    const value e =
        graph_param(g, "embed", 2, (const int64_t[]){ VOCAB, WIDTH }, INIT_NORMAL, 1); /* also the head */
    const value h = op(g, &op_embed, "h", (const value[]){ tokens, e }, 2, 0);
    const value norm = graph_param(g, "norm", 1, (const int64_t[]){ 16 }, INIT_ONE, 0);
    const value latent =
        op(g, &op_latent, "latent", (const value[]){ linear(g, h, "a", 24), norm, t }, 3, 1e-6);
    const value query = op(g, &op_rope, "query", (const value[]){ latent, t }, 2, 16);
    const value o = graph_op(g, &op_attention, "o",
                             (const value[]){ query, linear(g, h, "kv", 16), graph_output(g, latent, 1) }, 3,
                             (const double[]){ 16, 16, 8, 0.3 }, 4);
    const value saved = op(g, &op_rope, "saved", (const value[]){ o, t }, 2, 8);
    const value beside = linear(g, h, "beside", WIDTH);
    const value turned = op(g, &op_rope, "turned", (const value[]){ linear(g, h, "b", WIDTH), t }, 2, 12);
    value sum = op(g, &op_add, "sum", (const value[]){ beside, turned }, 2, 0);
    const value shared = linear(g, h, "c", WIDTH);
    const value other = op(g, &op_rope, "shared", (const value[]){ shared, t }, 2, 12);
    sum = op(g, &op_add, "sum", (const value[]){ sum, linear(g, saved, "d", WIDTH) }, 2, 0);
    sum = linear(g, op(g, &op_add, "sum", (const value[]){ sum, other }, 2, 0), "e", WIDTH);
    sum = op(g, &op_add, "sum", (const value[]){ sum, shared }, 2, 0);
    const double rows = BATCH * S;
    graph_root(g, op(g, &op_head_loss, "loss", (const value[]){ sum, e, labels }, 3, rows), ROOT_NLL);
    graph_grad(g);
    return g;
}

TEST(in_place_only_where_nobody_else_reads)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    pool_start(2);
    struct graph *g = delicate_graph(a);
    EXPECTF(graph_check(g, &e), "%s", e.text);
    check_levels(g, delicate_graph(a), 2);
    arena_free(a);
}
