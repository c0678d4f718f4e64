/* rows.c - see rows.h. A sender's rows are sorted by expert, so the rows of one round for one receiver are
 * consecutive: they are sent from where they lie, and come back to where they were. The receiver gets them packed, by
 * sender, and the device moves them to their experts. Rows that travel once are packed by the sender first. */
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

static const int32_t *counts_of(const struct rows *r, int member)
{
    return r->counts + member * route_counts(r->experts, r->members);
}

/* Where the rows of a member for an expert begin. */
static int64_t rows_before(const struct rows *r, int member, int64_t expert)
{
    return expert ? counts_of(r, member)[expert - 1] : 0;
}

static int64_t count_of(const struct rows *r, int member, int64_t expert)
{
    return counts_of(r, member)[expert] - rows_before(r, member, expert);
}

/* Rows of `from` for `to`, and those that travel once. */
static int64_t rows_for(const struct rows *r, int from, int to)
{
    const int64_t experts = r->experts / r->members;
    return rows_before(r, from, (to + 1) * experts) - rows_before(r, from, to * experts);
}

static int64_t first_rows_for(const struct rows *r, int from, int to)
{
    return counts_of(r, from)[r->experts + to];
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

/* Kernels read rows where other ranks have them: one pass instead of a copy, this rank's own included, and a move. Beside products
 * copies are better, which take no multiprocessor. */
static bool pulls(const struct exec *x)
{
    return !x->program->plan.overlap && comm_can_look(x->expert);
}

static int64_t n_rows(const struct exec *x, struct ref r, int64_t row_bytes)
{
    return x->program->buffers[r.buffer].bytes / row_bytes;
}

static void find_twins(struct exec *x, const struct instr *in, int32_t *n_first)
{
    x->device->twins(&(struct device_twins){ .row = exec_at(x, in->ref[2]),
                                             .place = exec_at(x, in->ref[3]),
                                             .end = exec_at(x, in->ref[0]),
                                             .twin = exec_at(x, in->ref[4]),
                                             .n_first = n_first,
                                             .n_rows = n_rows(x, in->ref[4], sizeof(int32_t)),
                                             .n_segments = in->n,
                                             .each = in->copies,
                                             .members = x->program->plan.expert_parallel,
                                             .chain = pulls(x) });
}

/* Counts of mine -> those of all members; they stay on the device for backward. */
void rows_route(struct exec *x, const struct instr *in)
{
    const int n = x->program->plan.expert_parallel;
    int32_t *all = exec_at(x, in->ref[1]), *mine = all + x->program->layout.ep_index * route_counts(in->n, n);
    x->device->copy(mine, exec_at(x, in->ref[0]), (size_t)in->n * sizeof *mine);
    if (in->copies)
        find_twins(x, in, mine + in->n);
    else
        x->device->zero(mine + in->n, (size_t)n * sizeof *mine);
    comm_gather_in_place(x->expert, all, (size_t)route_counts(in->n, n) * sizeof *mine);
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

/* Where rows that travel once stand packed: by sender at the receiver, by receiver at the sender. */
static void set_once(struct exec *x, const struct rows *r, int which)
{
    const int me = x->program->layout.ep_index;
    const int64_t per_member = r->experts / r->members;
    int32_t *round = table(x, which, r, ROUND_ONCE), *back = table(x, which, r, BACK_ONCE), came = 0,
            sent = 0;
    for (int m = 0; m < r->members; m++) {
        for (int64_t e = 0; e < per_member; e++) {
            round[e * r->members + m] = came;
            back[m * per_member + e] = sent;
        }
        came += (int32_t)first_rows_for(r, m, me);
        sent += (int32_t)first_rows_for(r, me, m);
    }
}

static void set_tables(struct exec *x, const struct rows *all)
{
    const int n = plan_at_once(&x->program->plan);
    for (int k = 0; k < n; k++) {
        const struct rows r = round_of(x, all, k);
        set_ends(x, &r, k);
        set_back(x, &r, k);
        if (r.once)
            set_once(x, &r, k);
    }
    exec_put(x, all->head->ref[1], x->ends, n * ROUND_TABLES * all->experts * (int64_t)sizeof *x->ends);
}

/* Of all rounds: copies of tokens that others hold the experts of, and rows that travel for them. */
static void count_sent(struct exec *x, const struct rows *r)
{
    const int me = x->program->layout.ep_index;
    for (int m = 0; m < r->members; m++)
        if (m != me) {
            const int64_t copies = rows_for(r, me, m);
            x->sent_copies += copies;
            x->sent_rows += r->once ? first_rows_for(r, me, m) : copies;
        }
}

void rows_begin(struct exec *x, const struct instr *head, struct rows *r)
{
    const struct plan *p = &x->program->plan;
    *r =
        (struct rows){ .head = head, .counts = x->counts, .experts = head->n, .members = p->expert_parallel };
    exec_get(x, x->counts, head->ref[0],
             r->members * route_counts(r->experts, r->members) * (int64_t)sizeof *x->counts);
    for (int m = 0; m < p->expert_parallel; m++) {
        int64_t n;
        walk_begin(x, r, m, &n);
        r->n_rounds = n > r->n_rounds ? n : r->n_rounds;
    }
    r->once = head->copies && r->n_rounds <= 1;
    x->rounds = r->n_rounds;
    x->most_rounds = r->n_rounds > x->most_rounds ? r->n_rounds : x->most_rounds;
    set_tables(x, r);
}

bool rows_are_left(const struct exec *x, const struct instr *in, const struct rows *r)
{
    const struct plan *p = &x->program->plan;
    return in->anew && p->keep_rows && r->n_rounds <= plan_at_once(p);
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
        sent += c->send_rows[m] = first_rows_for(r, me, m);
        came += c->recv_rows[m] = first_rows_for(r, m, me);
    }
    CHECK(sent <= x->program->plan.row_capacity, "%lld rows that travel once", (long long)sent);
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
                                           .n_rows = n_rows(x, in->ref[0], in->row_bytes),
                                           .row_bytes = in->row_bytes,
                                           .pack = true });
}

