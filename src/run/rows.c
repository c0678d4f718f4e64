/* rows.c - see rows.h. A sender's rows are sorted by expert, so the rows of one round for one receiver are
 * consecutive: they are sent from where they lie, and come back to where they were. The receiver gets them packed, by
 * sender, and the device moves them to their experts. */
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

/* Row m * E + e of ends: where the rows that member m has for expert e end. */
static int64_t count_of(const struct rows *r, int member, int64_t expert)
{
    const int32_t *end = r->ends + member * r->experts + expert;
    return *end - (expert ? end[-1] : 0);
}

/* Windows of whole segments: as many as there is room for. Writes those of the round; returns how many there are. */
static int64_t whole_windows(const struct plan *p, struct walk *w)
{
    int64_t at = 0, low = 0, n = 0;
    w->low = w->high = 0;
    for (int64_t e = 0; e < w->per_member; e++)
        for (int s = 0; s < w->members; s++) {
            const int64_t rows = round_up(count_of(w->r, s, w->receiver * w->per_member + e), w->tile);
            CHECK(rows <= p->row_capacity, "a segment of %lld rows", (long long)rows);
            if (at + rows - low > p->row_capacity) {
                n++;
                low = at;
            }
            at += rows;
            if (n == w->r->round) {
                w->low = low;
                w->high = at;
            }
        }
    if (n < w->r->round)
        w->low = w->high = at;
    return at > 0 ? n + 1 : 0;
}

static int64_t all_rows(const struct walk *w)
{
    int64_t at = 0;
    for (int64_t e = 0; e < w->per_member; e++)
        for (int s = 0; s < w->members; s++)
            at += round_up(count_of(w->r, s, w->receiver * w->per_member + e), w->tile);
    return at;
}

/* The receiver's window in the round; *n_rounds (may be NULL) are those that it needs. */
static struct walk walk_begin(const struct exec *x, const struct rows *r, int receiver, int64_t *n_rounds)
{
    const struct plan *p = &x->program->plan;
    struct walk w = { .r = r,
                      .tile = p->tile,
                      .low = r->round * p->row_capacity,
                      .high = (r->round + 1) * p->row_capacity,
                      .per_member = r->experts / p->expert_parallel,
                      .members = p->expert_parallel,
                      .receiver = receiver };
    if (plan_whole_segments(p)) {
        const int64_t n = whole_windows(p, &w);
        if (n_rounds)
            *n_rounds = n;
    } else if (n_rounds) {
        *n_rounds = (all_rows(&w) + p->row_capacity - 1) / p->row_capacity;
    }
    return w;
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

/* Ends of my segments -> those of all members; they stay on the device for backward. */
void rows_route(struct exec *x, const struct instr *in)
{
    const int64_t bytes = in->n * (int64_t)sizeof(int32_t);
    char *all = exec_at(x, in->ref[1]);
    x->device->copy(all + x->program->layout.ep_index * bytes, exec_at(x, in->ref[0]), (size_t)bytes);
    comm_gather_in_place(x->expert, all, (size_t)bytes);
}

/* One of the rounds that are under way together. */
static struct rows round_of(const struct exec *x, const struct rows *all, int which)
{
    struct rows r = *all;
    r.round = all->loop * plan_at_once(&x->program->plan) + which;
    return r;
}

/* The tables of sched.h for a round, on the host. */
static int32_t *table(struct exec *x, int which, const struct rows *r, enum round_table t)
{
    return x->ends + (which * ROUND_TABLES + (int)t) * r->experts;
}

/* Where the rows of a member for an expert begin. */
static int64_t rows_before(const struct rows *r, int member, int64_t expert)
{
    return expert ? r->ends[member * r->experts + expert - 1] : 0;
}

/* Of this receiver's segments, (expert, sender). */
static void set_ends(struct exec *x, const struct rows *r, int which)
{
    const int n = x->program->plan.expert_parallel, me = x->program->layout.ep_index;
    int64_t *cursor = x->scratch, at = 0;
    memset(cursor, 0, (size_t)n * sizeof *cursor);
    struct walk w = walk_begin(x, r, me, NULL);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < n; s++) {
            const struct segment g = walk_next(&w, e, s);
            cursor[s] += g.end - g.begin;
        }
    for (int s = 0; s < n; s++) {
        const int64_t rows = cursor[s];
        cursor[s] = at;
        at += rows;
    }
    int32_t *end = table(x, which, r, ROUND_END), *packed = table(x, which, r, ROUND_PACKED),
            *begin = table(x, which, r, ROUND_BEGIN), *first = table(x, which, r, ROUND_FIRST);
    w = walk_begin(x, r, me, NULL);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < n; s++) {
            const struct segment g = walk_next(&w, e, s);
            *end++ = (int32_t)g.end;
            *packed++ = (int32_t)cursor[s];
            *begin++ = (int32_t)g.begin;
            *first++ = (int32_t)(rows_before(r, s, me * w.per_member + e) + g.first);
            cursor[s] += g.end - g.begin;
        }
}

/* Of this sender's own rows, by expert. */
static void set_back(struct exec *x, const struct rows *r, int which)
{
    const int n = x->program->plan.expert_parallel, me = x->program->layout.ep_index;
    int32_t *begin = table(x, which, r, BACK_BEGIN), *end = table(x, which, r, BACK_END),
            *first = table(x, which, r, BACK_FIRST);
    for (int m = 0; m < n; m++) {
        struct walk w = walk_begin(x, r, m, NULL);
        for (int64_t e = 0; e < w.per_member; e++)
            for (int s = 0; s < n; s++) {
                const struct segment g = walk_next(&w, e, s);
                if (s != me)
                    continue;
                const int64_t n_rows = g.end - g.begin; /* none: the segment is of another round */
                *begin = (int32_t)(rows_before(r, me, m * w.per_member + e) + (n_rows > 0 ? g.first : 0));
                *end++ = *begin++ + (int32_t)n_rows;
                *first++ = (int32_t)g.begin;
            }
    }
}

