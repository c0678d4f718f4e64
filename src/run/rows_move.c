/* rows_move.c - what travels in an exchange. A sender's rows are sorted by expert, so the rows of one round for one receiver are
 * consecutive: they are sent from where they lie, and come back to where they were. The receiver gets them packed, by
 * sender, and the device moves them to their experts. Rows that travel once are packed by the sender first. */
#include "base/err.h"
#include "run/rows_walk.h"
#include <string.h>

/* What this rank sends to and receives from every member in the round; received rows stand by sender. */
static void plan_exchange(struct exec *x, const struct rows *r, struct comm_rows *c)
{
    const int n = x->program->plan.expert_parallel, me = x->program->layout.ep_index;
    *c = (struct comm_rows){ x->scratch, x->scratch + n, x->scratch + 2 * n, x->scratch + 3 * n };
    int64_t before = 0; /* my rows of lower experts */
    for (int m = 0; m < n; m++) {
        struct walk w = rows_walk(x, r, m, NULL);
        c->send_rows[m] = 0;
        c->send_at[m] = before;
        for (int64_t e = 0; e < w.per_member; e++)
            for (int s = 0; s < n; s++) {
                const struct segment g = rows_next_segment(&w, e, s);
                if (s == me && g.end > g.begin) {
                    if (c->send_rows[m] == 0)
                        c->send_at[m] = before + g.first;
                    c->send_rows[m] += g.end - g.begin;
                }
                if (s == me)
                    before += rows_of(r, me, m * w.per_member + e);
            }
    }
    int64_t at = 0;
    struct walk w = rows_walk(x, r, me, NULL);
    memset(c->recv_rows, 0, (size_t)n * sizeof *c->recv_rows);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < n; s++) {
            const struct segment g = rows_next_segment(&w, e, s);
            c->recv_rows[s] += g.end - g.begin;
        }
    for (int s = 0; s < n; at += c->recv_rows[s++])
        c->recv_at[s] = at;
}

/* The same of rows that travel once, packed by receiver. There is room: members have as many copies each, so one of them
 * receives at least as many rows as this one has. */
static void plan_once(struct exec *x, const struct rows *r, struct comm_rows *c)
{
    const int n = r->members, me = x->program->layout.ep_index;
    int64_t sent = 0, came = 0;
    *c = (struct comm_rows){ x->scratch, x->scratch + n, x->scratch + 2 * n, x->scratch + 3 * n };
    for (int m = 0; m < n; m++) {
        c->send_at[m] = sent;
        c->recv_at[m] = came;
        sent += c->send_rows[m] = rows_first_for(r, me, m);
        came += c->recv_rows[m] = rows_first_for(r, m, me);
    }
    CHECK(sent <= x->program->plan.row_capacity, "%lld rows that travel once", (long long)sent);
}

static bool travels_once(const struct instr *in, const struct rows *r)
{
    return in->copies && r->once;
}

/* Of received rows, where they travel once: the first of their twins came. */
static struct ref twins_of(const struct instr *in, const struct rows *r)
{
    return travels_once(in, r) ? in->ref[5] : (struct ref){ .buffer = -1 };
}

/* Between the packed rows, which stand by sender, and those of the experts: each to the places of all its twins. */
static void move_rows(struct exec *x, const struct instr *in, const struct rows *r, bool pack)
{
    const int32_t *end = exec_at(x, in->ref[2]);
    x->device->move(
        &(struct device_move){ .rows = exec_at(x, in->ref[1]),
                               .packed = exec_at(x, in->ref[4]),
                               .end = end,
                               .from = end + (travels_once(in, r) ? ROUND_ONCE : ROUND_PACKED) * r->experts,
                               .twin = exec_at(x, twins_of(in, r)),
                               .n_segments = r->experts,
                               .tile = x->program->plan.tile,
                               .n_rows = x->program->plan.row_capacity,
                               .row_bytes = in->row_bytes,
                               .pack = pack });
}

/* The first rows among those sorted by expert to the room of those received, by receiver. */
static void pack_once(struct exec *x, const struct instr *in, const struct rows *r)
{
    const int32_t *tables = exec_at(x, in->ref[2]);
    x->device->move(&(struct device_move){ .rows = exec_at(x, in->ref[0]),
                                           .packed = exec_at(x, in->ref[1]),
                                           .end = tables + BACK_END * r->experts,
                                           .from = tables + BACK_ONCE * r->experts,
                                           .twin = exec_at(x, in->ref[6]),
                                           .n_segments = r->experts,
                                           .tile = 1,
                                           .n_rows = rows_in(x, in->ref[0], in->row_bytes),
                                           .row_bytes = in->row_bytes,
                                           .pack = true });
}

