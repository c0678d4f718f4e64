/* Plans: what the checker refuses, layouts cover every element once, exact memory, text both ways, search. */
#include "base/json.h"
#include "base/str.h"
#include "plan/cut.h"
#include "plan/layout.h"
#include "plan/search.h"
#include "sched/predict.h"
#include "sched/sched.h"
#include "tests/small_model.h"
#include "tests/test.h"
#include <stdlib.h>

static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };

static struct plan plan_of(int ranks, int unit, int ep, int zero, int64_t micro, bool reproducible)
{
    struct plan p = { .n_ranks = ranks,
                      .unit_ranks = unit,
                      .expert_parallel = ep,
                      .tensor_parallel = 1,
                      .vocabulary_parallel = 1,
                      .width_parallel = 1,
                      .stages = 1,
                      .chunks = 1,
                      .zero_ranks = zero,
                      .zero = zero > 1,
                      .micro_batch = micro,
                      .accumulation = 2,
                      .sequence = 16,
                      .head_chunk = 1000,
                      .reproducible = reproducible,
                      .tile = reproducible ? 8 : 1,
                      .row_capacity = ep > 1 ? 64 : 0,
                      .model = "0123456789abcdef",
                      .cluster = "0123456789abcdef" };
    p.global_batch = micro * 2 * ranks;
    return p;
}

static void expect_refused(struct plan p, const char *part)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    EXPECT(!plan_check(&p, NULL, &e));
    EXPECTF(strstr(e.text, part), "'%s' does not name %s", e.text, part);
    arena_free(a);
}

TEST(checker_names_the_field)
{
    struct plan p = plan_of(4, 2, 2, 4, 1, false);
    struct err e = { 0 };
    EXPECTF(plan_check(&p, NULL, &e), "%s", e.text);
    p.unit_ranks = 3;
    expect_refused(p, "plan_ngpus");
    p = plan_of(4, 2, 4, 4, 1, false);
    expect_refused(p, "expert_parallel");
    p = plan_of(4, 4, 2, 2, 1, false);
    expect_refused(p, "zero_ranks");
    p = plan_of(4, 4, 2, 4, 1, false);
    p.global_batch++;
    expect_refused(p, "global_batch");
    p = plan_of(4, 4, 2, 4, 1, true);
    p.row_capacity = 63;
    expect_refused(p, "row_capacity");
    p = plan_of(6, 6, 3, 6, 1, true);
    expect_refused(p, "power of two");
}

static void choose_cuts(const struct graph *g, struct plan *p)
{
    struct cluster c;
    struct err e = { 0 };
    cluster_cpu(&c, 1, 1, 1);
    EXPECTF(plan_parts(p) == 1 || cut_choose(g, &c, NULL, p, &e), "%s", e.text);
}

/* The same ranks as a pipeline. */
static struct plan piped(struct plan p, int stages, int chunks)
{
    struct arena *a = arena_new("test");
    p.stages = stages;
    p.chunks = chunks;
    p.accumulation = 2 * stages;
    p.global_batch = p.micro_batch * p.accumulation * plan_workers(&p);
    choose_cuts(small_model_graph(a, &p), &p);
    arena_free(a);
    return p;
}

TEST(cuts_are_checked)
{
    struct arena *a = arena_new("test");
    struct plan p = piped(plan_of(4, 4, 1, 1, 1, false), 4, 1);
    const struct graph *g = small_model_graph(a, &p);
    struct err e = { 0 };
    EXPECTF(plan_check(&p, g, &e), "%s", e.text);
    for (int i = 0; i < 4; i++)
        EXPECT(p.cut[i] < p.cut[i + 1]);
    p.cut[2] = p.cut[1];
    EXPECT(!plan_check(&p, g, &e) && strstr(e.text, "cut"));
    p = piped(plan_of(4, 4, 1, 1, 1, false), 2, 1);
    int n = 0;
    for (int at = 1; at < g->n_nodes; at++) {
        p.cut[1] = at;
        n += plan_check(&p, g, &e);
    }
    EXPECTF(n >= 4 && n < g->n_nodes / 2, "%d places to cut at", n); /* not in the middle of attention */
    p = piped(plan_of(4, 4, 1, 1, 1, false), 2, 2);
    p.accumulation = 3;
    p.global_batch = 6;
    expect_refused(p, "accumulation");
    p = plan_of(4, 4, 4, 4, 1, false);
    p.tensor_parallel = 2;
    p.vocabulary_parallel = 4;
    expect_refused(p, "vocabulary_parallel");
    p.vocabulary_parallel = 1;
    p.width_parallel = 4;
    expect_refused(p, "width_parallel");
    p.width_parallel = 2; /* 4 groups of 2 are 8 ranks */
    expect_refused(p, "width_parallel");
    p = plan_of(4, 4, 4, 4, 1, false);
    p.stages = 2;
    expect_refused(p, "expert_parallel");
    p.expert_parallel = 1;
    expect_refused(p, "zero_ranks");
    p.zero_ranks = 2;
    p.chunks = 17;
    expect_refused(p, "pipeline_chunks");
    arena_free(a);
}

