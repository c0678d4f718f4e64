/* rows.c - see rows.h. A sender's rows are sorted by expert, so the rows of one round for one receiver are
 * consecutive: they are sent from where they lie, and come back to where they were. */
#include "run/rows.h"
#include "base/err.h"
#include <string.h>

struct segment {        /* part of the rows (expert, sender) that falls into the round */
    int64_t begin, end; /* rows of the receiver's buffer */
    int64_t first;      /* first row in the sender's buffer */
};

static int64_t round_up(int64_t n, int64_t tile)
{
    return (n + tile - 1) / tile * tile;
}

/* Walks the virtual order of one receiver. next() gives its segments in order, empty ones included. */
struct walk {
    const struct rows *r;
    int64_t tile, low, high, at, per_member;
    int members, receiver;
};

static struct walk walk_begin(const struct exec *x, const struct rows *r, int receiver)
{
    const struct plan *p = &x->program->plan;
    return (struct walk){ .r = r,
                          .tile = p->tile,
                          .low = r->round * p->row_capacity,
                          .high = (r->round + 1) * p->row_capacity,
                          .per_member = r->experts / p->expert_parallel,
                          .members = p->expert_parallel,
                          .receiver = receiver };
}

static int64_t count_of(const struct rows *r, int member, int64_t expert)
{
    return r->counts[member * r->experts + expert];
}

static struct segment walk_next(struct walk *w, int64_t local_expert, int sender)
{
    const int64_t n = count_of(w->r, sender, w->receiver * w->per_member + local_expert);
    int64_t lo = w->at > w->low ? w->at : w->low, hi = w->at + n < w->high ? w->at + n : w->high;
    if (hi < lo)
        hi = lo = w->at < w->low ? w->low : w->high;
    const struct segment s = { lo - w->low, hi - w->low, lo - w->at };
    w->at += round_up(n, w->tile);
    return s;
}

static int64_t virtual_rows(const struct exec *x, const struct rows *r, int receiver)
{
    struct walk w = walk_begin(x, r, receiver);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < w.members; s++)
            walk_next(&w, e, s);
    return w.at;
}

/* Ends of my segments -> counts of all members; they stay on the device for backward. */
void rows_route(struct exec *x, const struct instr *in)
{
    int32_t *all = x->counts, *ends = x->ends, *mine = all + x->program->layout.ep_index * in->n;
    exec_get(x, ends, in->ref[0], in->n * (int64_t)sizeof *ends);
    for (int64_t e = 0; e < in->n; e++)
        mine[e] = ends[e] - (e ? ends[e - 1] : 0);
    comm_gather_in_place(x->expert, all, (size_t)in->n * sizeof(int32_t));
    exec_put(x, in->ref[1], all, x->program->plan.expert_parallel * in->n * (int64_t)sizeof *all);
}

/* Ends of this receiver's segments in the round: the argument "end" of the experts' operators. */
static void set_ends(struct exec *x, const struct rows *r)
{
    const struct instr *send = r->head + 1;
    int32_t *ends = x->ends;
    struct walk w = walk_begin(x, r, x->program->layout.ep_index);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < w.members; s++)
            *ends++ = (int32_t)walk_next(&w, e, s).end;
    exec_put(x, send->ref[2], x->ends, (ends - x->ends) * (int64_t)sizeof *ends);
}

void rows_begin(struct exec *x, const struct instr *head, struct rows *r)
{
    const struct plan *p = &x->program->plan;
    int64_t most = 0;
    exec_get(x, x->counts, head->ref[0], p->expert_parallel * head->n * (int64_t)sizeof *x->counts);
    *r = (struct rows){ .head = head, .counts = x->counts, .experts = head->n };
    for (int m = 0; m < p->expert_parallel; m++) {
        const int64_t n = virtual_rows(x, r, m);
        most = n > most ? n : most;
    }
    r->n_rounds = (most + p->row_capacity - 1) / p->row_capacity;
    x->rounds = r->n_rounds;
    x->most_rounds = r->n_rounds > x->most_rounds ? r->n_rounds : x->most_rounds;
    set_ends(x, r);
}

bool rows_next(struct exec *x, struct rows *r)
{
    if (++r->round >= r->n_rounds)
        return false;
    set_ends(x, r);
    return true;
}