static void set_tables(struct exec *x, const struct rows *all)
{
    const int n = plan_at_once(&x->program->plan);
    for (int k = 0; k < n; k++) {
        const struct rows r = round_of(x, all, k);
        set_ends(x, &r, k);
        set_back(x, &r, k);
    }
    exec_put(x, all->head->ref[1], x->ends, n * ROUND_TABLES * all->experts * (int64_t)sizeof *x->ends);
}

void rows_begin(struct exec *x, const struct instr *head, struct rows *r)
{
    const struct plan *p = &x->program->plan;
    exec_get(x, x->counts, head->ref[0], p->expert_parallel * head->n * (int64_t)sizeof *x->counts);
    *r = (struct rows){ .head = head, .ends = x->counts, .experts = head->n };
    for (int m = 0; m < p->expert_parallel; m++) {
        int64_t n;
        walk_begin(x, r, m, &n);
        r->n_rounds = n > r->n_rounds ? n : r->n_rounds;
    }
    x->rounds = r->n_rounds;
    x->most_rounds = r->n_rounds > x->most_rounds ? r->n_rounds : x->most_rounds;
    set_tables(x, r);
}

bool rows_next(struct exec *x, struct rows *r)
{
    if (++r->loop * plan_at_once(&x->program->plan) >= r->n_rounds) {
        r->loop = 0;
        return false;
    }
    set_tables(x, r);
    return true;
}

/* What this rank sends to and receives from every member in the round; received rows stand by sender. */
static void plan_exchange(struct exec *x, const struct rows *r, struct comm_rows *c)
{
    const int n = x->program->plan.expert_parallel, me = x->program->layout.ep_index;
    *c = (struct comm_rows){ x->scratch, x->scratch + n, x->scratch + 2 * n, x->scratch + 3 * n };
    int64_t before = 0; /* my rows of lower experts */
    for (int m = 0; m < n; m++) {
        struct walk w = walk_begin(x, r, m, NULL);
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
    struct walk w = walk_begin(x, r, me, NULL);
    memset(c->recv_rows, 0, (size_t)n * sizeof *c->recv_rows);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < n; s++) {
            const struct segment g = walk_next(&w, e, s);
            c->recv_rows[s] += g.end - g.begin;
        }
    for (int s = 0; s < n; at += c->recv_rows[s++])
        c->recv_at[s] = at;
}

/* Between the packed rows, which stand by sender, and those of the experts. */
static void move_rows(struct exec *x, const struct instr *in, const struct rows *r, bool pack)
{
    const int32_t *end = exec_at(x, in->ref[2]);
    x->device->move(&(struct device_move){ .rows = exec_at(x, in->ref[1]),
                                           .packed = exec_at(x, in->ref[4]),
                                           .end = end,
                                           .from = end + ROUND_PACKED * r->experts,
                                           .n_segments = r->experts,
                                           .tile = x->program->plan.tile,
                                           .n_rows = x->program->plan.row_capacity,
                                           .row_bytes = in->row_bytes,
                                           .pack = pack });
}

/* Kernels read rows where other ranks have them: one pass instead of a copy, this rank's own included, and a move. Beside products
 * copies are better, which take no multiprocessor. */
static bool pulls(const struct exec *x)
{
    return !x->program->plan.overlap && comm_can_look(x->expert);
}

/* `mine` is what this rank shows the others, `to` where its rows go. */
static void pull_rows(struct exec *x, const struct instr *in, const struct rows *r, struct ref mine,
                      struct ref to, bool back)
{
    const int32_t *tables = exec_at(x, in->ref[2]);
    const int n = x->program->plan.expert_parallel;
    struct device_pull p = { .rows = exec_at(x, to),
                             .begin = tables + (back ? BACK_BEGIN : ROUND_BEGIN) * r->experts,
                             .end = tables + (back ? BACK_END : ROUND_END) * r->experts,
                             .first = tables + (back ? BACK_FIRST : ROUND_FIRST) * r->experts,
                             .n_segments = r->experts,
                             .each = back ? r->experts / n : 1,
                             .tile = back ? 1 : x->program->plan.tile,
                             .n_rows = x->program->buffers[to.buffer].bytes / in->row_bytes,
                             .row_bytes = in->row_bytes,
                             .members = n };
    comm_look(x->expert, exec_at(x, mine), p.of);
    x->device->pull(&p);
    comm_looked(x->expert);
}

void rows_send(struct exec *x, const struct instr *in, const struct rows *r)
{
    const struct rows of = round_of(x, r, in->round);
    struct comm_rows c;
    if (pulls(x)) {
        pull_rows(x, in, r, in->ref[0], in->ref[1], false);
        return;
    }
    plan_exchange(x, &of, &c);
    comm_exchange(x->expert, exec_at(x, in->ref[0]), exec_at(x, in->ref[4]), &c, in->row_bytes);
    move_rows(x, in, r, false);
}

void rows_return(struct exec *x, const struct instr *in, const struct rows *r)
{
    const struct rows of = round_of(x, r, in->round);
    struct comm_rows c;
    if (pulls(x)) {
        pull_rows(x, in, r, in->ref[1], in->ref[0], true);
        return;
    }
    plan_exchange(x, &of, &c);
    move_rows(x, in, r, true);
    const struct comm_rows back = { c.recv_rows, c.recv_at, c.send_rows, c.send_at };
    comm_exchange(x->expert, exec_at(x, in->ref[4]), exec_at(x, in->ref[0]), &back, in->row_bytes);
}
