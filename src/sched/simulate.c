/* simulate.c - see simulate.h. Ranks run one after the other, each until it has to wait; since a group ends at the time
 * of its last member, the order in which they are taken changes nothing. */
#include "sched/simulate.h"
#include "sched/clock.h"
#include "sched/pipeline.h"
#include <limits.h>

struct times { /* of the instructions of a program, in microseconds */
    const struct program *program;
    double *us[LISTS];
};
struct walker { /* a rank */
    const struct program *program;
    const struct times *times;
    const struct pipeline_step *order; /* of its stage; NULL without a pipeline */
    enum list_kind list;               /* LISTS: it has ended */
    int64_t turn;                      /* of LIST_MICRO: place in the order */
    int index;
    struct section tree[PLAN_TREE_LEVELS]; /* of LIST_TREE behind the turn that has ended */
    int tree_at, n_tree;
    bool waits;
    struct clock clock;
    double came_us; /* to its instruction */
    struct sim_rank *sums;
};
struct gathering { /* members that have come to an instruction of a group */
    int n_arrived, first_rank;
    double latest_us, longest_us; /* last arrival; what it takes by the members' lists */
};
struct message { /* between stages, on its way */
    int from, tag;
    double sent_us;
    struct message *next;
};
struct sim {
    struct arena *arena;
    struct simulation *s;
    const struct plan *plan;
    int64_t n_turns;
    struct walker *rank;
    struct gathering *gathering;     /* [group kind, flat, first rank of the group] */
    struct message **inbox, *unused; /* inbox: by rank, in the order of sending */
    int *ready, n_ready;
};

static const struct instr *instr_of(const struct walker *w)
{
    return &w->program->list[w->list].item[w->index];
}

static int64_t micro_of(const struct walker *w)
{
    return w->list == LIST_MICRO && w->order ? w->order[w->turn].micro : w->turn;
}

static void count(const struct walker *w, const struct instr *in, bool waiting, double us)
{
    if (waiting)
        w->sums->wait_us += us;
    else
        w->sums->class_us[sched_cost_class(in, w->list)] += us;
}

/* Compute waits for what is beside. */
static void count_wait(void *context, int index, bool for_group, double us)
{
    const struct walker *w = context;
    count(w, &w->program->list[w->list].item[index], for_group, us);
}

static void look(const struct sim *x, int rank, double begin_us, double end_us, bool waiting)
{
    const struct walker *w = &x->rank[rank];
    if (!clock_beside(&w->clock, w->index))
        count(w, instr_of(w), waiting, end_us - begin_us);
    else
        w->sums->side_us += waiting ? 0 : end_us - begin_us;
    if (x->s->observe && end_us > begin_us)
        x->s->observe(x->s->context,
                      &(struct sim_event){ rank, w->list, micro_of(w), w->index, begin_us, end_us, waiting });
}

/* Instructions of the list that a rank runs now. */
static struct section section_of(const struct walker *w)
{
    if (w->list == LIST_TREE)
        return w->tree_at < w->n_tree ? w->tree[w->tree_at] : (struct section){ 0, 0 };
    if (w->list != LIST_MICRO || !w->order)
        return (struct section){ 0, w->program->list[w->list].n };
    const struct pipeline_step *step = &w->order[w->turn];
    return step->backward ? w->program->backward[step->part] : w->program->forward[step->part];
}

/* A turn has ended, and with it perhaps a shard. */
static void begin_tree(struct walker *w)
{
    const struct pipeline_step *step = w->order ? &w->order[w->turn] : NULL;
    w->n_tree = 0;
    if (!step || step->backward)
        w->n_tree = sched_end_shard(w->program, step ? step->part : 0, micro_of(w), w->tree);
    w->list = LIST_TREE;
    w->tree_at = 0;
}

static void begin_section(struct walker *w)
{
    w->index = section_of(w).from;
    clock_section(&w->clock, &w->program->list[w->list], w->index);
}

/* To the next instruction that there is. */
static void skip_ends(const struct sim *x, struct walker *w)
{
    while (w->list != LISTS && w->index >= section_of(w).to) {
        clock_join(&w->clock, section_of(w).to);
        if (w->list == LIST_MICRO)
            begin_tree(w);
        else if (w->list == LIST_UPDATE)
            w->list = LISTS;
        else if (++w->tree_at >= w->n_tree)
            w->list = ++w->turn < x->n_turns ? LIST_MICRO : LIST_UPDATE;
        if (w->list != LISTS)
            begin_section(w);
    }
}

static struct gathering *gathering_of(const struct sim *x, const struct instr *in, struct members m)
{
    return &x->gathering[((int)sched_group(in->kind) * FLATS + in->flat) * x->plan->n_ranks + m.first];
}

