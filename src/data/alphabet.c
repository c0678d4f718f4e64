/* alphabet.c - partition of the code points by a list of sets. Between two neighbouring borders of any set all
 * characters are alike, so the work is done on these intervals. */
#include "base/err.h"
#include "base/hash.h"
#include "data/dfa.h"
#include <string.h>
enum {
    BLOCKS = (CODE_POINT_MAX >> 8) + 1,
    BLOCK_WORDS = 256 / 64,
    BLOCK_SLOTS = 1 << 13,
    CLASS_SLOTS = 1 << 9
};
/* Interval i has the characters first[i] to first[i + 1] - 1. */
struct intervals {
    int64_t n;
    uint64_t *
        *border;      /* [BLOCKS] a bit for each of 256 characters: an interval starts there; NULL = no bit */
    int32_t *before;  /* [BLOCKS + 1] intervals that start in earlier blocks of 256 characters */
    uint32_t *first;  /* [n + 1] ascending; the last is CODE_POINT_MAX + 1 */
    uint64_t *change; /* [n + 1] bits of the sets that start or end there */
    uint8_t *class;   /* [n] */
};

static int ones(uint64_t bits)
{
    return __builtin_popcountll(bits);
}

static void add_border(struct arena *a, struct intervals *x, uint32_t c)
{
    if (c > CODE_POINT_MAX)
        return;
    if (!x->border[c >> 8])
        x->border[c >> 8] = ARENA_NEW(a, uint64_t, BLOCK_WORDS);
    x->border[c >> 8][c >> 6 & 3] |= (uint64_t)1 << (c & 63);
}

static void count_intervals(struct intervals *x)
{
    for (int b = 0; b < BLOCKS; b++) {
        for (int w = 0; x->border[b] && w < BLOCK_WORDS; w++)
            x->n += ones(x->border[b][w]);
        x->before[b + 1] = (int32_t)x->n;
    }
}

static void list_intervals(struct arena *a, struct intervals *x)
{
    int64_t m = 0;
    x->first = ARENA_NEW(a, uint32_t, x->n + 1);
    x->change = ARENA_NEW(a, uint64_t, x->n + 1);
    x->class = ARENA_NEW(a, uint8_t, x->n);
    for (int b = 0; b < BLOCKS; b++)
        for (int w = 0; x->border[b] && w < BLOCK_WORDS; w++)
            for (uint64_t left = x->border[b][w]; left; left &= left - 1)
                x->first[m++] = (uint32_t)(256 * b + 64 * w + __builtin_ctzll(left));
    x->first[m] = CODE_POINT_MAX + 1;
}

static struct intervals make_intervals(struct arena *a, const struct charset *const *sets, int64_t n)
{
    struct intervals x = { .border = ARENA_NEW(a, uint64_t *, BLOCKS),
                           .before = ARENA_NEW(a, int32_t, BLOCKS + 1) };
    add_border(a, &x, 0);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < sets[i]->n; k++) {
            add_border(a, &x, sets[i]->range[k].first);
            add_border(a, &x, sets[i]->range[k].last + 1);
        }
    count_intervals(&x);
    list_intervals(a, &x);
    return x;
}

/* The interval that starts with c; n behind the last character. */
static int64_t interval_at(const struct intervals *x, uint32_t c)
{
    const uint32_t word = c >> 6 & 3;
    if (c > CODE_POINT_MAX)
        return x->n;
    const uint64_t *border = x->border[c >> 8];
    int64_t k = x->before[c >> 8];
    for (uint32_t w = 0; w < word; w++)
        k += ones(border[w]);
    return k + ones(border[word] & (((uint64_t)1 << (c & 63)) - 1));
}

/* Classes by what makes them: the class before, and which of the sets at hand have its characters. */
struct classes {
    int n;
    struct slot {
        uint64_t sets;
        int before, class; /* class + 1; 0 where the slot is free */
    } slot[CLASS_SLOTS];
};

/* MOST_CLASSES when there is no number left. */
static int class_of(struct classes *c, int before, uint64_t sets)
{
    uint64_t i = (sets ^ sets >> 29 ^ (uint64_t)before << 32) * 0x9e3779b97f4a7c15u >> (64 - 9);
    for (; c->slot[i].class; i = (i + 1) % CLASS_SLOTS)
        if (c->slot[i].sets == sets && c->slot[i].before == before)
            return c->slot[i].class - 1;
    if (c->n == MOST_CLASSES)
        return MOST_CLASSES;
    c->slot[i] = (struct slot){ sets, before, ++c->n };
    return c->n - 1;
}

