/* lexicon.c */
#include "data/lexicon.h"
#include <stdlib.h>
#include <string.h>

static int compare_texts(const struct entry *x, const struct entry *y)
{
    const int32_t shorter = x->bytes < y->bytes ? x->bytes : y->bytes;
    const int order = memcmp(x->text, y->text, (size_t)shorter);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* qsort is not stable; the place in memory cannot serve, so the caller numbers the entries in `value` first. */
static int by_text(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;
    const int order = compare_texts(a, b);
    return order ? order : (a->value > b->value) - (a->value < b->value);
}

static bool is_prefix(const struct entry *x, const struct entry *y)
{
    return x->bytes < y->bytes && memcmp(x->text, y->text, (size_t)x->bytes) == 0;
}

/* In sorted order the prefixes of an entry are the entry before it, or prefixes of that one. */
static void link_prefixes(struct lexicon *x)
{
    for (int32_t i = 0; i < x->n; i++) {
        int32_t p = i - 1;
        while (p >= 0 && !is_prefix(x->entry + p, x->entry + i))
            p = x->shorter[p];
        x->shorter[i] = p;
    }
}

void lexicon_make(struct arena *a, const struct entry *entries, int64_t n, struct lexicon *out)
{
    *out = (struct lexicon){ .entry = ARENA_NEW(a, struct entry, n), .shorter = ARENA_NEW(a, int32_t, n) };
    int32_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (entries[i].bytes > 0)
            out->entry[kept++] = (struct entry){ entries[i].text, entries[i].bytes, (int32_t)i };
    qsort(out->entry, (size_t)kept, sizeof *out->entry, by_text);
    for (int32_t i = 0; i < kept; i++)
        if (out->n == 0 || compare_texts(out->entry + out->n - 1, out->entry + i) != 0)
            out->entry[out->n++] = out->entry[i];
    for (int32_t i = 0; i < out->n; i++) {
        struct entry *e = out->entry + i;
        e->value = entries[e->value].value;
        out->longest_bytes = e->bytes > out->longest_bytes ? e->bytes : out->longest_bytes;
        out->first[(unsigned char)e->text[0] + 1] = i + 1;
    }
    for (int b = 0; b < 256; b++)
        if (out->first[b + 1] < out->first[b])
            out->first[b + 1] = out->first[b];
    link_prefixes(out);
}

/* First of entries low..high-1, which agree on `depth` bytes and are longer, whose next byte is >= c. */
static int32_t lower_bound(const struct lexicon *x, int32_t low, int32_t high, int32_t depth, int c)
{
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if ((unsigned char)x->entry[middle].text[depth] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int32_t lexicon_longest(const struct lexicon *x, const char *text, size_t bytes)
{
    if (bytes == 0)
        return -1;
    int32_t low = x->first[(unsigned char)text[0]], high = x->first[(unsigned char)text[0] + 1], best = -1;
    for (int32_t depth = 1; low < high; depth++) {
        if (x->entry[low].bytes == depth)
            best = low++;
        if ((size_t)depth == bytes)
            break;
        const int c = (unsigned char)text[depth];
        low = lower_bound(x, low, high, depth, c);
        high = lower_bound(x, low, high, depth, c + 1);
    }
    return best;
}