/* Over all ranks: every element of every parameter has exactly one fine owner, each coarse range is the union of
 * its members' fine ranges, chunks have the same identity everywhere. */
static void check_cover(int ranks, int unit, int ep, int tensor, int width, int zero, int stages)
{
    struct arena *a = arena_new("test");
    struct plan p = plan_of(ranks, unit, ep, zero, 1, false);
    p.tensor_parallel = p.vocabulary_parallel = tensor;
    p.width_parallel = width;
    p = piped(p, stages, 1);
    const struct graph *g = small_model_graph(a, &p);
    for (int i = 0; i < g->params.n; i++) {
        unsigned char *owned = ARENA_NEW(a, unsigned char, g->params.item[i].n_elements);
        for (int r = 0; r < ranks; r++) {
            struct layout l;
            layout_make(a, g, &p, r, &l);
            const struct place *at = &l.place[i];
            const struct flat *f = &l.flat[at->flat];
            const int fine = layout_fine_of(f, f->index);
            int64_t begin, end;
            layout_coarse(f, f->index, &begin, &end);
            EXPECT(begin <= f->cut[fine] && f->cut[fine + 1] <= end);
            for (int64_t e = at->begin, stored; e < at->end; e++)
                if (layout_run(at, e, &stored) > 0 && at->at + e - at->begin >= f->cut[fine] &&
                    at->at + e - at->begin < f->cut[fine + 1])
                    owned[stored]++;
        }
        for (int64_t e = 0; e < g->params.item[i].n_elements; e++)
            if (owned[e] != 1) {
                EXPECTF(false,
                        "ranks %d unit %d ep %d tensor %d width %d zero %d stages %d: %s[%lld] has %d owners",
                        ranks, unit, ep, tensor, width, zero, stages, g->params.item[i].name, (long long)e,
                        owned[e]);
                break;
            }
    }
    arena_free(a);
}

TEST(every_element_has_one_owner)
{
    check_cover(1, 1, 1, 1, 1, 1, 1);
    check_cover(4, 4, 1, 1, 1, 4, 1);
    check_cover(4, 4, 4, 1, 1, 4, 1);
    check_cover(4, 2, 2, 1, 1, 2, 1);
    check_cover(8, 4, 2, 1, 1, 8, 1);
    check_cover(8, 4, 4, 1, 1, 1, 1);
    check_cover(6, 3, 1, 1, 1, 3, 1);
    check_cover(2, 2, 1, 2, 1, 1, 1);
    check_cover(8, 4, 4, 2, 1, 4, 1);
    check_cover(8, 4, 1, 2, 1, 8, 1);
    check_cover(8, 8, 2, 2, 1, 2, 4);
    check_cover(8, 4, 2, 1, 1, 4, 2);
    check_cover(4, 4, 2, 2, 2, 4, 1);
    check_cover(8, 4, 2, 2, 2, 8, 1);
    check_cover(8, 8, 2, 4, 4, 8, 1);
    check_cover(8, 8, 2, 2, 2, 4, 2);
}

/* Heads and MLP widths are split, nothing else: by annotations alone. */
TEST(tensor_groups_split_heads_and_widths)
{
    struct arena *a = arena_new("test");
    struct plan p = plan_of(2, 2, 1, 1, 1, false);
    p.tensor_parallel = 2;
    const struct graph *g = small_model_graph(a, &p);
    struct layout l;
    layout_make(a, g, &p, 1, &l);
    for (int i = 0; i < g->params.n; i++) {
        const char *name = g->params.item[i].name;
        const bool shared = strstr(name, "q_proj") || strstr(name, "kv_b_proj") || strstr(name, "o_proj") ||
                            (strstr(name, "mlp") && !strstr(name, ".experts.") && !strstr(name, "mlp.gate."));
        EXPECTF(shared == (l.place[i].flat == TENSOR), "%s lies in flat %d", name, l.place[i].flat);
    }
    p.tensor_parallel =
        3; /* divides neither 2 heads nor ... 24 and 48: the MLPs are split, the heads are not */
    layout_make(a, g, &p, 0, &l);
    for (int i = 0; i < g->params.n; i++)
        EXPECTF(l.place[i].flat != TENSOR || strstr(g->params.item[i].name, "mlp"), "%s is split",
                g->params.item[i].name);
    p.tensor_parallel = 2;
    p.numbers.backend = CUDA; /* halves of the shared experts' 24 are no multiple of 8 */
    layout_make(a, g, &p, 0, &l);
    for (int i = 0; i < g->params.n; i++)
        EXPECTF(l.place[i].flat != TENSOR || !strstr(g->params.item[i].name, "shared"), "%s is split",
                g->params.item[i].name);
    arena_free(a);
}

