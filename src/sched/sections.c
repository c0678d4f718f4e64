/* sections.c - the lists of a stage from its parts of the model: what comes from the part before, or on the way back from the
 * part behind, then the nodes, then what the next one gets. Without a pipeline there is one part and nothing to pass. */
#include "plan/cut.h"
#include "sched/lower.h"
#include "sched/pipeline.h"
#include <limits.h>

static bool is_pipeline(const struct lower *l)
{
    return l->p->plan.stages > 1;
}

static int part_of(const struct lower *l, int chunk)
{
    return chunk * l->p->plan.stages + l->p->layout.stage;
}

static void nodes_of(const struct lower *l, int chunk, int *first, int *last)
{
    plan_part_nodes(&l->p->plan, l->p->graph->n_nodes, part_of(l, chunk), first, last);
}

/* The rank of the same worker that has a part. */
static int rank_of_part(const struct lower *l, int part)
{
    const struct plan *p = &l->p->plan;
    return part % p->stages * plan_workers(p) + plan_worker(p, l->p->layout.rank);
}

/* Where what an instruction passes on lies on a device while it is under way: neither what made it nor what will read it
 * waits for the other rank. */
static void give_box(struct lower *l, struct instr *i)
{
    const bool in = i->kind == RUN_PASS_IN;
    struct pass_box *b = &l->box[in][i->tag];
    if (!b->made) {
        const int64_t bytes = pass_copy_bytes(i) * (in ? 1 : PASS_COPIES);
        *b = (struct pass_box){ true, in ? l->p->n_inboxes++ : l->p->n_outboxes++, NOWHERE };
        if (l->p->plan.numbers.backend != CPU)
            b->room = (struct ref){ lower_persistent(l, i->name, MEM_EXCHANGE, bytes), 0 };
    }
    i->ref[1] = b->room;
    i->box = b->number;
}

/* What crosses the cut in front of node `at` goes to, or comes from, the rank of `part`; or the gradients of it. */
static void pass(struct lower *l, enum list_kind which, enum instr_kind kind, int at, int part, bool gradient)
{
    const struct graph *g = l->p->graph;
    value *crossing = ARENA_NEW(l->arena, value, g->n_values);
    const int n = cut_crossing(g, at, crossing);
    for (int k = 0; k < n; k++) {
        const value v = crossing[k];
        struct ref *here = gradient ? &l->p->grad[v] : &l->p->value[v];
        const int64_t bytes = lower_passed_bytes(l, v);
        if (gradient && !g->has_grad[v])
            continue;
        if (kind == RUN_PASS_IN)
            *here = (struct ref){ lower_buffer(l, g->values[v].name, MEM_ACTIVATIONS, bytes), 0 };
        struct instr *i = lower_emit(l, which, kind, g->values[v].name);
        i->ref[0] = *here;
        i->n = bytes;
        i->peer = rank_of_part(l, part);
        i->tag = 2 * v + gradient;
        give_box(l, i);
    }
}

static struct section forward_section(struct lower *l, enum list_kind which, int chunk)
{
    const int part = part_of(l, chunk), n_nodes = l->p->graph->n_nodes;
    struct section s = { .from = l->p->list[which].n };
    int first, last;
    nodes_of(l, chunk, &first, &last);
    if (first > 0)
        pass(l, which, RUN_PASS_IN, first, part - 1, false);
    lower_forward(l, which, first, last);
    if (last < n_nodes)
        pass(l, which, RUN_PASS_OUT, last, part + 1, false);
    lower_forget_weights(l);
    s.to = l->p->list[which].n;
    return s;
}

static struct section backward_section(struct lower *l, int chunk)
{
    const int part = part_of(l, chunk), n_nodes = l->p->graph->n_nodes;
    struct section s = { .from = l->p->list[LIST_MICRO].n };
    int first, last;
    nodes_of(l, chunk, &first, &last);
    if (last < n_nodes)
        pass(l, LIST_MICRO, RUN_PASS_IN, last, part + 1, true);
    lower_backward(l, first, last);
    lower_reduce_done(l, INT_MAX, true); /* buckets end with the part */
    if (first > 0)
        pass(l, LIST_MICRO, RUN_PASS_OUT, first, part - 1, true);
    lower_forget_weights(l);
    s.to = l->p->list[LIST_MICRO].n;
    return s;
}

static bool *buffers_of(struct lower *l, struct section s)
{
    bool *used = ARENA_NEW(l->arena, bool, l->p->n_buffers);
    for (int k = s.from; k < s.to; k++) {
        int named[INSTR_BUFFERS];
        for (int n = sched_buffers(&l->p->list[LIST_MICRO].item[k], named); n > 0; n--)
            used[named[n - 1]] = true;
    }
    return used;
}

/* What both sections of a part use is there once for every micro-batch under way. With one under way and one part, the
 * order of the list is that of time. Kept values have one buffer for all parts; other persistent buffers belong to no
 * micro-batch, but for the inputs, which are put in again. */
static void make_slots(struct lower *l, int chunk)
{
    struct program *p = l->p;
    const int64_t n = p->in_flight[chunk];
    const bool *before = buffers_of(l, p->forward[chunk]), *behind = buffers_of(l, p->backward[chunk]);
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        const bool persistent = b->last == INT_MAX;
        if (i == p->kept.buffer ? n > b->slots
                                : before[i] && behind[i] && !persistent && (n > 1 || p->plan.chunks > 1))
            b->slots = n;
    }
}

static void count_in_flight(struct lower *l)
{
    struct program *p = l->p;
    const int64_t n = 2 * p->plan.chunks * p->plan.accumulation;
    struct pipeline_step *order = ARENA_NEW(l->arena, struct pipeline_step, n);
    pipeline_order(p->plan.stages, p->plan.chunks, p->plan.accumulation, p->layout.stage, order);
    for (int c = 0; c < p->plan.chunks; c++)
        p->in_flight[c] = pipeline_in_flight(order, n, c);
}

void lower_micro(struct lower *l)
{
    struct program *p = l->p;
    for (int c = 0; c < p->plan.chunks; c++)
        p->forward[c] = forward_section(l, LIST_MICRO, c);
    for (int c = p->plan.chunks - 1; c >= 0; c--)
        p->backward[c] = backward_section(l, c);
    if (!is_pipeline(l))
        return;
    count_in_flight(l);
    for (int c = 0; c < p->plan.chunks; c++)
        make_slots(l, c);
}

void lower_eval(struct lower *l)
{
    for (int c = 0; c < l->p->plan.chunks; c++)
        l->p->eval[c] = forward_section(l, LIST_EVAL, c);
}

bool sched_makes(const struct program *p, enum list_kind which, struct section s, value v)
{
    for (int k = s.from; k < s.to; k++) {
        const struct instr *i = &p->list[which].item[k];
        if (i->kind == RUN_OP && i->node == p->graph->values[v].node && !i->again &&
            (i->both || !i->backward))
            return true;
    }
    return false;
}
