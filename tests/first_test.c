/* The first micro-batch of a step writes gradients, the others add to them: nothing is cleared, no sum is written over, and
 * none is added to before it has begun. The lists of random plans are walked as exec does, with one round and with three,
 * over a map of the slab that knows where a sum of this step lies. */
#include "sched/lanes.h"
#include "tests/random_plan.h"
#include "tests/test.h"
#include <limits.h>

enum { PLANS = 300, ROUNDS = 3 };
static const struct adamw adam = { 0.9, 0.95, 1e-8, 0 };

enum { NOTHING, SUM, ZERO };

struct walk {
    const struct program *p;
    const struct instr *in;
    char *sum;                             /* by float of the slab: what lies there */
    int64_t n_written, n_added, n_cleared; /* gradients; buckets of them */
};

static bool stays(const struct program *p, struct ref r)
{
    return p->buffers[r.buffer].class == MEM_GRADIENTS && p->buffers[r.buffer].last == INT_MAX;
}

static char *sum_at(const struct walk *w, struct ref r, int64_t element)
{
    return w->sum + (w->p->buffers[r.buffer].at + r.at_bytes) / 4 + element;
}

static int64_t count(const struct walk *w, struct ref r, int64_t begin, int64_t end, bool zeros)
{
    int64_t n = 0;
    for (int64_t i = begin; i < end; i++)
        n += *sum_at(w, r, i) == SUM || (zeros && *sum_at(w, r, i) == ZERO);
    return n;
}

static void give(struct walk *w, struct ref to, int64_t begin, int64_t end, bool add)
{
    if (begin >= end)
        return;
    const int64_t n = count(w, to, begin, end, add);
    if (add)
        EXPECTF(n == end - begin, "%s adds to %lld sums of %lld", w->in->name, (long long)n,
                (long long)(end - begin));
    else
        EXPECTF(n == 0, "%s writes over %lld sums of %lld", w->in->name, (long long)n,
                (long long)(end - begin));
    memset(sum_at(w, to, begin), SUM, (size_t)(end - begin));
    w->n_written += !add;
    w->n_added += add;
}

/* Gradients of a parameter that the rank holds; by sender under --reproducible. */
static int64_t gradients_of(const struct program *p, int param)
{
    const struct place *at = &p->layout.place[param];
    const bool apart = p->plan.reproducible && p->plan.expert_parallel > 1 && at->flat == EXPERT;
    return (at->end - at->begin) * (apart ? p->plan.expert_parallel : 1);
}

static void run_call(struct walk *w, bool first)
{
    const struct node *n = &w->p->graph->nodes[w->in->node];
    const uint32_t add = instr_add(w->in, first);
    for (int j = 0; j < n->anno->n_inputs; j++) {
        const int param = w->p->graph->values[n->arg[j]].param;
        if (param >= 0 && w->in->grad[j].buffer >= 0)
            give(w, w->in->grad[j], 0, gradients_of(w->p, param), add >> j & 1);
    }
}

/* The part of a flat space that a reduction leaves to this rank. */
static void owned(const struct program *p, const struct instr *in, int64_t *begin, int64_t *end)
{
    const struct flat *f = &p->layout.flat[in->flat];
    const int fine = layout_fine_of(f, f->index);
    *begin = f->cut[fine] > in->first ? f->cut[fine] : in->first;
    *end = f->cut[fine + 1] < in->first + in->n_elements ? f->cut[fine + 1] : in->first + in->n_elements;
}

static void run_reduce(struct walk *w, bool first)
{
    int64_t begin, end;
    for (int i = 0; i < w->p->graph->params.n; i++) {
        const struct place *at = &w->p->layout.place[i];
        const int64_t n = at->end - at->begin;
        if (at->flat == w->in->flat && n > 0 && at->at >= w->in->first &&
            at->at < w->in->first + w->in->n_elements)
            EXPECTF(count(w, w->in->ref[0], at->at, at->at + n, true) == n,
                    "%s is reduced before it is there", w->p->graph->params.item[i].name);
    }
    owned(w->p, w->in, &begin, &end);
    if (w->in->ref[2].buffer == w->in->ref[0].buffer)
        return;
    give(w, w->in->ref[2], begin, end, instr_add(w->in, first));
    memset(sum_at(w, w->in->ref[0], w->in->first), NOTHING,
           (size_t)w->in->n_elements); /* the bucket is gone */
}

