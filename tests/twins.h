/* twins.h - rows that travel once (device.h: twins, move, pull), between members that are all in this process, on any device:
 * what each receives is what it would have received of all copies. */
#pragma once
#include "base/rng.h"
#include "device/device.h"
#include "tests/test.h"
#include <stdlib.h>
#include <string.h>

enum twins_routing { TWINS_ANY, TWINS_ONE_MEMBER, TWINS_HALF_EMPTY, TWINS_ROUTINGS };
struct twins_case {
    int64_t tokens, each, experts, tile, row_bytes; /* of every member */
    int members;
    enum twins_routing routing;
};
/* Of one member: its sorted copies, and their rows. */
struct twins_member {
    int32_t *row, *place, *end, *twin, *n_first;
    char *rows;
    int32_t *device_row, *device_place, *device_end, *device_twin, *device_n_first;
    char *device_rows;
};
typedef void twins_pull(const struct device_pull *p);

static inline uint32_t twins_random(uint64_t what, int64_t i)
{
    return (uint32_t)rng_u64(29, what, (uint64_t)i);
}

/* An expert that token t has not chosen yet. */
static inline int64_t twins_expert(const struct twins_case *c, int64_t t, int64_t j, const bool *taken)
{
    const int64_t per_member = c->experts / c->members,
                  n = c->routing == TWINS_ANY ? c->experts : per_member, /* consecutive ones to choose from */
        first = c->routing == TWINS_ONE_MEMBER   ? t % c->members * per_member
                : c->routing == TWINS_HALF_EMPTY ? (c->members - 1) * per_member
                                                 : 0;
    int64_t e = twins_random(1, t * c->each + j) % (uint32_t)n;
    while (taken[first + e])
        e = (e + 1) % n;
    return first + e;
}

static inline void twins_sort(const struct twins_case *c, int member, struct twins_member *m)
{
    int32_t at = 0, *expert = malloc(sizeof *expert * (size_t)(c->tokens * c->each));
    bool *taken = malloc((size_t)c->experts);
    for (int64_t t = 0; t < c->tokens; t++) {
        memset(taken, 0, (size_t)c->experts);
        for (int64_t j = 0; j < c->each; j++) {
            const int64_t e = twins_expert(c, t + member * c->tokens, j, taken);
            taken[e] = true;
            expert[t * c->each + j] = (int32_t)e;
        }
    }
    for (int64_t e = 0; e < c->experts; e++) {
        for (int64_t i = 0; i < c->tokens * c->each; i++)
            if (expert[i] == e) {
                m->row[at] = (int32_t)i;
                m->place[i] = at++;
            }
        m->end[e] = at;
    }
    free(expert), free(taken);
}

static inline void *twins_on(const struct device *d, const void *from, size_t bytes)
{
    void *const at = d->allocate(bytes + 1);
    d->put(at, from, bytes);
    return at;
}

static inline struct twins_member twins_make(const struct device *d, const struct twins_case *c, int member)
{
    const size_t n = (size_t)(c->tokens * c->each), each = sizeof(int32_t);
    struct twins_member m = { malloc(n * each),
                              malloc(n * each),
                              malloc((size_t)c->experts * each),
                              malloc(n * each),
                              malloc((size_t)c->members * each),
                              malloc(n * (size_t)c->row_bytes),
                              NULL,
                              NULL,
                              NULL,
                              NULL,
                              NULL,
                              NULL };
    twins_sort(c, member, &m);
    for (int64_t i = 0; i < (int64_t)n; i++)
        for (int64_t b = 0; b < c->row_bytes; b++)
            m.rows[i * c->row_bytes + b] =
                (char)twins_random(2 + (uint64_t)member, m.row[i] / c->each * c->row_bytes + b);
    m.device_row = twins_on(d, m.row, n * each);
    m.device_place = twins_on(d, m.place, n * each);
    m.device_end = twins_on(d, m.end, (size_t)c->experts * each);
    m.device_twin = twins_on(d, m.twin, n * each);
    m.device_n_first = twins_on(d, m.n_first, (size_t)c->members * each);
    m.device_rows = twins_on(d, m.rows, n * (size_t)c->row_bytes);
    return m;
}

static inline void twins_free(const struct device *d, struct twins_member *m)
{
    void *const on[] = { m->device_row,  m->device_place,   m->device_end,
                         m->device_twin, m->device_n_first, m->device_rows };
    for (size_t i = 0; i < sizeof on / sizeof *on; i++)
        d->release(on[i]);
    free(m->row), free(m->place), free(m->end), free(m->twin), free(m->n_first), free(m->rows);
}