/* Those that came, to the places of all their twins. */
static void unpack_once(struct exec *x, const struct instr *in, const struct rows *r)
{
    const int32_t *tables = exec_at(x, in->ref[2]);
    x->device->move(&(struct device_move){ .rows = exec_at(x, in->ref[1]),
                                           .packed = exec_at(x, in->ref[4]),
                                           .end = tables + ROUND_END * r->experts,
                                           .from = tables + ROUND_ONCE * r->experts,
                                           .twin = exec_at(x, in->ref[5]),
                                           .n_segments = r->experts,
                                           .tile = x->program->plan.tile,
                                           .n_rows = x->program->plan.row_capacity,
                                           .row_bytes = in->row_bytes });
}

static bool travels_once(const struct instr *in, const struct rows *r)
{
    return in->copies && r->once;
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
    if (travels_once(in, r))
        unpack_once(x, in, r);
    else if (!is_idle(in, r))
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
                             .n_rows = n_rows(x, to, in->row_bytes),
                             .row_bytes = in->row_bytes,
                             .members = n };
    comm_look(x->expert, exec_at(x, mine), p.of);
    x->device->pull(&p);
    comm_looked(x->expert);
}

/* Across, to the room of what came, by sender. */
static void send_rows(struct exec *x, const struct instr *in, const struct rows *r)
{
    const struct rows of = round_of(x, r, in->round);
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
    if (pulls(x)) {
        pull_rows(x, in, r, in->ref[0], in->ref[1],
                  travels_once(in, r) ? in->ref[5] : (struct ref){ .buffer = -1 }, false);
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
    const struct rows of = round_of(x, r, in->round);
    struct comm_rows c;
    if (pulls(x)) {
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