static void run(struct walk *w, bool first)
{
    if (w->in->kind == RUN_ZERO && w->p->buffers[w->in->ref[0].buffer].class == MEM_GRADIENTS) {
        EXPECTF(!stays(w->p, w->in->ref[0]), "%s is cleared", w->in->name);
        w->n_cleared++;
        memset(sum_at(w, w->in->ref[0], 0), ZERO, (size_t)w->in->n / 4);
    } else if (w->in->kind == RUN_OP && w->in->backward) {
        run_call(w, first);
    } else if (w->in->kind == RUN_REDUCE) {
        run_reduce(w, first);
    }
}

static void walk_section(struct walk *w, struct section s, int64_t micro, int rounds)
{
    int head = 0, round = 0;
    for (int i = s.from; i < s.to; i++) {
        w->in = &w->p->list[LIST_MICRO].item[i];
        if ((w->in->once && round > 0) || (w->in->last && micro < w->p->plan.accumulation - 1))
            continue;
        run(w, micro == 0 && round == 0);
        if (w->in->kind == RUN_ROUND)
            head = i;
        if (w->in->kind == RUN_ROUND_END && ++round < rounds)
            i = head;
        else if (w->in->kind == RUN_ROUND_END)
            round = 0;
    }
}

/* Every gradient that this rank has to sum up is there. */
static void check_all_there(const struct walk *w)
{
    const struct program *p = w->p;
    for (int i = 0; i < p->graph->params.n; i++) {
        const struct place *at = &p->layout.place[i];
        const struct flat *f = &p->layout.flat[at->flat];
        int64_t begin = 0, end = f->n_elements;
        if (gradients_of(p, i) != at->end - at->begin)
            continue; /* apart: what adds to it has looked */
        if (layout_shards_gradients(&p->plan, f))
            owned(p, &(struct instr){ .flat = at->flat, .n_elements = end }, &begin, &end);
        begin = begin > at->at ? begin : at->at;
        end = end < at->at + at->end - at->begin ? end : at->at + at->end - at->begin;
        EXPECTF(begin >= end || count(w, p->gradients[at->flat], begin, end, false) == end - begin,
                "%s has no gradient", p->graph->params.item[i].name);
    }
}

static void check_step(struct arena *a, const struct program *p, int rounds)
{
    struct section section[2 * PLAN_CHUNKS];
    const int n = lanes_sections(p, LIST_MICRO, section);
    struct walk w = { .p = p, .sum = ARENA_NEW(a, char, p->memory.peak_bytes / 4) };
    for (int64_t micro = 0; micro < p->plan.accumulation; micro++)
        for (int i = 0; i < n; i++)
            walk_section(&w, section[i], micro, rounds);
    check_all_there(&w);
    EXPECT(w.n_written > 0 && w.n_added > 0);
    EXPECT(w.n_cleared == 0 || p->plan.chunks > 1 || p->plan.expert_parallel > 1);
}

TEST(the_first_micro_batch_writes)
{
    int n = 0, n_sharded = 0, n_apart = 0, n_parts = 0, n_tied = 0, n_ends = 0;
    for (uint64_t seed = 0; n < PLANS; seed++) {
        struct arena *a = arena_new("first");
        struct draw d = { seed, 0 };
        struct plan p = random_plan(&d);
        p.accumulation *= 2;
        p.global_batch *= 2;
        p.overlap = below(&d, 3);
        const struct graph *g = random_graph(a, &d, &p); /* tied: two nodes give the embedding its gradient */
        struct program x;
        if (is_legal(g, &p)) {
            sched_lower(a, g, &p, below(&d, p.n_ranks), true, &adam, &x);
            check_step(a, &x, 1);
            check_step(a, &x, ROUNDS);
            for (int i = 0; i < x.list[LIST_UPDATE].n; i++)
                EXPECT(x.list[LIST_UPDATE].item[i].kind != RUN_ZERO ||
                       !stays(&x, x.list[LIST_UPDATE].item[i].ref[0]));
            n_sharded += p.zero >= 2 && !p.reproducible;
            n_apart += p.reproducible && p.expert_parallel > 1;
            n_parts += p.chunks > 1;
            n_tied += is_tied(g);
            n_ends += is_tied(g) && (p.stages > 1 || p.reproducible);
            n++;
        }
        arena_free(a);
    }
    EXPECTF(n_sharded > 20 && n_apart > 20 && n_parts > 20 && n_tied > 20 && n_ends > 20,
            "%d sharded, %d apart, %d in parts, %d tied, %d of them with two sums", n_sharded, n_apart,
            n_parts, n_tied, n_ends);
}
