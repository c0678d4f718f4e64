/* Sets of characters and the classes made of them, against lists with one entry per code point. */
#include "base/rng.h"
#include "data/dfa.h"
#include "tests/test.h"
#include <stdlib.h>
enum { ALL = CODE_POINT_MAX + 1, N_SETS = 100 };

static uint32_t draw(uint64_t index, uint32_t below)
{
    return (uint32_t)(rng_uniform(7, 1, index) * below);
}

/* Up to 40 ranges in any order, overlapping, near each other or at the ends; short ones mostly. */
static const struct charset *random_set(struct arena *a, uint64_t seed, bool *member)
{
    struct range r[40];
    const int n = (int)draw(100 * seed, 41);
    const uint32_t below = seed % 3 == 0 ? ALL : seed % 3 == 1 ? 3000 : 200;
    memset(member, 0, ALL);
    for (int i = 0; i < n; i++) {
        const uint64_t at = 100 * seed + 2 * (uint64_t)i;
        const uint32_t first = i == 39 ? CODE_POINT_MAX : draw(at + 1, below), width = draw(at + 2, 300);
        r[i] = (struct range){ first, width < CODE_POINT_MAX - first ? first + width : CODE_POINT_MAX };
        memset(member + r[i].first, 1, r[i].last - r[i].first + 1);
    }
    return charset_of(a, r, n);
}

static void expect_members(const struct charset *x, const bool *member, const char *what)
{
    int64_t wrong = 0;
    for (uint32_t c = 0; c < ALL; c++)
        wrong += charset_has(x, c) != member[c];
    EXPECTF(wrong == 0, "%s: %lld characters are wrong", what, (long long)wrong);
    for (int64_t i = 1; i < x->n; i++)
        EXPECTF(x->range[i].first > x->range[i - 1].last + 1, "%s: ranges %lld touch", what, (long long)i);
}

TEST(sets)
{
    struct arena *a = arena_new("test");
    bool *p = arena_alloc(a, ALL), *q = arena_alloc(a, ALL);
    for (uint64_t i = 0; i < 12; i++) {
        const struct charset *x = random_set(a, 2 * i, p), *y = random_set(a, 2 * i + 1, q);
        expect_members(x, p, "of");
        expect_members(y, q, "of");
        for (uint32_t c = 0; c < ALL; c++)
            q[c] = q[c] || p[c];
        expect_members(charset_union(a, x, y), q, "union");
        for (uint32_t c = 0; c < ALL; c++)
            q[c] = !q[c];
        expect_members(charset_invert(a, charset_union(a, y, x)), q, "invert");
    }
    arena_free(a);
}

/* Characters of one class are in the same sets, those of two classes are not; returns the number of classes. */
static int expect_partition(struct arena *a, const struct charset *const *sets, bool (*member)[ALL], int n)
{
    struct alphabet b;
    char text[4];
    int64_t apart = 0;
    EXPECT(alphabet_make(a, sets, n, &b));
    for (uint32_t c = 0; c < ALL; c++) {
        if (c >= 0xd800 && c < 0xe000)
            continue; /* not in UTF-8 */
        utf8_put(text, c);
        const uint32_t example = b.example[alphabet_class(&b, text)];
        for (int i = 0; i < n; i++)
            apart += member[i][c] != member[i][example];
    }
    EXPECTF(apart == 0, "%lld characters are not in the sets of their class", (long long)apart);
    for (int x = 0; x < b.n; x++)
        for (int y = 0; y < x; y++) {
            int differ = 0;
            for (int i = 0; i < n; i++)
                differ += member[i][b.example[x]] != member[i][b.example[y]];
            EXPECTF(differ, "classes %d and %d are in the same sets", x, y);
        }
    return b.n;
}

TEST(classes)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    bool(*member)[ALL] = arena_array(a, N_SETS, sizeof *member);
    const struct charset *set[N_SETS];
    EXPECT_INT(expect_partition(a, NULL, member, 0), 1);
    for (int i = 0; i < 3; i++)
        set[i] = random_set(a, (uint64_t)i + 50, member[i]);
    EXPECT(expect_partition(a, set, member, 3) > 3);
    set[3] = set[0];
    memcpy(member[3], member[0], ALL);
    EXPECT_INT(expect_partition(a, set, member, 4), expect_partition(a, set, member, 3));
    const char *const properties[] = { "L", "N", "White_Space", "Han" };
    for (int i = 0; i < 4; i++) {
        set[i] = rx_property(a, properties[i], &e);
        for (uint32_t c = 0; c < ALL; c++)
            member[i][c] = charset_has(set[i], c);
    }
    EXPECT_INT(expect_partition(a, set, member, 4), 7); /* Han are letters, numbers and neither */
    for (int i = 0; i < N_SETS; i++) {                  /* more than the bits of a word */
        set[i] = charset_one(a, (uint32_t)i * 11000);
        memset(member[i], 0, ALL);
        member[i][i * 11000] = true;
    }
    EXPECT_INT(expect_partition(a, set, member, N_SETS), N_SETS + 1);
    arena_free(a);
}

TEST(too_many_classes_are_refused)
{
    struct arena *a = arena_new("test");
    const struct charset *set[MOST_CLASSES];
    struct alphabet b;
    for (uint32_t i = 0; i < MOST_CLASSES; i++)
        set[i] = charset_one(a, 2 * i);
    EXPECT(alphabet_make(a, set, MOST_CLASSES - 1, &b)); /* and one class for all others */
    EXPECT_INT(b.n, MOST_CLASSES);
    EXPECT(!alphabet_make(a, set, MOST_CLASSES, &b));
    arena_free(a);
}
