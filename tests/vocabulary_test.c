/* A vocabulary in parts: what a tensor group holds of it, where its calls begin, where stages are cut. */
#include "plan/cut.h"
#include "plan/layout.h"
#include "sched/sched.h"
#include "tests/small_model.h"
#include "tests/test.h"
#include <string.h>

/* Tensor groups of two. */
static struct plan plan_of(int ranks, int parts)
{
    struct plan p = one_rank_plan(1, 16, 1000);
    p.n_ranks = p.unit_ranks = ranks;
    p.tensor_parallel = 2;
    p.vocabulary_parallel = parts;
    p.accumulation = 2;
    p.global_batch = p.accumulation * ranks;
    return p;
}

static const struct instr *forward_of(const struct program *x, const char *op)
{
    for (int i = 0; i < x->list[LIST_MICRO].n; i++) {
        const struct instr *in = &x->list[LIST_MICRO].item[i];
        if (in->kind == RUN_OP && !in->backward && strcmp(in->op->name, op) == 0)
            return in;
    }
    EXPECTF(false, "no %s", op);
    return NULL;
}

/* A graph whose loss is made of parts has its vocabulary split too; each member knows where its part begins. */
TEST(tensor_groups_split_the_vocabulary)
{
    struct arena *a = arena_new("test");
    const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };
    struct plan p = plan_of(4, 2);
    struct program x;
    p.head_chunk = 5;
    sched_lower(a, small_model_graph(a, &p), &p, 3, true, &adam, &x);
    for (int i = 0; i < x.graph->params.n; i++) {
        const char *name = x.graph->params.item[i].name;
        if (strstr(name, "embed_tokens") || strstr(name, "lm_head")) {
            EXPECTF(x.layout.place[i].flat == TENSOR, "%s lies in flat %d", name, x.layout.place[i].flat);
            EXPECT_INT(x.layout.place[i].begin, 48 * 32);
            EXPECT_INT(x.layout.place[i].end, 96 * 32);
        }
    }
    const struct instr *embed = forward_of(&x, "embed_part"), *head = forward_of(&x, "head_part");
    EXPECT(embed->dim[1] == 48 && embed->attr[0] == 96 && embed->attr[1] == 48);
    EXPECT(head->dim[2] == 1 && head->dim[3] == 48 && head->dim[4] == 2 && head->attr[3] == 1);
    EXPECT_INT(head->dim[0], 32); /* the tokens of both members */
    EXPECT_INT(head->dim[5], 10); /* as many logits as 5 rows of all columns */
    EXPECT_INT(forward_of(&x, "part_loss")->dim[0], 16);
    arena_free(a);
}

static struct plan piped(struct plan p, int stages)
{
    struct arena *a = arena_new("test");
    struct cluster c;
    struct err e = { 0 };
    cluster_cpu(&c, 1, 1, 1);
    p.stages = stages;
    EXPECTF(cut_choose(small_model_graph(a, &p), &c, NULL, &p, &e), "%s", e.text);
    arena_free(a);
    return p;
}

/* Between the head and the loss less lives than anywhere else, and yet no stage begins there. */
TEST(stages_are_those_of_a_whole_vocabulary)
{
    const struct plan whole = piped(plan_of(8, 1), 4), split = piped(plan_of(8, 2), 4);
    for (int i = 0; i < 4; i++)
        EXPECT_INT(split.cut[i], whole.cut[i]);
    EXPECT_INT(split.cut[4], whole.cut[4] + 1);
}