/* No two buffers that live at the same time share a byte, and nothing lies beyond the peak. */
static int64_t end_of(const struct buffer *b)
{
    return b->at + b->bytes + (b->slots > 1 ? (b->slots - 1) * b->slot_bytes : 0);
}

static void check_offsets(struct plan p, int rank)
{
    struct arena *a = arena_new("test");
    const struct graph *g = small_model_graph(a, &p);
    struct program x;
    sched_lower(a, g, &p, rank, true, &adam, &x);
    int64_t classes = 0;
    for (int i = 0; i < x.n_buffers; i++) {
        const struct buffer *b = &x.buffers[i];
        if (b->first < 0)
            continue;
        EXPECT(b->at % 64 == 0 && end_of(b) <= x.memory.peak_bytes);
        for (int j = 0; j < i; j++) {
            const struct buffer *c = &x.buffers[j];
            if (c->first >= 0 && b->first <= c->last && c->first <= b->last && b->bytes && c->bytes)
                EXPECTF(end_of(b) <= c->at || end_of(c) <= b->at, "%s and %s overlap", b->name, c->name);
        }
    }
    for (int i = 0; i < MEM_CLASSES; i++)
        classes += x.memory.class_bytes[i];
    EXPECT_INT(classes, x.memory.peak_bytes);
    arena_free(a);
}

TEST(buffers_do_not_overlap)
{
    check_offsets(plan_of(1, 1, 1, 1, 2, false), 0);
    check_offsets(plan_of(4, 4, 4, 4, 1, false), 3);
    check_offsets(plan_of(4, 2, 2, 2, 2, true), 3);
    struct plan p = plan_of(4, 4, 2, 4, 1, false);
    p.tensor_parallel = 2;
    check_offsets(p, 3);
    p.vocabulary_parallel = 2;
    check_offsets(p, 3);
    p.head_chunk = 3;
    check_offsets(p, 0);
    for (int rank = 0; rank < 4; rank++) {
        check_offsets(piped(plan_of(4, 4, 1, 1, 1, false), 4, 1), rank);
        check_offsets(piped(plan_of(4, 4, 2, 2, 1, true), 2, 2), rank);
    }
}

/* Residual sums work in place: one buffer for the gradients of both summands, that of the sum where it has one. */
TEST(residual_gradients_have_one_buffer)
{
    struct arena *a = arena_new("test");
    const struct plan p = plan_of(1, 1, 1, 1, 2, false);
    const struct graph *g = small_model_graph(a, &p);
    struct program x;
    int n = 0, last = 0;
    sched_lower(a, g, &p, 0, true, &adam, &x);
    for (int i = 0; i < x.list[LIST_MICRO].n; i++) {
        const struct instr *in = &x.list[LIST_MICRO].item[i];
        if (!in->op || !in->op->joins || !in->backward)
            continue;
        n++;
        EXPECT(in->grad[0].buffer >= 0 && in->grad[0].buffer == in->grad[1].buffer && !(in->add & 3));
        EXPECT(in->grad[3].buffer == in->grad[0].buffer || in->grad[3].buffer < 0);
        last += in->grad[3].buffer < 0;
    }
    EXPECT_INT(n, 2 * small_model(96, 32).layers);
    EXPECT_INT(last, 1); /* nothing but the norm reads the last sum */
    arena_free(a);
}

