/* place.c - see place.h. */
#include "sched/place.h"
#include <string.h>

enum { BLOCKS = 64, FEW = 2 /* blocks: with more, the list of all is shorter than theirs */ };

struct placed {
    int64_t at, end;
    int first, last;
};
struct placed_list { /* in the order of offsets */
    int n, capacity;
    struct placed *item;
};
struct places {
    struct arena *arena;
    int n_times;
    int64_t base;
    struct placed_list block[BLOCKS], all;
};

struct places *places_new(struct arena *a, int n_times, int64_t base)
{
    struct places *p = ARENA_NEW(a, struct places, 1);
    p->arena = a;
    p->n_times = n_times > 0 ? n_times : 1;
    p->base = base;
    return p;
}

static int block_of(const struct places *p, int moment)
{
    const int64_t b = (int64_t)moment * BLOCKS / p->n_times;
    return b < BLOCKS ? (int)b : BLOCKS - 1;
}

/* Lowest offset >= at that no item of a common lifetime covers. */
static int64_t lowest(const struct placed_list *l, int64_t at, int64_t bytes, int first, int last)
{
    for (int i = 0; i < l->n; i++) {
        const struct placed *c = &l->item[i];
        if (first > c->last || c->first > last)
            continue;
        if (at + bytes <= c->at)
            break;
        at = c->end > at ? c->end : at;
    }
    return at;
}

static void insert(struct arena *a, struct placed_list *l, struct placed x)
{
    int low = 0, high = l->n;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (l->item[middle].at <= x.at)
            low = middle + 1;
        else
            high = middle;
    }
    l->item = arena_grow(a, l->item, l->n, &l->capacity, 16, sizeof *l->item);
    memmove(l->item + low + 1, l->item + low, (size_t)(l->n++ - low) * sizeof x);
    l->item[low] = x;
}

int64_t places_put(struct places *p, int64_t bytes, int first, int last)
{
    const int from = block_of(p, first), to = block_of(p, last);
    int64_t at = p->base, before = -1;
    if (to - from >= FEW)
        at = lowest(&p->all, at, bytes, first, last);
    else
        while (at != before) { /* until all blocks agree */
            before = at;
            for (int b = from; b <= to; b++)
                at = lowest(&p->block[b], at, bytes, first, last);
        }
    const struct placed x = { at, at + bytes, first, last };
    insert(p->arena, &p->all, x);
    for (int b = from; b <= to; b++)
        insert(p->arena, &p->block[b], x);
    return at;
}