/* Nobody asks for twins of rows that do not travel once. */
static bool is_idle(const struct instr *in, const struct rows *r)
{
    return in->twins && !r->once;
}

static void pack(struct exec *x, const struct instr *in, const struct rows *r)
{
    if (travels_once(in, r))
        pack_once(x, in, r);
    else if (!in->copies) /* on their way back; copies are sent from where they are */
        move_rows(x, in, r, true);
}

static void unpack(struct exec *x, const struct instr *in, const struct rows *r)
{
    if (!is_idle(in, r))
        move_rows(x, in, r, false);
}

/* `mine` is what this rank shows the others, `to` where its rows go; twins: of those that travel once. */
static void pull_rows(struct exec *x, const struct instr *in, const struct rows *r, struct ref mine,
                      struct ref to, struct ref twins, bool back)
{
    const int32_t *tables = exec_at(x, in->ref[2]);
    const int n = x->program->plan.expert_parallel;
    struct device_pull p = { .rows = exec_at(x, to),
                             .begin = tables + (back ? BACK_BEGIN : ROUND_BEGIN) * r->experts,
                             .end = tables + (back ? BACK_END : ROUND_END) * r->experts,
                             .first = tables + (back ? BACK_FIRST : ROUND_FIRST) * r->experts,
                             .twin = exec_at(x, twins),
                             .n_segments = r->experts,
                             .each = back ? r->experts / n : 1,
                             .tile = back ? 1 : x->program->plan.tile,
                             .n_rows = rows_in(x, to, in->row_bytes),
                             .row_bytes = in->row_bytes,
                             .members = n };
    comm_look(x->expert, exec_at(x, mine), p.of);
    x->device->pull(&p);
    comm_looked(x->expert);
}

/* Of all rounds: copies of tokens that others hold the experts of, and rows that travel for them. */
static void count_sent(struct exec *x, const struct rows *r)
{
    const int me = x->program->layout.ep_index;
    for (int m = 0; m < r->members; m++)
        if (m != me) {
            const int64_t copies = rows_for(r, me, m);
            x->sent_copies += copies;
            x->sent_rows += r->once ? rows_first_for(r, me, m) : copies;
        }
}

/* Across, to the room of what came, by sender. */
static void send_rows(struct exec *x, const struct instr *in, const struct rows *r)
{
    const struct rows of = rows_round(x, r, in->round);
    struct comm_rows c;
    const bool once = travels_once(in, r);
    if (once)
        plan_once(x, &of, &c);
    else
        plan_exchange(x, &of, &c);
    comm_exchange(x->expert, exec_at(x, in->ref[once ? 1 : 0]), exec_at(x, in->ref[4]), &c, in->row_bytes);
}

static void send(struct exec *x, const struct instr *in, const struct rows *r)
{
    const bool alone = !x->program->plan.overlap; /* no other instruction packs */
    if (is_idle(in, r))
        return;
    if (in->copies && r->loop == 0)
        count_sent(x, r);
    if (rows_are_pulled(x)) {
        pull_rows(x, in, r, in->ref[0], in->ref[1], twins_of(in, r), false);
        return;
    }
    if (alone && travels_once(in, r))
        pack_once(x, in, r);
    send_rows(x, in, r);
    if (alone)
        unpack(x, in, r);
}

static void give_back(struct exec *x, const struct instr *in, const struct rows *r)
{
    const struct rows of = rows_round(x, r, in->round);
    struct comm_rows c;
    if (rows_are_pulled(x)) {
        pull_rows(x, in, r, in->ref[1], in->ref[0], (struct ref){ .buffer = -1 }, true);
        return;
    }
    if (!x->program->plan.overlap)
        move_rows(x, in, r, true);
    plan_exchange(x, &of, &c);
    const struct comm_rows back = { c.recv_rows, c.recv_at, c.send_rows, c.send_at };
    comm_exchange(x->expert, exec_at(x, in->ref[4]), exec_at(x, in->ref[0]), &back, in->row_bytes);
}

void rows_run(struct exec *x, const struct instr *in, const struct rows *r)
{
    static void (*const run[])(struct exec *, const struct instr *, const struct rows *) = {
        [RUN_SEND] = send, [RUN_RETURN] = give_back, [RUN_PACK] = pack, [RUN_UNPACK] = unpack
    };
    run[in->kind](x, in, r);
}