/* The loss is one call in a micro-batch, whose logits live for that call alone, and forward only in evaluation. */
TEST(loss_runs_forward_and_backward_at_once)
{
    struct arena *a = arena_new("test");
    const struct plan p = plan_of(1, 1, 1, 1, 2, false);
    const struct graph *g = small_model_graph(a, &p);
    struct program x;
    int n_both = 0, n_eval = 0;
    sched_lower(a, g, &p, 0, true, &adam, &x);
    for (int i = 0; i < x.list[LIST_MICRO].n; i++) {
        const struct instr *in = &x.list[LIST_MICRO].item[i];
        if (in->kind != RUN_OP || strcmp(in->op->name, "head_loss") != 0)
            continue;
        const struct buffer *logits = &x.buffers[in->arg[5].buffer];
        n_both += in->both && in->backward;
        EXPECTF(in->both, "%s runs apart", in->name);
        EXPECTF(logits->first == logits->last, "logits live from %d to %d", logits->first, logits->last);
    }
    for (int i = 0; i < x.list[LIST_EVAL].n; i++) {
        const struct instr *in = &x.list[LIST_EVAL].item[i];
        n_eval += in->kind == RUN_OP && strcmp(in->op->name, "head_loss") == 0 && !in->backward;
    }
    EXPECT_INT(n_both, 1);
    EXPECT_INT(n_eval, 1);
    arena_free(a);
}

static void check_text(struct plan p)
{
    struct arena *a = arena_new("test");
    struct plan q;
    struct str s = str_new(a, 1u << 24);
    struct err e = { 0 };
    char hash[17], again[17];
    plan_write(&p, small_model_graph(a, &p), &s, hash);
    EXPECTF(plan_parse(s.text, s.bytes, "plan.json", &q, &e), "%s", e.text);
    plan_hash(&q, again);
    EXPECT_TEXT(again, hash);
    EXPECT(memcmp(q.cut, p.cut, sizeof q.cut) == 0);
    char *text = s.text, *at = strstr(text, "\"expert_parallel\": 2");
    at[strlen("\"expert_parallel\": ")] = '1';
    EXPECT(!plan_parse(text, s.bytes, "plan.json", &q, &e));
    EXPECTF(strstr(e.text, "changed by hand"), "%s", e.text);
    for (size_t n = 0; n < s.bytes - 2; n += 97) {
        struct err cut = { 0 };
        EXPECT(!plan_parse(text, n, "plan.json", &q, &cut) && cut.text[0]);
    }
    arena_free(a);
}

TEST(text_both_ways)
{
    check_text(plan_of(4, 2, 2, 4, 2, false));
    check_text(piped(plan_of(8, 4, 2, 4, 2, false), 2, 2));
}

static bool measure(void *context, const struct plan_bar *bar, struct plan *p, struct err *e)
{
    struct arena *a = arena_new("candidate");
    struct program x;
    const struct graph *g = small_model_graph(a, p);
    const bool ok = plan_parts(p) == 1 || cut_choose(g, context, NULL, p, e);
    (void)bar;
    if (ok) {
        sched_lower(a, g, p, 0, true, &adam, &x);
        p->memory = x.memory;
        sched_predict(&x, context, &p->cost);
    }
    arena_free(a);
    return ok;
}

static bool search_as(bool reproducible, int64_t memory_bytes, struct search_result *r, struct err *e)
{
    struct plan base = { .reproducible = reproducible,
                         .sequence = 16,
                         .head_chunk = 1000,
                         .tile = plan_tile(CPU, reproducible),
                         .model = "0123456789abcdef",
                         .cluster = "0123456789abcdef" };
    struct cluster c;
    cluster_cpu(&c, 4, 1, 4);
    const struct plan_limits l = { .n_ranks = 4,
                                   .unit_ranks = 2,
                                   .zero = -1,
                                   .global_batch = 16,
                                   .memory_bytes = memory_bytes,
                                   .vocabulary = SPLIT_OFF };
    const struct plan_judge judge = { measure, NULL, &c };
    return search_plan(&base, &l, 8, 32, &judge, r, e);
}

static bool search(int64_t memory_bytes, struct search_result *r, struct err *e)
{
    return search_as(false, memory_bytes, r, e);
}

/* Tensor parallelism is chosen as anything else, but not where it would change bits. */
TEST(search_splits_tensors_unless_bits_matter)
{
    struct search_result free, exact;
    struct err e = { 0 };
    EXPECTF(search((int64_t)1 << 40, &free, &e), "%s", e.text);
    EXPECTF(search_as(true, (int64_t)1 << 40, &exact, &e), "%s", e.text);
    EXPECT_INT(2 * free.n_candidates,
               5 * exact.n_candidates); /* 1 2 x 1 2, and 1 x 2 with widths split; 1 2 x 1 */
    for (int i = 0; i < exact.n; i++)
        EXPECT_INT(exact.best[i].tensor_parallel, 1);
}

