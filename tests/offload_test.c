/* Moments leave for host memory and come back, and values lodge in their room (sched/offload.h): nothing is written over that
 * has not left, nothing is read that is not there. The lists of random plans are walked as exec does, for two steps, over a
 * map of the room. */
#include "sched/access.h"
#include "sched/offload.h"
#include "tests/random_plan.h"
#include "tests/test.h"

enum { PLANS = 200, STEPS = 2, MOMENTS = -1, GONE = -2 };
static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };

struct room {
    const struct program *p;
    int *who;   /* by float: MOMENTS, GONE: moments that will come back, or the lodger's buffer */
    int *copy;  /* by float: number of the copy that took it to the host since it was updated; -1: none did */
    int waited; /* for copies below this number */
    bool came;  /* what came back is waited for */
    int n_entered;
};

static void lodger(struct room *r, const struct access *x, const char *name)
{
    const struct buffer *b = &r->p->buffers[x->buffer];
    for (int64_t i = (b->lodges_at + x->begin) / 4; i < (b->lodges_at + x->end) / 4; i++) {
        if (x->write && (r->who[i] == MOMENTS || r->who[i] == GONE)) {
            EXPECTF(r->copy[i] >= 0 && r->copy[i] < r->waited,
                    "%s writes over moments that may not have left", name);
            r->who[i] = x->buffer;
            r->n_entered++;
        }
        EXPECTF(r->who[i] == x->buffer, "%s: of float %lld is not there", name, (long long)i);
    }
}

static void come_back(struct room *r, const struct instr *in)
{
    EXPECT(in->ref[0].buffer == r->p->offload.buffer);
    for (int64_t i = in->ref[0].at_bytes / 4; i < (in->ref[0].at_bytes + in->n) / 4; i++) {
        EXPECTF(r->who[i] >= 0 && r->copy[i] >= 0, "%s: comes back, and was not away", in->name);
        r->who[i] = MOMENTS;
    }
    r->came = false;
}

static void run_micro(struct room *r, const struct instr *in)
{
    struct access x[ACCESSES];
    EXPECT(in->last == (in->kind == RUN_FROM_HOST) || in->kind == RUN_REDUCE || in->kind == RUN_MIRROR);
    EXPECT(in->start == (in->kind == RUN_AWAIT_HOST)); /* once a step is enough */
    if (in->kind == RUN_AWAIT_HOST)
        r->waited = in->box + 1 > r->waited ? in->box + 1 : r->waited;
    if (in->kind == RUN_FROM_HOST)
        come_back(r, in);
    if (in->kind == RUN_AWAIT_HOST || in->kind == RUN_FROM_HOST)
        return;
    for (int n = access_list(r->p, in, x); n > 0; n--) {
        EXPECTF(x[n - 1].buffer != r->p->offload.buffer, "%s names moments", in->name);
        if (r->p->buffers[x[n - 1].buffer].lodges)
            lodger(r, &x[n - 1], in->name);
    }
}

static void leave(struct room *r, const struct instr *in)
{
    for (int64_t i = in->ref[0].at_bytes / 4; i < (in->ref[0].at_bytes + in->n) / 4; i++) {
        EXPECTF(r->who[i] == MOMENTS, "%s is away", in->name);
        r->copy[i] = in->box;
    }
}

static void run_update(struct room *r, const struct instr *in)
{
    if (in->kind == RUN_AWAIT_HOST)
        r->came |= in->backward;
    if (in->kind == RUN_TO_HOST)
        leave(r, in);
    if (in->kind != RUN_OP || strcmp(in->op->name, "adamw") != 0 || in->arg[1].buffer != r->p->offload.buffer)
        return;
    for (int64_t i = in->arg[1].at_bytes / 4;
         i < in->arg[1].at_bytes / 4 + in->dim[0] && 4 * i < r->p->offload.bytes; i++) {
        EXPECTF(r->came && r->who[i] == MOMENTS, "%s is updated before its moments are there", in->name);
        r->copy[i] = -1;
    }
}

static void walk(struct room *r)
{
    const struct plan *p = &r->p->plan;
    r->waited = 0;
    for (int64_t micro = 0; micro < p->accumulation; micro++)
        for (int i = 0; i < r->p->list[LIST_MICRO].n; i++) {
            const struct instr *in = &r->p->list[LIST_MICRO].item[i];
            if (!(in->last && micro < p->accumulation - 1) && !(in->start && micro > 0))
                run_micro(r, in);
        }
    for (int i = 0; i < r->p->list[LIST_UPDATE].n; i++)
        run_update(r, &r->p->list[LIST_UPDATE].item[i]);
}

