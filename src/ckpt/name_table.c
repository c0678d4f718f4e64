/* name_table.c - see name_table.h. */
#include "ckpt/name_table.h"
#include "base/err.h"
#include "base/hash.h"
#include <string.h>

struct name_table name_table_new(struct arena *a, int64_t max_names)
{
    int64_t n_slots = 8;
    while (n_slots < 2 * max_names)
        n_slots *= 2;
    return (struct name_table){ n_slots, ARENA_NEW(a, struct name_slot, n_slots) };
}

static struct name_slot *slot_of(const struct name_table *t, const char *name)
{
    const uint64_t mask = (uint64_t)t->n_slots - 1;
    for (uint64_t i = hash_text(name) & mask;; i = (i + 1) & mask)
        if (!t->slot[i].name || !strcmp(t->slot[i].name, name))
            return &t->slot[i];
}

int64_t name_table_find(const struct name_table *t, const char *name)
{
    const struct name_slot *s = slot_of(t, name);
    return s->name ? s->value : -1;
}

int64_t name_table_add(struct name_table *t, const char *name, int64_t value)
{
    struct name_slot *s = slot_of(t, name);
    CHECK(value >= 0, "value %lld", (long long)value);
    if (s->name)
        return s->value;
    *s = (struct name_slot){ name, value };
    return -1;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Compares two runs of digits as numbers of any length and steps over both. */
static int compare_numbers(const char **x, const char **y)
{
    while (**x == '0')
        ++*x;
    while (**y == '0')
        ++*y;
    const char *a = *x, *b = *y;
    while (is_digit(**x))
        ++*x;
    while (is_digit(**y))
        ++*y;
    const size_t a_digits = (size_t)(*x - a), b_digits = (size_t)(*y - b);
    if (a_digits != b_digits)
        return a_digits < b_digits ? -1 : 1;
    return memcmp(a, b, a_digits);
}

int name_compare(const char *x, const char *y)
{
    const char *a = x, *b = y;
    while (*a && *b) {
        if (is_digit(*a) && is_digit(*b)) {
            const int order = compare_numbers(&a, &b);
            if (order)
                return order;
        } else if (*a != *b) {
            break;
        } else {
            a++;
            b++;
        }
    }
    if (*a != *b)
        return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
    return strcmp(x, y); /* "a01" and "a1" */
}
