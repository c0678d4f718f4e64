/* alphabet.c - partition of the code points by a list of sets. Between two neighbouring borders of any set all
 * characters are alike, so the work is done on these intervals. */
#include "base/err.h"
#include "base/hash.h"
#include "data/dfa.h"
#include <stdlib.h>
#include <string.h>
enum { BLOCKS = (CODE_POINT_MAX >> 8) + 1, BLOCK_SLOTS = 1 << 13 };
struct intervals {
    int64_t n;
    uint32_t *first; /* ascending; [n] = CODE_POINT_MAX + 1 */
    uint8_t *class;
};

static int ascending(const void *x, const void *y)
{
    const uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

static struct intervals make_intervals(struct arena *a, const struct charset *const *sets, int64_t n)
{
    int64_t most = 2, m = 0;
    for (int64_t i = 0; i < n; i++)
        most += 2 * sets[i]->n;
    struct intervals x = { 0, ARENA_NEW(a, uint32_t, most), ARENA_NEW(a, uint8_t, most) };
    x.first[m++] = 0;
    x.first[m++] = CODE_POINT_MAX + 1;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < sets[i]->n; k++) {
            x.first[m++] = sets[i]->range[k].first;
            x.first[m++] = sets[i]->range[k].last + 1;
        }
    qsort(x.first, (size_t)m, sizeof *x.first, ascending);
    for (int64_t i = 0; i < m; i++)
        if (i == 0 || x.first[i] != x.first[x.n - 1])
            x.first[x.n++] = x.first[i];
    x.n--; /* the last one is the end */
    return x;
}

/* The interval that starts with c. */
static int64_t interval_at(const struct intervals *x, uint32_t c)
{
    int64_t low = 0, high = x->n;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (x->first[middle] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Refines the classes by one set: members of class k get a new class when class k also has non-members. */
static bool refine(struct intervals *x, const struct charset *set, int64_t *total, int *n)
{
    int64_t inside[MOST_CLASSES] = { 0 };
    uint8_t renamed[MOST_CLASSES];
    for (int64_t i = 0; i < set->n; i++)
        for (int64_t k = interval_at(x, set->range[i].first); x->first[k] <= set->range[i].last; k++)
            inside[x->class[k]]++;
    for (int k = 0, old = *n; k < old; k++) {
        renamed[k] = (uint8_t)k;
        if (inside[k] == 0 || inside[k] == total[k])
            continue;
        if (*n == MOST_CLASSES)
            return false;
        total[k] -= inside[k];
        total[*n] = inside[k];
        renamed[k] = (uint8_t)(*n)++;
    }
    for (int64_t i = 0; i < set->n; i++)
        for (int64_t k = interval_at(x, set->range[i].first); x->first[k] <= set->range[i].last; k++)
            x->class[k] = renamed[x->class[k]];
    return true;
}

/* Equal blocks of 256 are stored once. */
static void pack(struct arena *a, struct arena *scratch, const uint8_t *class, struct alphabet *out)
{
    uint8_t(*unique)[256] = arena_array(scratch, BLOCKS, 256);
    uint16_t n = 0, *slot = ARENA_NEW(scratch, uint16_t, BLOCK_SLOTS); /* index + 1 */
    for (int b = 0; b < BLOCKS; b++) {
        const uint8_t *block = class + 256 * b;
        uint64_t i = hash_bytes(block, 256) % BLOCK_SLOTS;
        while (slot[i] && memcmp(unique[slot[i] - 1], block, 256) != 0)
            i = (i + 1) % BLOCK_SLOTS;
        if (!slot[i]) {
            memcpy(unique[n++], block, 256);
            slot[i] = n;
        }
        out->block[b] = (uint16_t)(slot[i] - 1);
    }
    out->classes = memcpy(arena_array(a, n, 256), unique, (size_t)n * 256);
    memcpy(out->ascii, class, 128);
}

bool alphabet_make(struct arena *a, const struct charset *const *sets, int64_t n, struct alphabet *out)
{
    struct arena *scratch = arena_new("alphabet");
    struct intervals x = make_intervals(scratch, sets, n);
    int64_t total[MOST_CLASSES] = { x.n };
    bool ok = true;
    out->n = 1;
    for (int64_t i = 0; i < n && ok; i++)
        ok = refine(&x, sets[i], total, &out->n);
    if (ok) {
        uint8_t *class = arena_alloc(scratch, (size_t)CODE_POINT_MAX + 1);
        for (int64_t i = x.n; i-- > 0;) {
            memset(class + x.first[i], x.class[i], x.first[i + 1] - x.first[i]);
            out->example[x.class[i]] = x.first[i];
        }
        pack(a, scratch, class, out);
    }
    arena_free(scratch);
    return ok;
}