static void finish(struct sim *x, struct members m, struct gathering *g)
{
    const double end_us = g->latest_us + g->longest_us;
    for (int i = 0; i < m.n; i++) {
        const int r = m.first + i * m.stride;
        struct walker *w = &x->rank[r];
        if (g->latest_us > w->came_us)
            look(x, r, w->came_us, g->latest_us, true);
        look(x, r, g->latest_us, end_us, false);
        clock_run(&w->clock, w->index, g->latest_us, g->longest_us);
        w->waits = false;
        w->index++;
        x->ready[x->n_ready++] = r;
    }
    *g = (struct gathering){ 0 };
}

static bool same_exchange(const struct instr *a, const struct instr *b)
{
    return a->kind == b->kind && a->flat == b->flat && a->first == b->first && a->n_elements == b->n_elements;
}

/* The rank has come to an instruction of a group. */
static bool arrive(struct sim *x, int rank, struct members m, double us, struct err *e)
{
    struct walker *w = &x->rank[rank];
    const struct instr *in = instr_of(w);
    struct gathering *g = gathering_of(x, in, m);
    if (g->n_arrived == 0) {
        *g = (struct gathering){ .first_rank = rank };
    } else if (!same_exchange(in, instr_of(&x->rank[g->first_rank]))) {
        const struct instr *other = instr_of(&x->rank[g->first_rank]);
        return err_code(e, EXIT_MISMATCH,
                        "deadlock: rank %d is in %s (%s), rank %d of the same group in %s (%s)",
                        g->first_rank, sched_kind_name[other->kind], other->name, rank,
                        sched_kind_name[in->kind], in->name);
    }
    w->waits = true;
    g->n_arrived++;
    g->latest_us = w->came_us > g->latest_us ? w->came_us : g->latest_us;
    g->longest_us = us > g->longest_us ? us : g->longest_us;
    if (g->n_arrived == m.n)
        finish(x, m, g);
    return true;
}

/* The rank at the other end; ranks that share a program have it at the same distance. */
static int peer_of(const struct walker *w, int rank)
{
    return instr_of(w)->peer - w->program->layout.rank + rank;
}

static void send(struct sim *x, int rank)
{
    const struct walker *w = &x->rank[rank];
    const int peer = peer_of(w, rank);
    struct message *m = x->unused, **last = &x->inbox[peer];
    if (m)
        x->unused = m->next;
    else
        m = ARENA_NEW(x->arena, struct message, 1);
    *m = (struct message){ rank, instr_of(w)->tag, w->came_us, NULL };
    while (*last)
        last = &(*last)->next;
    *last = m;
    if (x->rank[peer].waits && instr_of(&x->rank[peer])->kind == RUN_PASS_IN) {
        x->rank[peer].waits = false;
        x->ready[x->n_ready++] = peer; /* it looks whether this is the one */
    }
}

/* false: the message has not been sent yet, and the rank waits. It takes its time from when both are there. */
static bool receive(struct sim *x, int rank, double us)
{
    struct walker *w = &x->rank[rank];
    const int peer = peer_of(w, rank), tag = instr_of(w)->tag;
    struct message **at = &x->inbox[rank];
    while (*at && ((*at)->from != peer || (*at)->tag != tag))
        at = &(*at)->next;
    w->waits = !*at;
    if (w->waits)
        return false;
    struct message *m = *at;
    *at = m->next;
    m->next = x->unused;
    x->unused = m;
    const double begin_us = m->sent_us > w->came_us ? m->sent_us : w->came_us;
    if (begin_us > w->came_us)
        look(x, rank, w->came_us, begin_us, true);
    look(x, rank, begin_us, begin_us + us, false);
    clock_run(&w->clock, w->index, begin_us, us);
    return true;
}

static bool run_rank(struct sim *x, int rank, struct err *e)
{
    struct walker *w = &x->rank[rank];
    for (;; w->index++) {
        skip_ends(x, w);
        if (w->list == LISTS)
            return true;
        const struct instr *in = instr_of(w);
        if (in->last && micro_of(w) != x->plan->accumulation - 1)
            continue;
        const struct members m = sched_members(x->plan, rank, sched_group(in->kind), in->flat);
        const double us = w->times->us[w->list][w->index];
        w->came_us = clock_come(&w->clock, w->index);
        if (m.n > 1)
            return arrive(x, rank, m, us, e);
        if (in->kind == RUN_PASS_IN) {
            if (!receive(x, rank, us))
                return true;
            continue;
        }
        if (in->kind == RUN_PASS_OUT)
            send(x, rank);
        look(x, rank, w->came_us, w->came_us + us, false);
        clock_run(&w->clock, w->index, w->came_us, us);
    }
}

static const struct times *times_of(struct arena *a, const struct sim *x, struct times *all, int *n,
                                    const struct program *p)
{
    for (int i = 0; i < *n; i++)
        if (all[i].program == p)
            return &all[i];
    struct times *t = &all[(*n)++];
    t->program = p;
    for (int k = 0; k < LISTS; k++) {
        t->us[k] = ARENA_NEW(a, double, p->list[k].n);
        for (int i = 0; i < p->list[k].n; i++)
            t->us[k][i] = sched_instr_us(p, &p->list[k].item[i], x->s->cluster);
    }
    return t;
}