TEST(search_keeps_the_limit_and_the_order)
{
    struct search_result all, tight;
    struct err e = { 0 };
    EXPECTF(search((int64_t)1 << 40, &all, &e), "%s", e.text);
    EXPECT_INT(all.n, SEARCH_KEEP);
    /* micro-batch 1 2 4, expert and tensor parallel 1 2 or parts of widths, ZeRO off, inside, across */
    EXPECT_INT(all.n_candidates, 3 * (2 * 2 + 1) * 3);
    for (int i = 1; i < all.n; i++)
        EXPECT(all.best[i - 1].cost.step_us <= all.best[i].cost.step_us);
    struct search_result none;
    EXPECT(!search(1, &none, &e)); /* everything was split as far as it goes */
    const int64_t least = none.smallest.memory.peak_bytes;
    EXPECT(least < all.best[0].memory.peak_bytes);
    EXPECT_INT(none.smallest.stages, 2);
    EXPECT_INT(none.smallest.zero, 3);
    EXPECT_INT(all.best[0].stages, 1);
    e = (struct err){ 0 };
    EXPECTF(search(least + 1000, &tight, &e), "%s", e.text);
    EXPECT(tight.n > 0);
    for (int i = 0; i < tight.n; i++)
        EXPECT(tight.best[i].memory.peak_bytes <= least + 1000);
    EXPECT(!search(least - 1, &tight, &e));
    EXPECT_INT(e.code, EXIT_MEMORY);
    EXPECTF(strstr(e.text, "--mem_constraint"), "%s", e.text);
}

/* The search measures one rank for all. */
static void check_fullest(struct plan p, int zero)
{
    struct arena *a = arena_new("test");
    const struct graph *g = small_model_graph(a, &p);
    struct layout l;
    p.zero = zero;
    int64_t most = 0, fullest = 0;
    for (int r = 0; r < p.n_ranks; r++) {
        struct program x;
        layout_make(a, g, &p, r, &l);
        sched_lower(a, g, &p, r, true, &adam, &x);
        most = x.memory.peak_bytes > most ? x.memory.peak_bytes : most;
        if (r == layout_fullest_rank(&l, &p)) /* of its stage */
            fullest = x.memory.peak_bytes > fullest ? x.memory.peak_bytes : fullest;
    }
    EXPECT_INT(fullest, most);
    arena_free(a);
}

TEST(the_fullest_rank_needs_most_memory)
{
    check_fullest(plan_of(4, 4, 1, 1, 1, false), 0);
    for (int zero = 1; zero <= 3; zero++) {
        check_fullest(plan_of(4, 4, 1, 4, 1, false), zero);
        check_fullest(plan_of(8, 4, 2, 8, 1, false), zero);
        check_fullest(plan_of(6, 3, 1, 3, 1, false), zero);
        check_fullest(piped(plan_of(8, 8, 2, 4, 1, false), 2, 1), zero);
        struct plan p = plan_of(8, 8, 4, 8, 1, false);
        p.tensor_parallel = 2;
        check_fullest(p, zero);
        p.vocabulary_parallel = 2;
        check_fullest(p, zero);
    }
}

TEST(groups_have_the_links_they_span)
{
    struct cluster c;
    EXPECT(cluster_builtin("h200", &c) && !cluster_builtin("h300", &c));
    EXPECT(cluster_link(&c, 8, 64) == &c.inside && cluster_link(&c, 4, 64) == &c.inside);
    EXPECT(cluster_link(&c, 16, 64) == &c.between && cluster_link(&c, 6, 12) == &c.between);
    EXPECT(cluster_link(&c, 6, 6) == &c.inside);
}

/* A plan on one node is not slower for a slow network; one across nodes is. */
TEST(slow_networks_cost_where_they_are_crossed)
{
    struct plan p = plan_of(4, 4, 2, 4, 1, false);
    struct err e = { 0 };
    struct cluster c;
    cluster_builtin("h200", &c);
    measure(&c, NULL, &p, &e);
    const double inside = p.cost.step_us;
    c.between.bytes_per_s[TRANSFER_REDUCE] /= 10;
    measure(&c, NULL, &p, &e);
    EXPECT(p.cost.step_us == inside);
    c.ranks_per_node = 2;
    measure(&c, NULL, &p, &e);
    const double across = p.cost.reduce_us, exchange = p.cost.exchange_us;
    EXPECT(p.cost.step_us > inside);
    c.between.latency_us *= 10;
    measure(&c, NULL, &p, &e);
    EXPECT(p.cost.reduce_us > across && p.cost.exchange_us == exchange);
}