static inline void twins_find(const struct device *d, const struct twins_case *c, struct twins_member *m,
                              bool chain)
{
    const int64_t n = c->tokens * c->each;
    d->twins(&(struct device_twins){ .row = m->device_row,
                                     .place = m->device_place,
                                     .end = m->device_end,
                                     .twin = m->device_twin,
                                     .n_first = m->device_n_first,
                                     .n_rows = n,
                                     .n_segments = c->experts,
                                     .each = c->each,
                                     .members = c->members,
                                     .chain = chain });
    d->get(m->twin, m->device_twin, sizeof *m->twin * (size_t)n);
    d->get(m->n_first, m->device_n_first, sizeof *m->n_first * (size_t)c->members);
}

/* The definition of device_twins, row by row. */
static inline void twins_judge(const struct twins_case *c, const struct twins_member *m, bool chain)
{
    const int64_t segments = c->experts / c->members;
    for (int k = 0; k < c->members; k++) {
        const int64_t begin = k ? m->end[k * segments - 1] : 0, end = m->end[(k + 1) * segments - 1];
        int32_t n = 0;
        for (int64_t i = begin; i < end; i++) {
            int64_t first = i, next = 0;
            for (int64_t other = begin; other < end; other++)
                if (m->row[other] / c->each == m->row[i] / c->each) {
                    first = other < first ? other : first;
                    next = other > i && next == 0 ? other : next;
                }
            const int32_t say = chain ? (int32_t)next : first == i ? n : m->twin[first];
            n += first == i;
            EXPECTF(m->twin[i] == (first == i ? say : ~say), "row %lld of %lld: %d", (long long)i,
                    (long long)end, m->twin[i]);
        }
        EXPECTF(m->n_first[k] == n, "%d first rows for member %d, found %d", n, k, m->n_first[k]);
    }
}

/* Tables of rows that member `to` receives, [experts / members][members], and their number with tiles. */
struct twins_tables {
    int32_t *begin, *end, *first, *once, *device; /* device: all four, one after the other */
    int64_t n_rows, n_packed;
};

static inline struct twins_tables twins_receive(const struct device *d, const struct twins_case *c,
                                                const struct twins_member *m, int to)
{
    const int64_t n = c->experts, per_member = n / c->members;
    struct twins_tables t = { .begin = malloc(4 * (size_t)n * sizeof(int32_t)) };
    t.end = t.begin + n, t.first = t.end + n, t.once = t.first + n;
    for (int64_t e = 0; e < per_member; e++)
        for (int s = 0; s < c->members; s++) {
            const int64_t i = e * c->members + s, own = to * per_member + e;
            t.first[i] = own ? m[s].end[own - 1] : 0;
            t.begin[i] = (int32_t)t.n_rows;
            t.end[i] = (int32_t)(t.n_rows + m[s].end[own] - t.first[i]);
            t.n_rows = (t.end[i] + c->tile - 1) / c->tile * c->tile;
        }
    for (int s = 0; s < c->members; s++) {
        for (int64_t e = 0; e < per_member; e++)
            t.once[e * c->members + s] = (int32_t)t.n_packed;
        t.n_packed += m[s].n_first[to];
    }
    t.device = twins_on(d, t.begin, 4 * (size_t)n * sizeof(int32_t));
    return t;
}

/* A number for each row that `to` receives, or a row, from where the members have them. */
static inline void twins_collect(const struct twins_case *c, const struct twins_member *m,
                                 const struct twins_tables *t, bool twin, char *out)
{
    const int64_t each = twin ? (int64_t)sizeof(int32_t) : c->row_bytes;
    memset(out, 0, (size_t)(t->n_rows * each));
    for (int64_t i = 0; i < c->experts; i++) {
        const struct twins_member *from = &m[i % c->members];
        const char *rows = twin ? (const char *)from->twin : from->rows;
        memcpy(out + t->begin[i] * each, rows + t->first[i] * each,
               (size_t)((t->end[i] - t->begin[i]) * each));
    }
}