/* Refines the classes by up to 64 sets; classes are numbered in the order of their first characters. */
static bool refine(struct intervals *x, const struct charset *const *sets, int n_sets, int *n)
{
    struct classes classes = { 0 };
    uint64_t inside = 0;
    memset(x->change, 0, (size_t)(x->n + 1) * sizeof *x->change);
    for (int i = 0; i < n_sets; i++)
        for (int64_t k = 0; k < sets[i]->n; k++) {
            x->change[interval_at(x, sets[i]->range[k].first)] ^= (uint64_t)1 << i;
            x->change[interval_at(x, sets[i]->range[k].last + 1)] ^= (uint64_t)1 << i;
        }
    for (int64_t k = 0; k < x->n; k++) {
        inside ^= x->change[k];
        const int class = class_of(&classes, x->class[k], inside);
        if (class == MOST_CLASSES)
            return false;
        x->class[k] = (uint8_t) class;
    }
    *n = classes.n;
    return true;
}

/* Blocks that differ, in order of appearance. Most have one class: they are found by it. */
struct packer {
    struct arena *scratch;
    const struct intervals *x;
    uint8_t **unique, *next;                    /* [n] blocks of 256 classes; room for another one */
    uint16_t n, *slot, one_class[MOST_CLASSES]; /* index + 1; slot: by hash */
};

/* Writes the classes of block b, whose first character is in interval k. */
static void fill_block(const struct intervals *x, int b, int64_t k, uint8_t *block)
{
    const uint32_t start = (uint32_t)b * 256;
    for (uint32_t c = start; c < start + 256; k++) {
        const uint32_t end = x->first[k + 1] < start + 256 ? x->first[k + 1] : start + 256;
        memset(block + (c - start), x->class[k], end - c);
        c = end;
    }
}

/* Where the index + 1 of this block is, or belongs. */
static uint16_t *slot_of(const struct packer *p, const uint8_t *block)
{
    uint64_t i = hash_bytes(block, 256) % BLOCK_SLOTS;
    while (p->slot[i] && memcmp(p->unique[p->slot[i] - 1], block, 256) != 0)
        i = (i + 1) % BLOCK_SLOTS;
    return p->slot + i;
}

/* Index of the block with the classes of block b; a new one is kept. */
static uint16_t find_block(struct packer *p, int b)
{
    const struct intervals *x = p->x;
    const bool starts = x->border[b] && (x->border[b][0] & 1);
    const int64_t k = x->before[b] - !starts, last = x->before[b + 1] - 1;
    uint16_t *index = p->one_class + x->class[k];
    if (k < last || !*index)
        fill_block(x, b, k, p->next);
    if (k < last)
        index = slot_of(p, p->next);
    if (!*index) {
        p->unique[p->n] = p->next;
        p->next = arena_alloc(p->scratch, 256);
        *index = ++p->n;
    }
    return (uint16_t)(*index - 1);
}

/* Equal blocks of 256 are stored once. */
static void pack(struct arena *a, struct arena *scratch, const struct intervals *x, struct alphabet *out)
{
    struct packer p = { .scratch = scratch,
                        .x = x,
                        .unique = ARENA_NEW(scratch, uint8_t *, BLOCKS),
                        .next = arena_alloc(scratch, 256),
                        .slot = ARENA_NEW(scratch, uint16_t, BLOCK_SLOTS) };
    for (int b = 0; b < BLOCKS; b++)
        out->block[b] = find_block(&p, b);
    uint8_t(*classes)[256] = arena_array(a, p.n, sizeof *classes);
    for (int i = 0; i < p.n; i++)
        memcpy(classes[i], p.unique[i], sizeof *classes);
    out->classes = (const uint8_t(*)[256])classes;
    memcpy(out->ascii, classes[0], sizeof out->ascii);
}

bool alphabet_make(struct arena *a, const struct charset *const *sets, int64_t n, struct alphabet *out)
{
    struct arena *scratch = arena_new("alphabet");
    struct intervals x = make_intervals(scratch, sets, n);
    bool ok = true;
    out->n = 1;
    for (int64_t i = 0; i < n && ok; i += 64)
        ok = refine(&x, sets + i, n - i < 64 ? (int)(n - i) : 64, &out->n);
    if (ok) {
        for (int64_t i = x.n; i-- > 0;)
            out->example[x.class[i]] = x.first[i];
        pack(a, scratch, &x, out);
    }
    arena_free(scratch);
    return ok;
}