static struct room room_new(struct arena *a, const struct program *p)
{
    const int64_t n = p->offload.bytes / 4;
    struct room r = { p, ARENA_NEW(a, int, n), ARENA_NEW(a, int, n), 0, true, 0 };
    for (int64_t i = 0; i < n; i++)
        r.who[i] = MOMENTS; /* and copy[i] is 0: all have left once */
    return r;
}

static struct plan offload_plan(struct draw *d)
{
    struct plan p = random_plan(d);
    p.stages = p.chunks = p.expert_parallel = 1;
    p.zero_ranks = below(d, 2) ? p.n_ranks : 1;
    p.zero = p.zero_ranks > 1 ? 1 + below(d, 3) : 0;
    p.unit_ranks = p.n_ranks;
    p.row_capacity = 0;
    p.micro_batch = 1 + below(d, 24);
    p.accumulation = 1 + below(d, 3);
    p.global_batch = p.micro_batch * p.accumulation * p.n_ranks;
    p.recompute = below(d, 3) * below(d, 20);
    p.overlap = below(d, 3);
    p.lodgers = below(d, 2) ? 1 + below(d, 4) : 100; /* as many as there is room for */
    return p;
}

TEST(values_lodge_where_moments_were)
{
    int n = 0, n_several = 0, n_zero = 0, n_copies = 0;
    for (uint64_t seed = 0; n < PLANS; seed++) {
        struct arena *a = arena_new("offload");
        struct draw d = { seed, 0 };
        struct plan p = offload_plan(&d);
        struct model_config m = small_model(96, 40);
        m.tied = below(&d, 3) == 0;
        m.experts = 2 + below(&d, 6); /* which ranks do not share evenly */
        m.layers = 3 + below(&d, 3);
        const struct graph *g = graph_for_plan(a, &p, &m);
        struct program x;
        if (is_legal(g, &p)) {
            sched_lower(a, g, &p, below(&d, p.n_ranks), true, &adam, &x);
            for (int rank = 0; rank < p.n_ranks; rank++) {
                struct program other;
                sched_lower(a, g, &p, rank, true, &adam, &other);
                EXPECT_INT(other.offload.n_lodgers, x.offload.n_lodgers);
            }
            struct room r = room_new(a, &x);
            for (int step = 0; step < STEPS; step++)
                walk(&r);
            EXPECT(x.offload.n_lodgers <= p.lodgers && x.offload.bytes <= x.buffers[x.offload.buffer].bytes);
            EXPECT((r.n_entered > 0) == (x.offload.n_lodgers > 0));
            for (int64_t i = 0; i < x.offload.bytes / 4; i++)
                EXPECT(r.copy[i] >= 0);
            n_several += x.offload.n_lodgers > 1;
            n_zero += x.offload.n_lodgers > 0 && p.zero > 0;
            n_copies += x.offload.n_copies > 1;
            n++;
        }
        arena_free(a);
    }
    EXPECTF(n_several > 20 && n_zero > 20 && n_copies > 20,
            "%d with several lodgers, %d with ZeRO, %d with several copies", n_several, n_zero, n_copies);
}

TEST(lodgers_take_no_memory)
{
    struct arena *a = arena_new("offload");
    struct plan p = one_rank_plan(8, 16, 64);
    const struct graph *g = small_model_graph(a, &p);
    int64_t before = INT64_MAX, first = 0;
    for (p.lodgers = 0; p.lodgers <= 2; p.lodgers++) {
        struct program x;
        sched_lower(a, g, &p, 0, true, &adam, &x);
        EXPECT_INT(x.offload.n_lodgers, p.lodgers);
        EXPECTF(x.memory.peak_bytes <= before, "%lld bytes, %lld before", (long long)x.memory.peak_bytes,
                (long long)before);
        first = p.lodgers ? first : x.memory.peak_bytes;
        before = x.memory.peak_bytes;
        int64_t sum = 0;
        for (int k = 0; k < MEM_CLASSES; k++)
            sum += x.memory.class_bytes[k];
        EXPECT_INT(sum, x.memory.peak_bytes);
    }
    EXPECTF(before < first, "%lld bytes, as without lodgers", (long long)before);
    arena_free(a);
}
