/* Two lanes: whatever the speed of either, no instruction touches what one under way in the other lane writes, nor writes
 * what that one reads, in the bytes of the slab. The lists of random plans are walked as exec does, loops for one round and
 * for three, micro-batches as the last one and as another; what is under way is what no wait stands behind. Which bytes an instruction touches is written here anew. */
#include "sched/lanes.h"
#include "tests/random_plan.h"
#include "tests/test.h"
#include <stdlib.h>

enum { PLANS = 400, MOST = 64, ROUNDS = 3 };
static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };

struct bytes { /* of the slab */
    int64_t begin, end;
    bool write;
};
struct touched {
    int n;
    struct bytes item[MOST];
};

static void add(const struct program *p, struct touched *t, struct ref r, int64_t first, int64_t bytes,
                bool write)
{
    if (r.buffer < 0)
        return;
    const struct buffer *b = &p->buffers[r.buffer];
    const int64_t slots = b->slots > 1 ? (b->slots - 1) * b->slot_bytes : 0;
    if (bytes < 0)
        t->item[t->n++] = (struct bytes){ b->at, b->at + b->bytes + slots, write };
    else
        t->item[t->n++] =
            (struct bytes){ b->at + r.at_bytes + first, b->at + r.at_bytes + first + bytes + slots, write };
}

/* Of the gradient of an argument: what the rank holds of a parameter; -1 = the whole buffer. */
static int64_t gradient_bytes(const struct program *p, const struct instr *in, int arg)
{
    const int param = p->graph->values[p->graph->nodes[in->node].arg[arg]].param;
    const struct place *at = param < 0 ? NULL : &p->layout.place[param];
    return !at || (p->plan.reproducible && p->plan.expert_parallel > 1 && at->flat == EXPERT)
               ? -1
               : (at->end - at->begin) * 4;
}

static void touch_call(const struct program *p, const struct instr *in, struct touched *t)
{
    const struct anno *a = in->node < 0 ? NULL : p->graph->nodes[in->node].anno;
    for (int j = 0; j < OP_ARGS; j++) {
        const bool makes = !a || (j >= a->n_inputs && (!in->backward || in->both));
        add(p, t, in->arg[j], 0, -1, makes);
        add(p, t, in->grad[j], 0, a && j < a->n_args ? gradient_bytes(p, in, j) : -1, !a || j < a->n_inputs);
    }
    add(p, t, in->work, 0, -1, true);
}

static void touch(const struct program *p, const struct instr *in, struct touched *t)
{
    static const char *const writes[] = {
        [RUN_ROUTE] = "14",        [RUN_ROUND] = "1",           [RUN_SEND] = "14",     [RUN_RETURN] = "04",
        [RUN_TENSOR_GATHER] = "1", [RUN_TENSOR_SCATTER] = "12", [RUN_PARTS] = "01",    [RUN_MIRROR] = "0",
        [RUN_SUM_ENDS] = "01",     [RUN_PASS_IN] = "01",        [RUN_PASS_OUT] = "1",  [RUN_NORM_SUM] = "01",
        [RUN_GATHER] = "1",        [RUN_ROUND_END] = "",        [RUN_FROM_HOST] = "0", [RUN_PACK] = "14",
        [RUN_UNPACK] = "1",        [RUN_TO_HOST] = "",          [RUN_AWAIT_HOST] = ""
    };
    t->n = 0;
    if (in->kind == RUN_OP) {
        touch_call(p, in, t);
    } else if (in->kind == RUN_ZERO) {
        add(p, t, in->ref[0], 0, in->n, true);
    } else if (in->kind == RUN_REDUCE) {
        add(p, t, in->ref[0], in->first * 4, in->n_elements * 4, true);
        add(p, t, in->ref[1], 0, -1, true);
        if (in->ref[2].buffer != in->ref[0].buffer)
            add(p, t, in->ref[2], 0, -1, true);
    } else {
        for (int j = 0; j < INSTR_REFS; j++)
            add(p, t, in->ref[j], 0, -1, strchr(writes[in->kind], '0' + j) != NULL);
    }
}

static bool meet(const struct touched *a, const struct touched *b)
{
    for (int i = 0; i < a->n; i++)
        for (int j = 0; j < b->n; j++)
            if ((a->item[i].write || b->item[j].write) && a->item[i].begin < b->item[j].end &&
                b->item[j].begin < a->item[i].end)
                return true;
    return false;
}

