/* name_table.h - names to numbers (open addressing on XXH3), and the one order in which tensors are written. */
#pragma once
#include "base/arena.h"
#include <stdint.h>
struct name_table {
    int64_t n_slots;
    struct name_slot {
        const char *name; /* NULL = free; not copied */
        int64_t value;
    } * slot;
};
struct name_table name_table_new(struct arena *a, int64_t max_names);
int64_t name_table_find(const struct name_table *t, const char *name); /* -1 = absent */
/* Adds name; when it is there already its value is returned and kept, otherwise -1. */
int64_t name_table_add(struct name_table *t, const char *name, int64_t value);
/* Runs of digits compare as numbers (layers.2 before layers.10), anything else by bytes; total order. */
int name_compare(const char *x, const char *y);
