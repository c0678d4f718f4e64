/* source.c - see source.h. */
#include "run/source.h"
#include "base/pool.h"
#include <stdlib.h>
#include <string.h>
enum { ALIGN = 64, COPY_BYTES = 1 << 24 /* of a task */ };

void source_new(struct arena *a, const struct exec *x, struct source *s)
{
    *s = (struct source){ .arena = a, .exec = x, .from = SOURCE_WANT };
}

static void want(struct source *s, struct ref r, int64_t bytes)
{
    if (s->n == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 1024;
        struct extent *more = ARENA_NEW(s->arena, struct extent, s->capacity);
        if (s->n)
            memcpy(more, s->extent, (size_t)s->n * sizeof *more);
        s->extent = more;
    }
    s->extent[s->n++] = (struct extent){ .at = r, .bytes = bytes };
}

static int by_place(const void *x, const void *y)
{
    const struct extent *a = x, *b = y;
    if (a->at.buffer != b->at.buffer)
        return a->at.buffer < b->at.buffer ? -1 : 1;
    return (a->at.at_bytes > b->at.at_bytes) - (a->at.at_bytes < b->at.at_bytes);
}

static int64_t end_of(const struct extent *e)
{
    return e->at.at_bytes + e->bytes;
}

void source_sort(struct source *s)
{
    int64_t n = 0;
    if (s->n > 1)
        qsort(s->extent, (size_t)s->n, sizeof *s->extent, by_place);
    for (int64_t i = 0; i < s->n; i++) {
        const struct extent *e = &s->extent[i];
        struct extent *last = &s->extent[n - 1];
        if (n && last->at.buffer == e->at.buffer && e->at.at_bytes <= end_of(last))
            last->bytes += end_of(e) > end_of(last) ? end_of(e) - end_of(last) : 0;
        else
            s->extent[n++] = *e;
    }
    s->n = n;
    s->bytes = 0;
    for (int64_t i = 0; i < n; i++)
        s->bytes += (s->extent[i].bytes + ALIGN - 1) / ALIGN * ALIGN;
}

void source_reserve(struct source *s)
{
    char *at = s->memory = s->exec->device->host_allocate((size_t)s->bytes);
    for (int64_t i = 0; i < s->n; i++) {
        s->extent[i].copy = at;
        at += (s->extent[i].bytes + ALIGN - 1) / ALIGN * ALIGN;
    }
}

struct copy_job {
    char *to;
    const char *from;
    int64_t bytes;
};

static void copy_task(void *context, int64_t task)
{
    const struct copy_job *j = context;
    const int64_t at = task * COPY_BYTES, left = j->bytes - at;
    memcpy(j->to + at, j->from + at, (size_t)(left < COPY_BYTES ? left : COPY_BYTES));
}

void source_copy(struct source *s)
{
    const struct exec *x = s->exec;
    for (int64_t i = 0; i < s->n; i++) {
        const struct extent *e = &s->extent[i];
        struct copy_job j = { e->copy, exec_at(x, e->at), e->bytes };
        if (x->device->backend == CPU)
            pool_run((e->bytes + COPY_BYTES - 1) / COPY_BYTES, copy_task, &j);
        else
            exec_get(x, e->copy, e->at, e->bytes);
    }
    s->from = SOURCE_COPY;
}

void source_free(struct source *s)
{
    if (s->memory)
        s->exec->device->host_release(s->memory);
    s->memory = NULL;
}

static const void *in_copy(const struct source *s, struct ref r, int64_t bytes)
{
    int64_t lo = 0, hi = s->n; /* the last extent that begins at or before r */
    const struct extent key = { .at = r };
    while (lo < hi) {
        const int64_t middle = lo + (hi - lo) / 2;
        if (by_place(&s->extent[middle], &key) <= 0)
            lo = middle + 1;
        else
            hi = middle;
    }
    const struct extent *e = &s->extent[lo - 1];
    CHECK(lo > 0 && e->at.buffer == r.buffer && r.at_bytes + bytes <= end_of(e),
          "%lld bytes at %lld of buffer %d are not in the copy", (long long)bytes, (long long)r.at_bytes,
          r.buffer);
    return e->copy + (r.at_bytes - e->at.at_bytes);
}

const void *source_bytes(struct source *s, struct ref r, int64_t bytes, void *room)
{
    if (s->from == SOURCE_WANT) {
        want(s, r, bytes);
        return NULL;
    }
    if (s->from == SOURCE_COPY)
        return in_copy(s, r, bytes);
    if (s->exec->device->backend == CPU)
        return exec_at(s->exec, r);
    exec_get(s->exec, room, r, bytes);
    return room;
}
