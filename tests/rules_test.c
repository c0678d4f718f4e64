/* Rules for operators by name: what they say, what contradicts, how they bound recomputation. */
#include "model/deepseek_v2.h"
#include "plan/rules.h"
#include "tests/small_model.h"
#include "tests/test.h"

static struct graph *small_graph(struct arena *a)
{
    struct model_values v;
    const struct model_options o = { .batch = 4, .sequence = 16 };
    const struct model_config m = small_model(96, 32);
    return deepseek_v2_graph(a, &m, &o, &v);
}

static void expect_rules(const char *text, const char *why)
{
    struct rules r;
    struct err e = { 0 };
    struct arena *a = arena_new("test");
    struct plan_limits l = { .recompute = -1, .tensor_parallel = 2 };
    const bool ok = rules_parse(text, &r, &e) && rules_apply(&r, small_graph(a), &l, &e);
    EXPECTF(ok == (why == NULL), "%s: %s", text, e.text);
    EXPECTF(!why || strstr(e.text, why), "%s: '%s' does not say %s", text, e.text, why);
    EXPECT(ok || e.code == EXIT_USAGE);
    EXPECT(!ok || r.n == 0 || l.expert_parallel == 4);
    arena_free(a);
}

TEST(rules_for_operators)
{
    expect_rules("experts: ep=4", NULL);
    expect_rules(" mlp.experts : ep=4 , recompute=off; attention: tensor=2,recompute=on ;", NULL);
    expect_rules("", NULL);
    expect_rules("experts", "expected NAME");
    expect_rules("experts: ep=", "expected NAME");
    expect_rules("experts: ep=4x", "expected NAME");
    expect_rules("experts: recompute=maybe", "expected NAME");
    expect_rules("experts: ep=4, width=on", NULL);
    expect_rules("experts: width=maybe", "expected NAME");
    expect_rules("attention: width=on", "split by experts");
    expect_rules("experts: ep=4, width=on; mlp: width=off", "contrary");
    expect_rules("experts: ep=4,,", "expected NAME");
    expect_rules("nobody: ep=4", "nobody");
    expect_rules("attention: ep=4", "split by experts");
    expect_rules("experts: ep=4; mlp: ep=2", "asked for elsewhere");
    expect_rules("attention: tensor=off", "asked for elsewhere");
}

/* What is on is repeated, what is off is not: places in the order bound how many. */
TEST(rules_bound_recomputation)
{
    struct rules r;
    struct err e = { 0 };
    struct arena *a = arena_new("test");
    const struct graph *g = small_graph(a);
    int place[1000] = { 0 }, least, most = g->n_nodes;
    for (int i = 0; i < g->n_nodes; i++)
        place[i] = i + 1;
    EXPECT(rules_parse("layers.0: recompute=on; layers.2: recompute=off", &r, &e));
    EXPECT(rules_recompute(&r, g, place, &least, &most, &e) && least > 0 && least <= most);
    EXPECT(strstr(g->nodes[least - 1].name, "layers.0.") && !strstr(g->nodes[least].name, "layers.0."));
    EXPECT(!strstr(g->nodes[most - 1].name, "layers.2.") && strstr(g->nodes[most].name, "layers.2."));
    EXPECT(rules_parse("layers.2: recompute=on; layers.0: recompute=off", &r, &e));
    EXPECT(!rules_recompute(&r, g, place, &least, &most, &e) && e.code == EXIT_USAGE);
    arena_free(a);
}
