/* The width of experts split over a tensor group: what is split, what joins, what crosses into it and out, who
 * exchanges with whom, and where it must stay whole. */
#include "model/deepseek_v2.h"
#include "sched/sched.h"
#include "tests/small_model.h"
#include "tests/test.h"
#include <string.h>

static struct graph *graph_of(struct arena *a, const struct plan *p, int64_t shared)
{
    struct model_values v;
    const struct model_options o = { .batch = plan_graph_batch(p), .sequence = p->sequence };
    struct model_config m = small_model(96, 32);
    m.shared_experts = shared;
    return deepseek_v2_graph(a, &m, &o, &v);
}

static struct plan plan_of(int ranks, int ep, int tensor)
{
    struct plan p = one_rank_plan(1, 16, 1000);
    p.n_ranks = p.unit_ranks = ranks;
    p.expert_parallel = ep;
    p.tensor_parallel = p.width_parallel = tensor;
    p.accumulation = 2;
    p.global_batch = p.accumulation * ranks;
    p.row_capacity = ep > 1 ? 80 : 0;
    return p;
}

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

TEST(nodes_around_experts_join)
{
    static const char *const joined[] = { "mlp.sort", "mlp.dispatch", "mlp.combine" }, *const inner[] = {
        "mlp.sort", "mlp.dispatch", "mlp.shared_experts.down_proj"
    };
    struct arena *a = arena_new("test");
    const struct plan p = plan_of(4, 2, 2);
    const struct graph *g = graph_of(a, &p, 1);
    struct layout l;
    layout_make(a, g, &p, 0, &l);
    int n_inner = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        bool joins = false, stays = false;
        for (int k = 0; k < 3; k++) {
            joins |= ends_with(n->name, joined[k]);
            stays |= ends_with(n->name, inner[k]);
        }
        EXPECTF(l.tensor.joined[i] == joins, "%s joins: %d", n->name, l.tensor.joined[i]);
        if (ends_with(n->name, "mlp.experts")) {
            EXPECT(strcmp(n->anno->letter[l.tensor.letter[i]], "f") == 0);
            EXPECT(!l.tensor.inner[n->arg[n->anno->n_inputs]] &&
                   l.tensor.inner[n->arg[n->anno->n_inputs + 1]]);
            continue;
        }
        for (int j = n->anno->n_inputs; j < n->anno->n_args; j++) {
            EXPECTF(l.tensor.inner[n->arg[j]] == stays, "an output of %s is inside: %d", n->name,
                    l.tensor.inner[n->arg[j]]);
            n_inner += l.tensor.inner[n->arg[j]];
        }
    }
    EXPECT_INT(n_inner, 2 * 6); /* 3 of sort, 2 of dispatch, 1 summand */
    arena_free(a);
}

/* Rank 7 of 8 in groups of two, of which two share the experts: the second half of the width of experts 4 to 7. */
TEST(a_rank_holds_slices_of_its_experts)
{
    struct arena *a = arena_new("test");
    const struct plan p = plan_of(8, 2, 2);
    const struct graph *g = graph_of(a, &p, 1);
    struct layout l;
    layout_make(a, g, &p, 7, &l);
    EXPECT(l.ep_index == 1 && l.tensor_index == 1);
    EXPECT(l.flat[EXPERT].n_ranks == 2 && l.flat[EXPERT].stride == 4 && l.flat[EXPERT].first_rank == 3);
    const struct members m = sched_members(&p, 7, GROUP_EXPERT, 0);
    EXPECT(m.first == 5 && m.stride == 2 && m.n == 2);
    for (int i = 0; i < g->params.n; i++) {
        const struct param *w = &g->params.item[i];
        const struct place *at = &l.place[i];
        int64_t stored;
        if (!strstr(w->name, ".experts."))
            continue;
        EXPECTF(at->flat == EXPERT, "%s lies in flat %d", w->name, at->flat);
        EXPECT_INT(at->end - at->begin, w->n_elements / 4);
        layout_run(at, at->begin, &stored);
        /* [E 2 F D] and [E D F]: of expert 4 the second half of the first row of slices */
        EXPECT_INT(stored, w->n_elements / 2 + (strstr(w->name, "down") ? 12 : 12 * 32));
    }
    arena_free(a);
}

