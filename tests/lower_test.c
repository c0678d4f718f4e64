/* Lowered lists against the plainest way to run a graph: every value and gradient in a buffer of its own, forward in
 * order, backward step by step. On random graphs, where sums meet in every way, and with every number of kinds of
 * values that backward computes again: the gradients of the parameters have the same bits. */
#include "base/arena.h"
#include "base/rng.h"
#include "graph/registry.h"
#include "sched/sched.h"
#include "tests/small_model.h"
#include "tests/test.h"
#include <stdlib.h>
enum { BATCH = 2, LENGTH = 3, WIDTH = 8, VOCABULARY = 11, MOST = 64, MICRO = 2, SEEDS = 300 };
static const int64_t rows[3] = { BATCH, LENGTH, WIDTH };

struct random {
    struct graph *g;
    uint64_t seed, drawn;
    value made[MOST];
    bool used[MOST];
    int n;
};

static int draw(struct random *r, int n)
{
    return (int)(rng_u64(r->seed, 5, r->drawn++) % (uint64_t)n);
}

/* Index of a value; recent ones more often. */
static int pick(struct random *r)
{
    const int a = draw(r, r->n), b = draw(r, r->n);
    return a > b ? a : b;
}

static void keep(struct random *r, value v)
{
    r->used[r->n] = false;
    r->made[r->n++] = v;
}

static value weight(struct random *r, int n_dims)
{
    const int64_t square[2] = { WIDTH, WIDTH };
    return graph_param(r->g, arena_printf(r->g->arena, "w%d", r->g->params.n), n_dims, square, INIT_NORMAL,
                       1);
}

static value node(struct random *r, const struct op *op, const value *in, int n, const double *eps)
{
    return graph_op(r->g, op, arena_printf(r->g->arena, "%s %d", op->name, r->g->n_nodes), in, n, eps,
                    eps ? 1 : 0);
}

static void add_node(struct random *r)
{
    const double eps = 1e-3;
    const int x = pick(r), y = pick(r), kind = draw(r, 5);
    const value a = r->made[x], b = r->made[y];
    r->used[x] = true;
    if (kind == 0 || (kind > 1 && x == y)) {
        keep(r, node(r, &op_linear, (const value[]){ a, weight(r, 2) }, 2, NULL));
    } else if (kind == 1) {
        keep(r, node(r, &op_rmsnorm, (const value[]){ a, weight(r, 1) }, 2, &eps));
    } else if (kind == 2) {
        keep(r, node(r, &op_add, (const value[]){ a, b }, 2, NULL));
        r->used[y] = true;
    } else {
        const value s = node(r, &op_add_norm, (const value[]){ a, b, weight(r, 1) }, 3, &eps);
        keep(r, s);
        keep(r, graph_output(r->g, s, 1));
        r->used[y] = true;
    }
}

/* What nobody reads is added up, most of it (some values stay without a gradient). */
static value gather(struct random *r)
{
    value sum = r->made[r->n - 1];
    for (int i = r->n - 2; i >= 0; i--)
        if (!r->used[i] && draw(r, 4))
            sum = node(r, &op_add, (const value[]){ sum, r->made[i] }, 2, NULL);
    return sum;
}

static struct graph *random_graph(struct arena *a, uint64_t seed)
{
    struct random r = { .g = graph_new(a), .seed = seed };
    const int64_t table[2] = { VOCABULARY, WIDTH }, chunk = BATCH * LENGTH;
    const double attr = (double)chunk;
    const value tokens = graph_input(r.g, "tokens", I32, 2, rows),
                labels = graph_input(r.g, "labels", I32, 2, rows),
                words = graph_param(r.g, "words", 2, table, INIT_NORMAL, 1);
    keep(&r, graph_op(r.g, &op_embed, "embed", (const value[]){ tokens, words }, 2, NULL, 0));
    for (int i = 3 + draw(&r, 12); i > 0; i--)
        add_node(&r);
    const value loss =
        graph_op(r.g, &op_head_loss, "loss", (const value[]){ gather(&r), words, labels }, 3, &attr, 1);
    graph_root(r.g, loss, ROOT_NLL);
    graph_grad(r.g);
    return r.g;
}

static void fill(float *x, int64_t n, uint64_t stream)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(3, stream, (uint64_t)i);
}

/* Contents of inputs and parameters; zeros for all else. */
static void fill_value(const struct graph *g, value v, void *at)
{
    const struct value_info *info = &g->values[v];
    const int64_t n = graph_elements(info);
    if (info->kind == VALUE_INPUT)
        for (int64_t i = 0; i < n; i++)
            ((int32_t *)at)[i] = (int32_t)((7 * i + v) % VOCABULARY);
    else if (info->kind == VALUE_PARAM)
        fill(at, n, (uint64_t)info->param);
}

static void *work_of(struct arena *a, const struct op *op, const struct call *c)
{
    size_t bytes[2] = { 0, 0 };
    if (op->work[CPU])
        op->work[CPU](c, bytes);
    return arena_alloc(a, (bytes[0] > bytes[1] ? bytes[0] : bytes[1]) + 64);
}

static struct call plain_call(struct arena *a, const struct node *n, void **at, void **grad)
{
    struct call c = { 0 };
    memcpy(c.dim, n->dim, sizeof c.dim);
    memcpy(c.attr, n->attr, sizeof c.attr);
    for (int j = 0; j < n->anno->n_args; j++) {
        c.arg[j] = at[n->arg[j]];
        c.grad[j] = grad ? grad[n->arg[j]] : NULL;
    }
    c.work = work_of(a, n->op, &c);
    return c;
}