struct walk {
    const struct program *p;
    const struct list *list;
    struct touched *touched; /* by instruction */
    int *done, n_done;       /* instructions in the order in which they are launched */
    int *marked;             /* by mark: launches up to the one behind which it was set last */
    int known[2];            /* by lane: launches of the other lane below this are over */
    int64_t n_beside;        /* pairs that may run at once */
};

static void launch(struct walk *w, int i)
{
    const struct instr *in = &w->list->item[i];
    const int lane = in->beside;
    if (in->after) {
        const int at = w->marked[w->list->item[in->after - 1].mark - 1];
        EXPECTF(in->after - 1 < i, "%s waits for what comes later", in->name);
        w->known[lane] = at > w->known[lane] ? at : w->known[lane];
    }
    for (int k = w->known[lane]; k < w->n_done; k++) {
        const struct instr *other = &w->list->item[w->done[k]];
        if (other->beside == in->beside)
            continue;
        w->n_beside++;
        EXPECTF(!meet(&w->touched[i], &w->touched[w->done[k]]), "%s %s (%d) beside %s %s (%d)",
                sched_kind_name[in->kind], in->name, i, sched_kind_name[other->kind], other->name,
                w->done[k]);
    }
    w->done[w->n_done++] = i;
    if (in->mark)
        w->marked[in->mark - 1] = w->n_done;
}

static void walk_section(struct walk *w, struct section s, int rounds, bool first, bool last)
{
    int head = 0, round = 0;
    w->n_done = w->known[0] = w->known[1] = 0;
    for (int i = s.from; i < s.to; i++) {
        const struct instr *in = &w->list->item[i];
        if ((in->once && round > 0) || (in->last && !last) || (in->start && !first))
            continue;
        launch(w, i);
        if (in->kind == RUN_ROUND)
            head = i;
        if (in->kind == RUN_ROUND_END && ++round < rounds) {
            i = head - 1; /* the host sets the ends of the next round there */
        } else if (in->kind == RUN_ROUND_END) {
            round = 0;
        }
    }
}

static int64_t check_program(struct arena *a, const struct program *p, int rounds, bool first, bool last)
{
    int64_t n_beside = 0;
    for (int k = 0; k < LISTS; k++) {
        struct section section[2 * PLAN_CHUNKS];
        const int n = lanes_sections(p, (enum list_kind)k, section), length = p->list[k].n;
        struct walk w = { .p = p,
                          .list = &p->list[k],
                          .touched = ARENA_NEW(a, struct touched, length + 1),
                          .done = ARENA_NEW(a, int, length *ROUNDS + 1),
                          .marked = ARENA_NEW(a, int, p->n_marks + 1) };
        for (int i = 0; i < length; i++)
            touch(p, &p->list[k].item[i], &w.touched[i]);
        for (int i = 0; i < n; i++)
            walk_section(&w, section[i], rounds, first, last);
        n_beside += w.n_beside;
    }
    return n_beside;
}

TEST(lanes_never_meet)
{
    int n = 0, n_beside = 0;
    for (uint64_t seed = 0; n < PLANS; seed++) {
        struct arena *a = arena_new("lanes");
        struct draw d = { seed, 0 };
        struct plan p = random_plan(&d);
        p.lodgers = p.stages == 1 && p.expert_parallel == 1 ? below(&d, 8) : 0;
        const struct graph *g = random_graph(a, &d, &p);
        struct program x;
        if (is_legal(g, &p)) {
            sched_lower(a, g, &p, below(&d, p.n_ranks), true, &adam, &x);
            n_beside += check_program(a, &x, 1, true, true) > 0;
            check_program(a, &x, 1, true, false);
            check_program(a, &x, 1, false, false);
            check_program(a, &x, ROUNDS, false, true);
            check_program(a, &x, ROUNDS, true, false);
            n++;
        }
        arena_free(a);
    }
    EXPECTF(n_beside > PLANS / 2, "%d of %d plans have something beside", n_beside, n);
}

/* May instruction `i` run while one of that kind does? */
static bool runs_beside(const struct program *p, const struct span *span, int i, enum instr_kind kind)
{
    for (int k = 0; k < p->list[LIST_MICRO].n; k++)
        if (p->list[LIST_MICRO].item[k].kind == kind && span[k].first <= i && i <= span[k].last)
            return true;
    return false;
}

