/* lexicon.h - a sorted list of byte strings that finds the longest entry at a place of a text. */
#pragma once
#include "base/arena.h"
#include <stdbool.h>
#include <stdint.h>
struct entry {
    const char *text;
    int32_t bytes, value;
};
struct lexicon {
    int32_t n, longest_bytes;
    struct entry *entry;    /* sorted by bytes; of equal texts the first given is kept */
    int32_t *shorter;       /* index of the longest entry that is a proper prefix; -1 */
    int32_t first[256 + 1]; /* entries that start with byte b: first[b] to first[b + 1] - 1 */
};
/* Entries are copied, their texts are not; empty texts are left out. */
void lexicon_make(struct arena *a, const struct entry *entries, int64_t n, struct lexicon *out);
int32_t lexicon_longest(const struct lexicon *x, const char *text, size_t bytes); /* index, or -1 */