/* Forward and backward; gradients of parameters are added to. */
static void run_nodes(struct arena *a, const struct graph *g, void **at, void **grad)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const struct call c = plain_call(a, &g->nodes[i], at, NULL);
        g->nodes[i].op->fwd[CPU](&c);
    }
    for (int i = 0; i < g->n_backs; i++) {
        const struct node *n = &g->nodes[g->backs[i].node];
        struct call c = plain_call(a, n, at, grad);
        for (int j = 0; j < n->anno->n_inputs; j++)
            if (!(g->backs[i].want >> j & 1))
                c.grad[j] = NULL;
        c.add = g->backs[i].add;
        n->op->bwd[CPU](&c);
    }
}

/* Gradients by value, of MICRO micro-batches of the same tokens. */
static void **run_plainly(struct arena *a, const struct graph *g)
{
    void **at = ARENA_NEW(a, void *, g->n_values), **grad = ARENA_NEW(a, void *, g->n_values);
    for (value v = 0; v < g->n_values; v++) {
        at[v] = ARENA_NEW(a, double, graph_elements(&g->values[v]));
        fill_value(g, v, at[v]);
        if (g->has_grad[v])
            grad[v] = ARENA_NEW(a, double, graph_elements(&g->values[v]));
    }
    fill(grad[g->roots[0].of], BATCH * LENGTH, 1000);
    for (int micro = 0; micro < MICRO; micro++)
        run_nodes(a, g, at, grad);
    return grad;
}

static void *at_ref(const struct program *p, char *slab, struct ref r)
{
    return r.buffer < 0 ? NULL : slab + p->buffers[r.buffer].at + r.at_bytes;
}

static void *param_at(const struct program *p, char *slab, const struct ref *flats, int param)
{
    const struct place *at = &p->layout.place[param];
    return (float *)at_ref(p, slab, flats[at->flat]) + at->at;
}

static void run_lowered(struct program *p, char *slab, bool first)
{
    for (int i = 0; i < p->list[LIST_MICRO].n; i++) {
        const struct instr *in = &p->list[LIST_MICRO].item[i];
        struct call c = { .add = instr_add(in, first), .wide = in->wide, .work = at_ref(p, slab, in->work) };
        EXPECT(in->kind == RUN_OP);
        for (int j = 0; j < OP_ARGS; j++) {
            c.arg[j] = at_ref(p, slab, in->arg[j]);
            c.grad[j] = at_ref(p, slab, in->grad[j]);
        }
        memcpy(c.dim, in->dim, sizeof c.dim);
        memcpy(c.attr, in->attr, sizeof c.attr);
        (in->both       ? in->op->both
         : in->backward ? in->op->bwd
         : in->again    ? in->op->again
                        : in->op->fwd)[CPU](&c);
    }
}

static struct plan plan_with(int recompute)
{
    struct plan p = one_rank_plan(BATCH, LENGTH, BATCH * LENGTH);
    p.numbers.backend = CPU;
    p.numbers.gradient = F32;
    p.recompute = recompute;
    return p;
}

/* Of a parameter: the bits of `want`; NULL: never written, and so zero, as the slab begins. */
static bool is_gradient(const unsigned char *got, const void *want, size_t bytes)
{
    bool untouched = true;
    for (size_t i = 0; i < bytes; i++)
        untouched &= got[i] == 0xff;
    return want ? memcmp(got, want, bytes) == 0 : untouched;
}

/* Returns how many kinds may be computed again; -1 where a gradient differs. */
static int compare(const struct graph *g, void **want, int recompute, uint64_t seed)
{
    const struct plan plan = plan_with(recompute);
    const struct adamw o = { 0.9, 0.95, 1e-8, 0 };
    struct arena *a = arena_new("lowered");
    struct program p;
    sched_lower(a, g, &plan, 0, true, &o, &p);
    char *slab = malloc((size_t)p.memory.peak_bytes);
    memset(slab, 0xff, (size_t)p.memory.peak_bytes); /* gradients too: they are written first */
    for (value v = 0; v < g->n_values; v++)
        if (g->values[v].kind == VALUE_PARAM)
            fill_value(g, v, param_at(&p, slab, p.weights, g->values[v].param));
        else if (g->values[v].kind == VALUE_INPUT)
            fill_value(g, v, at_ref(&p, slab, p.value[v]));
    fill(at_ref(&p, slab, p.nll_weight), BATCH * LENGTH, 1000);
    for (int micro = 0; micro < MICRO; micro++)
        run_lowered(&p, slab, micro == 0);
    int kinds = p.recompute_most;
    for (value v = 0; v < g->n_values && kinds >= 0; v++)
        if (g->values[v].kind == VALUE_PARAM &&
            !is_gradient(param_at(&p, slab, p.gradients, g->values[v].param), want[v],
                         (size_t)graph_elements(&g->values[v]) * sizeof(float))) {
            EXPECTF(false, "seed %llu, %d kinds again: gradient of %s", (unsigned long long)seed, recompute,
                    g->values[v].name);
            kinds = -1;
        }
    free(slab);
    arena_free(a);
    return kinds;
}

TEST(lowered_gradients_are_the_plain_ones)
{
    int kinds = 0;
    for (uint64_t seed = 1; seed <= SEEDS && kinds >= 0; seed++) {
        struct arena *a = arena_new("plain");
        const struct graph *g = random_graph(a, seed);
        struct err e = { 0 };
        EXPECTF(graph_check(g, &e), "%s", e.text);
        void **want = run_plainly(a, g);
        kinds = compare(g, want, 0, seed);
        for (int k = 1; k <= kinds; k++)
            kinds = compare(g, want, k, seed);
        arena_free(a);
    }
}
