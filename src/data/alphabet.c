/* alphabet.c - partition of the code points by a list of sets. */
#include "base/err.h"
#include "data/dfa.h"
#include <stdlib.h>
#include <string.h>
enum { BLOCKS = (CODE_POINT_MAX >> 8) + 1 };

/* Refines the classes of all code points by one set: members of class k get a new class when class k also has
 * non-members. */
static bool refine(uint8_t *class, const struct charset *x, int64_t *total, int *n)
{
    int64_t inside[MOST_CLASSES] = { 0 };
    uint8_t renamed[MOST_CLASSES];
    for (int64_t i = 0; i < x->n; i++)
        for (uint32_t c = x->range[i].first; c <= x->range[i].last; c++)
            inside[class[c]]++;
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
    for (int64_t i = 0; i < x->n; i++)
        for (uint32_t c = x->range[i].first; c <= x->range[i].last; c++)
            class[c] = renamed[class[c]];
    return true;
}

/* Equal blocks of 256 are stored once. */
static void pack(struct arena *a, const uint8_t *class, struct alphabet *out)
{
    uint8_t(*unique)[256] = arena_array(a, BLOCKS, 256);
    uint16_t n = 0;
    for (int b = 0; b < BLOCKS; b++) {
        uint16_t i = 0;
        while (i < n && memcmp(unique[i], class + 256 * b, 256) != 0)
            i++;
        if (i == n)
            memcpy(unique[n++], class + 256 * b, 256);
        out->block[b] = i;
    }
    out->classes = (const uint8_t(*)[256])unique;
    memcpy(out->ascii, class, 128);
}

bool alphabet_make(struct arena *a, const struct charset *const *sets, int64_t n, struct alphabet *out)
{
    struct arena *scratch = arena_new("alphabet");
    uint8_t *class = arena_alloc(scratch, (size_t)CODE_POINT_MAX + 1);
    int64_t total[MOST_CLASSES] = { CODE_POINT_MAX + 1 };
    bool ok = true;
    out->n = 1;
    for (int64_t i = 0; i < n && ok; i++)
        ok = refine(class, sets[i], total, &out->n);
    if (ok)
        pack(a, class, out);
    arena_free(scratch);
    return ok;
}