/* What this rank sends to and receives from every member in the round; received rows stand by sender. */
static void plan_exchange(struct exec *x, const struct rows *r, struct comm_rows *c)
{
    const int n = x->program->plan.expert_parallel, me = x->program->layout.ep_index;
    *c = (struct comm_rows){ x->scratch, x->scratch + n, x->scratch + 2 * n, x->scratch + 3 * n };
    int64_t before = 0; /* my rows of lower experts */
    for (int m = 0; m < n; m++) {
        struct walk w = walk_begin(x, r, m);
        c->send_rows[m] = 0;
        c->send_at[m] = before;
        for (int64_t e = 0; e < w.per_member; e++)
            for (int s = 0; s < n; s++) {
                const struct segment g = walk_next(&w, e, s);
                if (s == me && g.end > g.begin) {
                    if (c->send_rows[m] == 0)
                        c->send_at[m] = before + g.first;
                    c->send_rows[m] += g.end - g.begin;
                }
                if (s == me)
                    before += count_of(r, me, m * w.per_member + e);
            }
    }
    int64_t at = 0;
    struct walk w = walk_begin(x, r, me);
    memset(c->recv_rows, 0, (size_t)n * sizeof *c->recv_rows);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < n; s++) {
            const struct segment g = walk_next(&w, e, s);
            c->recv_rows[s] += g.end - g.begin;
        }
    for (int s = 0; s < n; at += c->recv_rows[s++])
        c->recv_at[s] = at;
}

/* Copies between the order of the exchange (by sender) and the order of the experts, both in host memory. */
static void reorder(struct exec *x, const struct instr *in, const struct rows *r, const struct comm_rows *c,
                    char *rows, char *staging, bool to_experts)
{
    const int n = x->program->plan.expert_parallel;
    int64_t *cursor = x->scratch + 4 * n;
    memcpy(cursor, c->recv_at, (size_t)n * sizeof *cursor);
    if (to_experts && x->program->plan.tile > 1) /* rows that fill a tile are zero */
        memset(rows, 0, (size_t)(x->program->plan.row_capacity * in->row_bytes));
    struct walk w = walk_begin(x, r, x->program->layout.ep_index);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < n; s++) {
            const struct segment g = walk_next(&w, e, s);
            char *a = rows + g.begin * in->row_bytes, *b = staging + cursor[s] * in->row_bytes;
            memcpy(to_experts ? a : b, to_experts ? b : a, (size_t)((g.end - g.begin) * in->row_bytes));
            cursor[s] += g.end - g.begin;
        }
}

/* Host memory of the rows of one rank (outer), of the experts (inner), and of the exchange between them. The CPU's
 * buffers are that memory; another device needs staging: outer and inner take turns in the first. */
struct places {
    char *outer, *inner, *between;
    int64_t outer_bytes, inner_bytes;
};

static struct places places_of(const struct exec *x, const struct instr *in)
{
    const struct buffer *b = x->program->buffers;
    struct places p = { exec_at(x, in->ref[0]), exec_at(x, in->ref[1]), exec_at(x, in->ref[4]),
                        b[in->ref[0].buffer].bytes, b[in->ref[1].buffer].bytes };
    if (x->device->backend != CPU) {
        p.outer = p.inner = x->staging[0];
        p.between = x->staging[1];
    }
    return p;
}

void rows_send(struct exec *x, const struct instr *in, const struct rows *r)
{
    struct comm_rows c;
    const struct places p = places_of(x, in);
    const bool staged = p.outer == p.inner;
    plan_exchange(x, r, &c);
    if (staged)
        exec_get(x, p.outer, in->ref[0], p.outer_bytes);
    comm_exchange(x->expert, p.outer, p.between, &c, in->row_bytes);
    reorder(x, in, r, &c, p.inner, p.between, true);
    if (staged)
        exec_put(x, in->ref[1], p.inner, p.inner_bytes);
}

void rows_return(struct exec *x, const struct instr *in, const struct rows *r)
{
    struct comm_rows c;
    const struct places p = places_of(x, in);
    const bool staged = p.outer == p.inner;
    plan_exchange(x, r, &c);
    if (staged)
        exec_get(x, p.inner, in->ref[1], p.inner_bytes);
    reorder(x, in, r, &c, p.inner, p.between, false);
    const struct comm_rows back = { c.recv_rows, c.recv_at, c.send_rows, c.send_at };
    if (staged && r->round > 0) /* rows of earlier rounds are there already */
        exec_get(x, p.outer, in->ref[0], p.outer_bytes);
    comm_exchange(x->expert, p.between, p.outer, &back, in->row_bytes);
    if (staged)
        exec_put(x, in->ref[0], p.outer, p.outer_bytes);
}
