/* charset.c */
#include "data/charset.h"
#include <stdlib.h>
#include <string.h>

static int by_first(const void *x, const void *y)
{
    const uint32_t a = ((const struct range *)x)->first, b = ((const struct range *)y)->first;
    return (a > b) - (a < b);
}

/* A set of ranges in ascending order; takes the array. */
static const struct charset *of_sorted(struct arena *a, struct range *r, int64_t n)
{
    struct charset *s = ARENA_NEW(a, struct charset, 1);
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        if (m && r[i].first <= r[m - 1].last + 1)
            r[m - 1].last = r[i].last > r[m - 1].last ? r[i].last : r[m - 1].last;
        else
            r[m++] = r[i];
    }
    *s = (struct charset){ m, r };
    return s;
}

const struct charset *charset_of(struct arena *a, const struct range *ranges, int64_t n)
{
    struct range *r = ARENA_NEW(a, struct range, n);
    if (n)
        memcpy(r, ranges, (size_t)n * sizeof *r);
    qsort(r, (size_t)n, sizeof *r, by_first);
    return of_sorted(a, r, n);
}

const struct charset *charset_one(struct arena *a, uint32_t c)
{
    return charset_of(a, &(struct range){ c, c }, 1);
}

const struct charset *charset_union(struct arena *a, const struct charset *x, const struct charset *y)
{
    struct range *r = ARENA_NEW(a, struct range, x->n + y->n);
    int64_t i = 0, k = 0;
    while (i < x->n || k < y->n) {
        const bool from_x = k == y->n || (i < x->n && x->range[i].first < y->range[k].first);
        r[i + k] = from_x ? x->range[i] : y->range[k];
        *(from_x ? &i : &k) += 1;
    }
    return of_sorted(a, r, i + k);
}

const struct charset *charset_invert(struct arena *a, const struct charset *x)
{
    struct range *r = ARENA_NEW(a, struct range, x->n + 1);
    int64_t n = 0;
    uint32_t next = 0;
    for (int64_t i = 0; i < x->n; i++) {
        if (x->range[i].first > next)
            r[n++] = (struct range){ next, x->range[i].first - 1 };
        next = x->range[i].last + 1;
    }
    if (next <= CODE_POINT_MAX)
        r[n++] = (struct range){ next, CODE_POINT_MAX };
    return of_sorted(a, r, n);
}

bool charset_has(const struct charset *x, uint32_t c)
{
    int64_t low = 0, high = x->n;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (x->range[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < x->n && x->range[low].first <= c;
}
