/* pass.c - see pass.h. */
#include "run/pass.h"

enum { WAYS = LANES - LANE_MESSAGES };
/* Places: behind the last copy; by way, behind the last message that came; those of the boxes. */
enum { COPIED, ARRIVED, OF_BOXES = ARRIVED + WAYS };
struct pass {
    struct comm_group *way[WAYS]; /* NULL: by MPI */
    struct comm_outbox **outbox;  /* by number */
    int first_place, *copy;       /* copy: by outbox, which one is next */
};

static bool by_lanes(const struct exec *x)
{
    return x->device->lane && comm_has_pairs() && x->program->plan.stages > 1;
}

int pass_places(const struct exec *x)
{
    const struct program *p = x->program;
    return by_lanes(x) ? OF_BOXES + PASS_COPIES * p->n_outboxes + p->n_inboxes : 0;
}

/* Between the last stage and the first one there are messages where stages have several parts. */
static int edges(const struct plan *p)
{
    return p->chunks > 1 ? p->stages : p->stages - 1;
}

/* Between stage `edge` and the next one. */
static bool has_edge(const struct exec *x, int edge)
{
    const int stage = x->program->layout.stage;
    return stage == edge || stage == (edge + 1) % x->program->plan.stages;
}

int pass_blocks(const struct exec *x)
{
    int n = 0;
    for (int edge = 0; by_lanes(x) && comm_on_device() && edge < edges(&x->program->plan); edge++)
        n += has_edge(x, edge) ? 2 : 0;
    return COMM_PAIR_BLOCKS * n;
}

static int way_of(bool gradient, bool in)
{
    return 2 * gradient + in;
}

/* Edge by edge on all ranks, so that the pair of the first one that is not made can always go on. */
static void make_ways(struct arena *a, struct exec *x)
{
    static const char *const names[WAYS] = { "activations to the next stage",
                                             "activations of the stage before",
                                             "gradients to the stage before", "gradients of the next stage" };
    const struct plan *p = &x->program->plan;
    const int worker = plan_worker(p, x->program->layout.rank), workers = plan_workers(p);
    for (int edge = 0; edge < edges(p); edge++)
        for (int gradient = 0; gradient < 2 && has_edge(x, edge); gradient++) {
            const int front = edge * workers + worker, behind = (edge + 1) % p->stages * workers + worker,
                      from = gradient ? behind : front, to = gradient ? front : behind,
                      way = way_of(gradient, to == x->program->layout.rank);
            x->pass->way[way] = comm_pair(a, names[way], from, to, gradient);
        }
}

void pass_new(struct arena *a, struct exec *x, int first_place)
{
    const struct program *p = x->program;
    struct pass *s = x->pass = ARENA_NEW(a, struct pass, 1);
    s->first_place = first_place;
    s->outbox = ARENA_NEW(a, struct comm_outbox *, p->n_outboxes + 1);
    s->copy = ARENA_NEW(a, int, p->n_outboxes + 1);
    if (by_lanes(x))
        make_ways(a, x);
    for (int k = 0; k < LISTS; k++)
        for (int i = 0; i < p->list[k].n; i++) {
            const struct instr *in = &p->list[k].item[i];
            if (in->kind == RUN_PASS_OUT && !s->outbox[in->box])
                s->outbox[in->box] = comm_outbox_new(a, (size_t)in->n, PASS_COPIES);
            else if (in->kind == RUN_PASS_IN)
                comm_reserve_message((size_t)in->n);
        }
}

void pass_free(struct exec *x)
{
    for (int i = 0; i < x->program->n_outboxes; i++)
        comm_outbox_free(x->pass->outbox[i]);
}

/* NULL: by MPI. */
static const struct comm_group *way(const struct exec *x, const struct instr *in)
{
    return x->settled ? x->pass->way[way_of(in->tag % 2, in->kind == RUN_PASS_IN)] : NULL;
}

static void message_lane(const struct exec *x, const struct instr *in)
{
    x->device->lane((enum device_lane)(LANE_MESSAGES + way_of(in->tag % 2, in->kind == RUN_PASS_IN)));
}

/* What went by MPI has to arrive first: it may travel only while its sender calls MPI, and from now on a sender may wait for
 * its device, which waits for a rank that still waits for that. */
void pass_settled(struct exec *x, bool settled)
{
    for (int i = 0; settled && !x->settled && by_lanes(x) && i < x->program->n_outboxes; i++)
        comm_outbox_wait(x->pass->outbox[i]);
    x->settled = settled;
}

void pass_out(struct exec *x, const struct instr *in)
{
    const struct device *d = x->device;
    struct pass *s = x->pass;
    const struct comm_group *to = way(x, in);
    if (!to) {
        comm_post(s->outbox[in->box], in->peer, in->tag, exec_at(x, in->ref[0]), (size_t)in->n);
        return;
    }
    const int copy = s->copy[in->box], left = s->first_place + OF_BOXES + PASS_COPIES * in->box + copy;
    char *const at = (char *)exec_at(x, in->ref[1]) + copy * pass_copy_bytes(in);
    s->copy[in->box] = (copy + 1) % PASS_COPIES;
    d->behind(left);
    d->copy(at, exec_at(x, in->ref[0]), (size_t)in->n);
    d->place(s->first_place + COPIED);
    message_lane(x, in);
    d->behind(s->first_place + COPIED);
    comm_send(to, at, (size_t)in->n);
    d->place(left);
    d->lane(LANE_COMPUTE);
}

void pass_in(struct exec *x, const struct instr *in)
{
    const struct device *d = x->device;
    const struct pass *s = x->pass;
    const struct comm_group *from = way(x, in);
    if (!from) {
        comm_fetch(in->peer, in->tag, exec_at(x, in->ref[0]), (size_t)in->n);
        return;
    }
    const int taken = s->first_place + OF_BOXES + PASS_COPIES * x->program->n_outboxes + in->box,
              arrived = s->first_place + ARRIVED + way_of(in->tag % 2, true);
    message_lane(x, in);
    d->behind(taken);
    comm_receive(from, exec_at(x, in->ref[1]), (size_t)in->n);
    d->place(arrived);
    d->lane(LANE_COMPUTE);
    d->behind(arrived);
    d->copy(exec_at(x, in->ref[0]), exec_at(x, in->ref[1]), (size_t)in->n);
    d->place(taken);
}
