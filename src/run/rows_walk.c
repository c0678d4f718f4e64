/* rows_walk.c - see rows_walk.h. */
#include "run/rows_walk.h"
#include "base/err.h"

static int64_t round_up(int64_t n, int64_t tile)
{
    return (n + tile - 1) / tile * tile;
}

static const int32_t *counts_of(const struct rows *r, int member)
{
    return r->counts + member * route_counts(r->experts, r->members);
}

int64_t rows_before(const struct rows *r, int member, int64_t expert)
{
    return expert ? counts_of(r, member)[expert - 1] : 0;
}

int64_t rows_of(const struct rows *r, int member, int64_t expert)
{
    return counts_of(r, member)[expert] - rows_before(r, member, expert);
}

int64_t rows_for(const struct rows *r, int from, int to)
{
    const int64_t experts = r->experts / r->members;
    return rows_before(r, from, (to + 1) * experts) - rows_before(r, from, to * experts);
}

int64_t rows_first_for(const struct rows *r, int from, int to)
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
            const int64_t rows = round_up(rows_of(w->r, s, w->receiver * w->per_member + e), w->tile);
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
            at += round_up(rows_of(w->r, s, w->receiver * w->per_member + e), w->tile);
    return at;
}

struct walk rows_walk(const struct exec *x, const struct rows *r, int receiver, int64_t *n_rounds)
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

struct segment rows_next_segment(struct walk *w, int64_t local_expert, int sender)
{
    const int64_t n = rows_of(w->r, sender, w->receiver * w->per_member + local_expert);
    int64_t lo = w->at > w->low ? w->at : w->low, hi = w->at + n < w->high ? w->at + n : w->high;
    if (hi < lo)
        hi = lo = w->at < w->low ? w->low : w->high;
    const struct segment s = { lo - w->low, hi - w->low, lo - w->at };
    w->at += round_up(n, w->tile);
    return s;
}

struct rows rows_round(const struct exec *x, const struct rows *all, int which)
{
    struct rows r = *all;
    r.round = all->loop * plan_at_once(&x->program->plan) + which;
    return r;
}

bool rows_are_pulled(const struct exec *x)
{
    return !x->program->plan.overlap && comm_can_look(x->expert);
}

int64_t rows_in(const struct exec *x, struct ref r, int64_t row_bytes)
{
    return x->program->buffers[r.buffer].bytes / row_bytes;
}