static struct members members_of(const struct sim *x, int rank)
{
    const struct instr *in = instr_of(&x->rank[rank]);
    return sched_members(x->plan, rank, sched_group(in->kind), in->flat);
}

/* NULL: the rank has ended. */
static const struct gathering *place_of(const struct sim *x, int rank)
{
    if (x->rank[rank].list == LISTS)
        return NULL;
    return gathering_of(x, instr_of(&x->rank[rank]), members_of(x, rank));
}

/* Nobody can go on: either all have ended, or some wait for ranks that never come. */
static bool judge_end(const struct sim *x, struct err *e)
{
    for (int r = 0; r < x->plan->n_ranks; r++) {
        if (x->rank[r].list == LISTS)
            continue;
        const struct instr *in = instr_of(&x->rank[r]);
        const struct members m = members_of(x, r);
        if (in->kind == RUN_PASS_IN)
            return err_code(e, EXIT_MISMATCH,
                            "deadlock: rank %d waits in %s (%s) for a message that rank %d never sends", r,
                            sched_kind_name[in->kind], in->name, peer_of(&x->rank[r], r));
        for (int i = 0; i < m.n; i++) {
            const int other = m.first + i * m.stride;
            const struct walker *o = &x->rank[other];
            if (place_of(x, other) != place_of(x, r))
                return err_code(
                    e, EXIT_MISMATCH, "deadlock: rank %d waits in %s (%s) for rank %d, which is %s%s", r,
                    sched_kind_name[in->kind], in->name, other, o->list == LISTS ? "at the end" : "in ",
                    o->list == LISTS ? "" : instr_of(o)->name);
        }
    }
    return true;
}

/* By stage: the order in which its ranks take forward and backward. */
static const struct pipeline_step **orders(struct sim *x)
{
    const struct plan *p = x->plan;
    const struct pipeline_step **all = ARENA_NEW(x->arena, const struct pipeline_step *, p->stages);
    x->n_turns = p->stages > 1 ? 2 * p->chunks * p->accumulation : p->accumulation;
    for (int stage = 0; stage < p->stages && p->stages > 1; stage++) {
        struct pipeline_step *order = ARENA_NEW(x->arena, struct pipeline_step, x->n_turns);
        pipeline_order(p->stages, p->chunks, p->accumulation, stage, order);
        all[stage] = order;
    }
    return all;
}

static void start(struct sim *x)
{
    const int n = x->plan->n_ranks;
    const struct pipeline_step **order = orders(x);
    struct times *times = ARENA_NEW(x->arena, struct times, n);
    int n_times = 0;
    x->rank = ARENA_NEW(x->arena, struct walker, n);
    x->ready = ARENA_NEW(x->arena, int, n);
    x->inbox = ARENA_NEW(x->arena, struct message *, n);
    x->gathering = ARENA_NEW(x->arena, struct gathering, GROUP_KINDS * FLATS * n);
    x->s->rank = ARENA_NEW(x->arena, struct sim_rank, n);
    for (int r = n - 1; r >= 0; r--) {
        struct walker *w = &x->rank[r];
        const struct program *p = x->s->program[r];
        *w = (struct walker){ .program = p,
                              .times = times_of(x->arena, x, times, &n_times, p),
                              .order = order[plan_stage(x->plan, r)],
                              .clock = { .waited = count_wait, .context = w },
                              .sums = &x->s->rank[r] };
        clock_new(x->arena, p, &w->clock);
        begin_section(w);
        x->ready[x->n_ready++] = r;
    }
}

bool sched_simulate(struct arena *a, struct simulation *s, struct err *e)
{
    struct sim x = { .arena = a, .s = s, .plan = &s->program[0]->plan };
    start(&x);
    while (x.n_ready > 0)
        if (!run_rank(&x, x.ready[--x.n_ready], e))
            return false;
    if (!judge_end(&x, e))
        return false;
    s->step_us = 0;
    for (int r = 0; r < x.plan->n_ranks; r++) {
        s->rank[r].end_us = x.rank[r].clock.compute_us;
        s->step_us = s->rank[r].end_us > s->step_us ? s->rank[r].end_us : s->step_us;
    }
    return true;
}

int64_t *sched_live_bytes(struct arena *a, const struct program *p)
{
    int n = 0;
    for (int k = 0; k < LISTS; k++)
        n += p->list[k].n;
    int64_t *live = ARENA_NEW(a, int64_t, n + 2), sum = 0;
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (b->first < 0 && b->last != INT_MAX)
            continue;
        live[b->last == INT_MAX || b->first < 1 ? 0 : b->first - 1] += b->bytes; /* positions begin at 1 */
        if (b->last < n)
            live[b->last] -= b->bytes;
    }
    for (int i = 0; i < n; i++)
        live[i] = sum += live[i];
    return live;
}
