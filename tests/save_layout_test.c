/* save_layout_test.c - what ranks hold under real plans goes to files and comes back: weights and moments in the order of
 * the parameters, 8-bit codes on the same layout as they were. No rank runs: values are functions of their place. */
#include "base/hash.h"
#include "model/deepseek_v2.h"
#include "run/weights.h"
#include "tests/ckpt_fixture.h"
#include "tests/small_model.h"

struct rank {
    const struct graph *g;
    struct layout l;
    const struct ckpt_holding *h;
};

static uint64_t mix(int what, int param, int64_t at)
{
    const int64_t key[] = { what, param, at };
    return hash_bytes(key, sizeof key);
}

/* Whole numbers below 256: bfloat16 has them exactly. */
static float stored_value(enum ckpt_part part, int param, int64_t stored)
{
    return (float)(mix(part == CKPT_MASTER ? CKPT_WEIGHT : (int)part, param, stored) % 251);
}

static unsigned char code(enum ckpt_part part, int param, int64_t held)
{
    return (unsigned char)mix(10 + (int)part, param, held);
}

static float scale(enum ckpt_part part, int param, int64_t own, int64_t block)
{
    return (float)(1 + mix(20 + (int)part, param, own + block * CKPT_BLOCK) % 100000);
}

/* Elements of a parameter whose states the rank owns: its blocks begin there. */
static bool owned(const struct rank *r, int param, int64_t *first, int64_t *last)
{
    const struct place *p = &r->l.place[param];
    const struct flat *f = &r->l.flat[p->flat];
    int64_t begin, end;
    layout_coarse(f, f->index, &begin, &end);
    *first = begin > p->at ? p->begin + begin - p->at : p->begin;
    *last = end < p->at + p->end - p->begin ? p->begin + end - p->at : p->end;
    return *first < *last;
}

static const float *read_part(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                              float *room)
{
    const struct rank *r = context;
    const struct ckpt_range *x = part == CKPT_WEIGHT ? &r->h->weights[index] : &r->h->states[index];
    for (int64_t i = 0; i < n && room; i++) {
        int64_t stored;
        layout_run(&r->l.place[x->param], x->begin + at + i, &stored);
        room[i] = stored_value(part, x->param, stored);
    }
    return room;
}

static void read_codes(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                       unsigned char *codes)
{
    const struct rank *r = context;
    const struct ckpt_range *x = &r->h->states[index];
    for (int64_t i = 0; i < n && codes; i++)
        codes[i] = code(part, x->param, x->begin + at + i);
}

static void read_scales(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                        float *scales)
{
    const struct rank *r = context;
    const struct ckpt_range *x = &r->h->states[index];
    int64_t first, last;
    EXPECT(owned(r, x->param, &first, &last) && x->begin >= first && x->end <= last);
    for (int64_t i = 0; i < n && scales; i++)
        scales[i] = scale(part, x->param, first, (x->begin - first) / CKPT_BLOCK + at + i);
}

static void expect_values(const struct graph *g, struct ckpt *c, bool codes)
{
    struct arena *a = arena_new("values");
    struct err e = { 0 };
    for (int i = 0; i < g->params.n; i++) {
        const struct param *p = &g->params.item[i];
        int64_t wrong = 0;
        float *x[4];
        for (int k = 0; k < 4; k++)
            x[k] = ARENA_NEW(a, float, p->n_elements);
        EXPECTF(ckpt_read_weight(c, p, 0, p->n_elements, x[CKPT_WEIGHT], &e) &&
                    ckpt_read_state(c, p, 0, p->n_elements, x[CKPT_MASTER], codes ? NULL : x[CKPT_EXP_AVG],
                                    codes ? NULL : x[CKPT_EXP_AVG_SQ], &e),
                "%s", e.text);
        for (int64_t k = 0; k < 4 * p->n_elements; k++) {
            const enum ckpt_part part = (enum ckpt_part)(k % 4);
            if (!codes || part == CKPT_WEIGHT || part == CKPT_MASTER)
                wrong += x[part][k / 4] != stored_value(part, i, k / 4);
        }
        EXPECTF(wrong == 0, "%s: %lld elements differ", p->name, (long long)wrong);
    }
    arena_free(a);
}

static void expect_own_codes(const struct rank *r, const struct ckpt_order *order, const struct ckpt *c,
                             int i, enum ckpt_part part)
{
    static unsigned char codes[1 << 16];
    static float scales[(1 << 16) / CKPT_BLOCK];
    struct err e = { 0 };
    int64_t first, last, wrong = 0;
    if (!owned(r, i, &first, &last))
        return;
    CHECK(last - first <= 1 << 16, "%s is too large", r->g->params.item[i].name);
    EXPECTF(ckpt_read_codes(c, &r->g->params.item[i], &order[i], first, last, part, codes, scales, &e), "%s",
            e.text);
    for (int64_t k = first; k < last; k++)
        wrong += codes[k - first] != code(part, i, k) ||
                 scales[(k - first) / CKPT_BLOCK] != scale(part, i, first, (k - first) / CKPT_BLOCK);
    EXPECTF(wrong == 0, "rank %d: %s [%lld, %lld): %lld codes differ", r->l.rank, r->g->params.item[i].name,
            (long long)first, (long long)last, (long long)wrong);
}

