/* rows.c - rounds of an exchange: what everybody knows of them, and the tables that kernels read. See rows.h. */
#include "run/rows.h"
#include "run/rows_walk.h"
#include <string.h>

static void find_twins(struct exec *x, const struct instr *in, int32_t *n_first)
{
    x->device->twins(&(struct device_twins){ .row = exec_at(x, in->ref[2]),
                                             .place = exec_at(x, in->ref[3]),
                                             .end = exec_at(x, in->ref[0]),
                                             .twin = exec_at(x, in->ref[4]),
                                             .n_first = n_first,
                                             .n_rows = rows_in(x, in->ref[4], sizeof(int32_t)),
                                             .n_segments = in->n,
                                             .each = in->copies,
                                             .members = x->program->plan.expert_parallel,
                                             .chain = rows_are_pulled(x) });
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
    struct walk w = rows_walk(x, r, me, NULL);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < n; s++) {
            const struct segment g = rows_next_segment(&w, e, s);
            cursor[s] += g.end - g.begin;
        }
    for (int s = 0; s < n; s++) {
        const int64_t rows = cursor[s];
        cursor[s] = at;
        at += rows;
    }
    int32_t *end = table(x, which, r, ROUND_END), *packed = table(x, which, r, ROUND_PACKED),
            *begin = table(x, which, r, ROUND_BEGIN), *first = table(x, which, r, ROUND_FIRST);
    w = rows_walk(x, r, me, NULL);
    for (int64_t e = 0; e < w.per_member; e++)
        for (int s = 0; s < n; s++) {
            const struct segment g = rows_next_segment(&w, e, s);
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
        struct walk w = rows_walk(x, r, m, NULL);
        for (int64_t e = 0; e < w.per_member; e++)
            for (int s = 0; s < n; s++) {
                const struct segment g = rows_next_segment(&w, e, s);
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
        came += (int32_t)rows_first_for(r, m, me);
        sent += (int32_t)rows_first_for(r, me, m);
    }
}

static void set_tables(struct exec *x, const struct rows *all)
{
    const int n = plan_at_once(&x->program->plan);
    for (int k = 0; k < n; k++) {
        const struct rows r = rows_round(x, all, k);
        set_ends(x, &r, k);
        set_back(x, &r, k);
        if (r.once)
            set_once(x, &r, k);
    }
    exec_put(x, all->head->ref[1], x->ends, n * ROUND_TABLES * all->experts * (int64_t)sizeof *x->ends);
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
        rows_walk(x, r, m, &n);
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
