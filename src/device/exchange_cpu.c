/* exchange_cpu.c - sums and moves of device.h on the host. */
#include "base/pool.h"
#include "device/device_impl.h"
#include <string.h>

enum { BLOCK = 8192 };

/* In place into part 0. */
static void sum_task(void *context, int64_t task)
{
    const struct device_sum *s = context;
    const int64_t begin = task * BLOCK, end = begin + BLOCK < s->n ? begin + BLOCK : s->n;
    float *parts = s->parts;
    for (int step = 1; step < s->n_parts; step *= 2)
        for (int i = 0; i + step < s->n_parts; i += 2 * step) {
            float *to = parts + i * s->stride;
            const float *from = to + step * s->stride;
            for (int64_t j = begin; j < end; j++)
                to[j] += from[j];
        }
    float *out = s->out;
    for (int64_t j = begin; j < end && s->add; j++)
        out[j] += parts[j];
    if (!s->add && out != parts && begin < end)
        memcpy(out + begin, parts + begin, (size_t)(end - begin) * sizeof *parts);
}

void device_sum_cpu(const struct device_sum *s)
{
    struct device_sum copy = *s;
    CHECK(s->type == F32, "sums of %s", num_dtype_name(s->type));
    pool_run((s->n + BLOCK - 1) / BLOCK, sum_task, &copy);
}

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Rows that a member gets: [begin, end). */
static void rows_of_member(const struct device_twins *t, int64_t m, int64_t *begin, int64_t *end)
{
    const int64_t segments = t->n_segments / t->members;
    *begin = m ? t->end[m * segments - 1] : 0;
    *end = t->end[(m + 1) * segments - 1];
}

/* The first twin of row i, and the next one behind it (0: none), among rows [begin, end). */
static int64_t first_twin(const struct device_twins *t, int64_t i, int64_t begin, int64_t end, int64_t *next)
{
    const int32_t *place = t->place + t->row[i] / t->each * t->each;
    int64_t first = i;
    *next = 0;
    for (int64_t j = 0; j < t->each; j++) {
        const int64_t at = place[j];
        if (at < begin || at >= end)
            continue;
        first = at < first ? at : first;
        if (at > i && (*next == 0 || at < *next))
            *next = at;
    }
    return first;
}

static void twins_task(void *context, int64_t member)
{
    const struct device_twins *t = context;
    int64_t begin, end, next;
    int32_t n = 0;
    rows_of_member(t, member, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t first = first_twin(t, i, begin, end, &next);
        const int32_t number = first == i ? n++
                               : t->chain ? 0
                                          : t->twin[first],
                      say = t->chain ? (int32_t)next : number;
        t->twin[i] = first == i ? say : ~say;
    }
    t->n_first[member] = n;
}

void device_twins_cpu(const struct device_twins *t)
{
    struct device_twins copy = *t;
    pool_run(t->members, twins_task, &copy);
}

enum { MOVED_ROWS = 64 };

/* Segment i in turns of MOVED_ROWS rows, with twins. */
struct twin_move {
    const struct device_move *m;
    int64_t begin, end, from;
};

static void move_twins_task(void *context, int64_t task)
{
    const struct twin_move *t = context;
    const struct device_move *m = t->m;
    const int64_t begin = t->begin + task * MOVED_ROWS,
                  end = begin + MOVED_ROWS < t->end ? begin + MOVED_ROWS : t->end;
    for (int64_t i = begin; i < end; i++) {
        const int32_t twin = m->twin[i];
        char *row = m->rows + i * m->row_bytes,
             *packed = m->packed + (t->from + (twin < 0 ? ~twin : twin)) * m->row_bytes;
        if (twin >= 0 || !m->pack)
            memcpy(m->pack ? packed : row, m->pack ? row : packed, (size_t)m->row_bytes);
    }
}

static void move_segment(const struct device_move *m, int64_t begin, int64_t n, int64_t from)
{
    char *row = m->rows + begin * m->row_bytes, *packed = m->packed + from * m->row_bytes;
    struct twin_move t = { m, begin, begin + n, from };
    if (m->twin)
        pool_run((n + MOVED_ROWS - 1) / MOVED_ROWS, move_twins_task, &t);
    else
        memcpy(m->pack ? packed : row, m->pack ? row : packed, (size_t)(n * m->row_bytes));
}

void device_move_cpu(const struct device_move *m)
{
    int64_t begin = 0;
    for (int64_t i = 0; i < m->n_segments; begin = round_up(m->end[i++], m->tile)) {
        const int64_t n = m->end[i] - begin, edge = round_up(m->end[i], m->tile);
        if (n > 0)
            move_segment(m, begin, n, m->from[i]);
        if (n > 0 && !m->pack)
            memset(m->rows + m->end[i] * m->row_bytes, 0, (size_t)((edge - m->end[i]) * m->row_bytes));
    }
}

/* Where row `at` of the member of segment i has come to. */
static int64_t pulled_to(const struct device_pull *p, int64_t i, int64_t at)
{
    for (int64_t k = i % p->members; k < p->n_segments; k += p->members)
        if (at >= p->first[k] && at < p->first[k] + p->end[k] - p->begin[k])
            return p->begin[k] + at - p->first[k];
    die("row %lld of member %lld has not come", (long long)at, (long long)(i % p->members));
}

static void pull_row(const struct device_pull *p, int64_t i, int64_t row)
{
    const char *from =
        (const char *)p->of[i / p->each % p->members] + (p->first[i] + row - p->begin[i]) * p->row_bytes;
    if (p->twin && p->twin[row] < 0)
        return;
    memcpy(p->rows + row * p->row_bytes, from, (size_t)p->row_bytes);
    for (int32_t next = p->twin ? p->twin[row] : 0; next > 0; next = ~p->twin[row]) {
        row = pulled_to(p, i, next);
        memcpy(p->rows + row * p->row_bytes, from, (size_t)p->row_bytes);
    }
}

void device_pull_cpu(const struct device_pull *p)
{
    for (int64_t i = 0; i < p->n_segments; i++) {
        const int64_t edge = round_up(p->end[i], p->tile);
        for (int64_t row = p->begin[i]; row < p->end[i]; row++)
            pull_row(p, i, row);
        if (edge > p->end[i])
            memset(p->rows + p->end[i] * p->row_bytes, 0, (size_t)((edge - p->end[i]) * p->row_bytes));
    }
}