static void save_all(const struct ckpt_job *all, struct rank *rank, struct err *e)
{
    EXPECT(ckpt_begin(all, e));
    for (int r = 0; r < all->n_ranks; r++) {
        struct ckpt_job job = *all;
        job.context = &rank[r];
        ckpt_visit(&job, r);
        EXPECTF(ckpt_write(&job, r, e), "%s", e->text);
    }
    EXPECT(ckpt_has_shared(all));
    for (int r = 0; r < all->n_ranks; r++)
        EXPECTF(ckpt_seal(all, r, e), "%s", e->text);
    EXPECTF(ckpt_publish(all, 0, e), "%s", e->text);
    EXPECTF(verifies(all->directory), "%s", problems);
}

static void check_plan(const struct plan *p, bool codes, const char *name)
{
    struct fixture f; /* only its model directory */
    struct err e = { 0 };
    struct model_values v;
    fixture_new(&f, BF16);
    struct arena *a = f.arena;
    const struct model_options o = { .batch = p->micro_batch * p->n_ranks, .sequence = p->sequence };
    const struct model_config m = small_model(2048, 32); /* a vocabulary large enough to be cut by ZeRO 3 */
    const struct graph *g = deepseek_v2_graph(a, &m, &o, &v);
    struct rank *rank = ARENA_NEW(a, struct rank, p->n_ranks);
    enum dtype *stored = ARENA_NEW(a, enum dtype, g->params.n);
    struct ckpt_job job =
        job_of(&f, in_test_dir(a, name), "{}", p->n_ranks, weights_holdings(a, g, p), 20000);
    for (int i = 0; i < g->params.n; i++)
        stored[i] = BF16;
    for (int r = 0; r < p->n_ranks; r++) {
        rank[r] = (struct rank){ .g = g, .h = &job.holding[r] };
        layout_make(a, g, p, r, &rank[r].l);
    }
    job.params = &g->params;
    job.order = weights_order(a, g, p);
    job.stored = stored;
    job.read = read_part;
    job.read_codes = codes ? read_codes : NULL;
    job.read_scales = codes ? read_scales : NULL;
    job.n_threads = 2;
    save_all(&job, rank, &e);
    struct ckpt *c = ckpt_open(a, job.directory, &e);
    EXPECTF(c && ckpt_match(c, &g->params, &e), "%s", e.text);
    expect_values(g, c, codes);
    for (int k = 0; k < 2 * g->params.n * p->n_ranks && codes; k++)
        expect_own_codes(&rank[k / 2 / g->params.n], job.order, c, k / 2 % g->params.n,
                         k % 2 ? CKPT_EXP_AVG_SQ : CKPT_EXP_AVG);
    ckpt_close(c);
    arena_free(a);
}

TEST(what_ranks_hold_comes_back)
{
    static const struct {
        int ranks, unit, ep, tensor, width, zero_ranks, zero;
    } plans[] = { { 2, 2, 1, 2, 1, 1, 0 }, { 4, 4, 4, 2, 1, 4, 1 }, { 8, 4, 2, 2, 1, 8, 3 },
                  { 8, 4, 1, 2, 1, 4, 3 }, { 4, 4, 2, 1, 1, 4, 3 }, { 6, 3, 1, 3, 1, 6, 2 },
                  { 2, 2, 1, 2, 2, 1, 0 }, { 8, 4, 2, 2, 2, 8, 3 }, { 8, 8, 2, 4, 4, 1, 0 },
                  { 6, 6, 2, 3, 3, 6, 1 } };
    for (int i = 0; i < 20; i++) {
        const struct plan p = { .n_ranks = plans[i / 2].ranks,
                                .unit_ranks = plans[i / 2].unit,
                                .expert_parallel = plans[i / 2].ep,
                                .tensor_parallel = plans[i / 2].tensor,
                                .vocabulary_parallel = 1,
                                .width_parallel = plans[i / 2].width,
                                .zero_ranks = plans[i / 2].zero_ranks,
                                .zero = plans[i / 2].zero,
                                .micro_batch = 1,
                                .accumulation = 1,
                                .global_batch = plans[i / 2].ranks,
                                .sequence = 16,
                                .head_chunk = 1000,
                                .tile = 1,
                                .row_capacity = 64,
                                .stages = 1,
                                .chunks = 1 };
        char name[40];
        snprintf(name, sizeof name, "plan-%d/step-1", i);
        check_plan(&p, i % 2, name);
    }
}