/* Where member s packs its first rows for each member; they then stand by sender at the receiver. */
static inline void twins_packed(const struct device *d, const struct twins_case *c, struct twins_member *m,
                                int to, char *out)
{
    const int64_t n = c->tokens * c->each, per_member = c->experts / c->members;
    char *const packed = d->allocate((size_t)(n * c->row_bytes) + 1);
    int32_t *const from = malloc((size_t)c->experts * sizeof *from);
    for (int s = 0; s < c->members; s++) {
        int32_t at = 0, mine = 0;
        for (int k = 0; k < c->members; k++) {
            mine = k == to ? at : mine;
            for (int64_t e = 0; e < per_member; e++)
                from[k * per_member + e] = at;
            at += m[s].n_first[k];
        }
        int32_t *const device_from = twins_on(d, from, (size_t)c->experts * sizeof *from);
        d->move(&(struct device_move){ .rows = m[s].device_rows,
                                       .packed = packed,
                                       .end = m[s].device_end,
                                       .from = device_from,
                                       .twin = m[s].device_twin,
                                       .n_segments = c->experts,
                                       .tile = 1,
                                       .n_rows = n,
                                       .row_bytes = c->row_bytes,
                                       .pack = true });
        d->get(out, packed + mine * c->row_bytes, (size_t)(m[s].n_first[to] * c->row_bytes));
        out += m[s].n_first[to] * c->row_bytes;
        d->release(device_from);
    }
    d->release(packed);
    free(from);
}

/* What `to` receives, packed or pulled (pull not NULL), against all copies. */
static inline void twins_try_member(const struct device *d, const struct twins_case *c,
                                    struct twins_member *m, int to, twins_pull *pull)
{
    const struct twins_tables t = twins_receive(d, c, m, to);
    const size_t bytes = (size_t)((t.n_rows + 3) * c->row_bytes);
    int32_t *twin = malloc((size_t)(t.n_rows + 1) * sizeof *twin);
    char *want = malloc(bytes), *got = malloc(bytes), *rows = d->allocate(bytes);
    char *packed = malloc((size_t)(t.n_packed * c->row_bytes) + 1);
    struct device_pull p = { .rows = rows,
                             .begin = t.device,
                             .end = t.device + c->experts,
                             .first = t.device + 2 * c->experts,
                             .n_segments = c->experts,
                             .each = 1,
                             .tile = c->tile,
                             .n_rows = t.n_rows,
                             .row_bytes = c->row_bytes,
                             .members = c->members };
    struct device_move v = { .rows = rows,
                             .end = p.end,
                             .from = t.device + 3 * c->experts,
                             .n_segments = c->experts,
                             .tile = c->tile,
                             .n_rows = t.n_rows,
                             .row_bytes = c->row_bytes };
    twins_collect(c, m, &t, true, (char *)twin);
    memset(want, 5, bytes); /* rows behind the last are left alone */
    d->put(rows, want, bytes);
    twins_collect(c, m, &t, false, want);
    int32_t *const device_twin = twins_on(d, twin, (size_t)t.n_rows * sizeof *twin);
    p.twin = v.twin = device_twin;
    for (int s = 0; s < c->members; s++)
        p.of[s] = m[s].device_rows;
    if (!pull)
        twins_packed(d, c, m, to, packed);
    v.packed = twins_on(d, packed, (size_t)(t.n_packed * c->row_bytes));
    if (pull)
        pull(&p);
    else
        d->move(&v);
    d->get(got, rows, bytes);
    EXPECTF(memcmp(got, want, bytes) == 0, "member %d of %d, %lld tokens, tile %lld", to, c->members,
            (long long)c->tokens, (long long)c->tile);
    d->release(rows), d->release(v.packed), d->release(device_twin), d->release(t.device);
    free(t.begin), free(twin), free(want), free(got), free(packed);
}

/* Returns how many rows travel, of tokens * each * members copies. */
static inline int64_t twins_try(const struct device *d, const struct twins_case *c, twins_pull *pull)
{
    struct twins_member m[DEVICE_MEMBERS];
    int64_t n = 0;
    for (int chain = 0; chain < 2; chain++) {
        for (int s = 0; s < c->members; s++) {
            if (!chain)
                m[s] = twins_make(d, c, s);
            twins_find(d, c, &m[s], chain);
            twins_judge(c, &m[s], chain);
        }
        for (int to = 0; to < c->members; to++) {
            for (int s = 0; s < c->members && chain; s++)
                n += m[s].n_first[to];
            twins_try_member(d, c, m, to, chain ? pull : NULL);
        }
    }
    for (int s = 0; s < c->members; s++)
        twins_free(d, &m[s]);
    return n;
}