/* Of each layer with experts the shared ones, both operators, in forward and in backward: half of them under the way out of
 * the rows, half under their way back. */
TEST(shared_experts_run_while_rows_travel)
{
    struct arena *a = arena_new("lanes");
    struct plan p = one_rank_plan(1, 16, 1000);
    struct program x;
    int n_once = 0, n_out = 0, n_back = 0;
    p.n_ranks = p.unit_ranks = p.expert_parallel = 4;
    p.row_capacity = 64;
    p.global_batch = 4;
    p.overlap = 1;
    sched_lower(a, small_model_graph(a, &p), &p, 1, true, &adam, &x);
    const struct span *span = lanes_spans(a, &x, LIST_MICRO);
    for (int i = 0; i < x.list[LIST_MICRO].n; i++) {
        const bool once = x.list[LIST_MICRO].item[i].once;
        n_once += once;
        n_out += once && runs_beside(&x, span, i, RUN_SEND);
        n_back += once && runs_beside(&x, span, i, RUN_RETURN);
    }
    EXPECT_INT(n_once, 2 * 4);
    EXPECT_INT(n_out, 2 * 2);
    EXPECT_INT(n_back, 2 * 2);
    arena_free(a);
}

/* Behind the last step that adds to them, gradients are summed once each, in the last micro-batch; of those that stay whole,
 * nothing is left to the update. */
TEST(gradients_are_summed_in_the_last_backward)
{
    struct arena *a = arena_new("lanes");
    struct plan p = one_rank_plan(2, 16, 1000);
    struct program x;
    int64_t n_elements[FLATS] = { 0 };
    p.n_ranks = p.unit_ranks = p.zero_ranks = 4;
    p.zero = 1;
    p.expert_parallel = 2;
    p.row_capacity = 64;
    p.global_batch = 8;
    p.overlap = 1;
    sched_lower(a, small_model_graph(a, &p), &p, 1, true, &adam, &x);
    for (int i = 0; i < x.list[LIST_MICRO].n; i++) {
        const struct instr *in = &x.list[LIST_MICRO].item[i];
        if (in->kind != RUN_REDUCE)
            continue;
        EXPECT(in->last && in->spread && in->beside && in->n_elements > 0);
        n_elements[in->flat] += in->n_elements;
    }
    EXPECT(n_elements[DENSE] > 0 && n_elements[DENSE] <= x.layout.flat[DENSE].n_elements);
    EXPECT(n_elements[EXPERT] > 0 && n_elements[EXPERT] <= x.layout.flat[EXPERT].n_elements);
    for (int k = 0; k < x.layout.n_buckets; k++)
        n_elements[x.layout.bucket[k].flat] -= x.layout.bucket[k].n_elements;
    EXPECT(n_elements[DENSE] == 0 && n_elements[EXPERT] == 0);
    for (int i = 0; i < x.list[LIST_UPDATE].n; i++)
        EXPECT(x.list[LIST_UPDATE].item[i].kind != RUN_REDUCE);
    arena_free(a);
}

/* With ZeRO 3 the next bucket of weights is on its way while an operator runs; but for the first ones, and where one operator
 * needs several. */
TEST(weights_travel_before_they_are_needed)
{
    struct arena *a = arena_new("lanes");
    struct plan p = one_rank_plan(2, 16, 1000);
    struct program x;
    int n = 0, n_beside = 0;
    p.n_ranks = p.unit_ranks = p.zero_ranks = 4;
    p.zero = 3;
    p.global_batch = 8;
    p.overlap = 1;
    sched_lower(a, small_model_graph(a, &p), &p, 1, true, &adam, &x);
    const struct list *list = &x.list[LIST_MICRO];
    const struct span *span = lanes_spans(a, &x, LIST_MICRO);
    for (int i = 0; i < list->n; i++) {
        bool any = false;
        for (int k = span[i].first; k <= span[i].last; k++)
            any |= list->item[k].kind == RUN_OP;
        n += list->item[i].kind == RUN_GATHER;
        n_beside += list->item[i].kind == RUN_GATHER && any;
    }
    EXPECTF(n > 20 && n_beside > n * 3 / 4, "%d of %d gathers are beside something", n_beside, n);
    arena_free(a);
}