struct count {
    int gathers, scatters, experts, sends;
};

static struct count count_of(const struct program *x, const char *name, bool backward)
{
    struct count c = { 0 };
    const struct section s = backward ? x->backward[0] : x->forward[0];
    for (int i = s.from; i < s.to; i++) {
        const struct instr *in = &x->list[LIST_MICRO].item[i];
        if (!ends_with(in->name, name))
            continue;
        c.gathers += in->kind == RUN_TENSOR_GATHER;
        c.scatters += in->kind == RUN_TENSOR_SCATTER;
        c.sends += in->kind == RUN_SEND || in->kind == RUN_RETURN;
        if (in->kind == RUN_OP && ends_with(name, "experts")) {
            c.experts++;
            EXPECT_INT(in->dim[5], 12);
        }
    }
    return c;
}

static void expect_crossings(const struct program *x, const char *name, int in, int out, int back_in,
                             int back_out)
{
    const struct count f = count_of(x, name, false), b = count_of(x, name, true);
    EXPECTF(f.gathers == in && f.scatters == out && b.gathers == back_in && b.scatters == back_out,
            "%s: %d in, %d out; backward %d in, %d out", name, f.gathers, f.scatters, b.gathers, b.scatters);
}

/* Of the summand that is a partial sum as well, nothing crosses: it leaves with the sum of all. */
TEST(partial_sums_leave_once)
{
    struct arena *a = arena_new("test");
    const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };
    for (int shared = 0; shared < 2; shared++) {
        const struct plan p = plan_of(4, 1, 2);
        struct program x;
        sched_lower(a, graph_of(a, &p, shared), &p, 1, true, &adam, &x);
        expect_crossings(&x, "layers.1.mlp.sort", 1, 0, 0, 0);
        expect_crossings(&x, "layers.1.mlp.dispatch", 2, 0, 0, 2);
        expect_crossings(&x, "layers.1.mlp.experts", 0, 0, 0, 0);
        expect_crossings(&x, "layers.1.mlp.combine", 0, 1, 1, 0);
        expect_crossings(&x, "layers.1.mlp.shared_experts.down_proj", 0, 0, 0, 0);
        expect_crossings(&x, "layers.1.mlp.shared_experts.gate_up", shared, 0, shared, shared);
    }
    arena_free(a);
}

static bool splits(struct plan p, struct graph *g, char *why)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const bool ok = plan_check(&p, g, &e);
    snprintf(why, sizeof e.text, "%s", e.text);
    arena_free(a);
    return ok;
}

TEST(widths_that_stay_whole)
{
    struct arena *a = arena_new("test");
    char why[sizeof((struct err *)0)->text];
    struct plan p = plan_of(4, 2, 2);
    struct graph *g = graph_of(a, &p, 1);
    EXPECTF(splits(p, g, why), "%s", why);
    p.numbers.backend = CUDA; /* halves of 24 are no multiple of 8 */
    p.tile = 128;
    p.row_capacity = 256;
    EXPECT(!splits(p, g, why) && strstr(why, "width_parallel = 2") && strstr(why, "multiples of 8"));
    p = plan_of(5, 1, 5);
    EXPECT(!splits(p, g, why));
    p = plan_of(4, 2, 2);
    for (int i = 0; i < g->n_nodes; i++) /* rows of experts that the host would read as they are */
        if (ends_with(g->nodes[i].name, "layers.2.mlp.experts"))
            graph_keep(g, g->nodes[i].arg[6]);
    EXPECT(!splits(p, g, why) && strstr(why, "experts"));
    arena_free(a);
}
