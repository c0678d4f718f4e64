/* charset.h - immutable sets of Unicode code points: sorted, disjoint, non-adjacent ranges, ends included. */
#pragma once
#include "base/arena.h"
#include <stdbool.h>
#include <stdint.h>
#define CODE_POINT_MAX 0x10ffffu
struct range {
    uint32_t first, last;
};
struct charset {
    int64_t n;
    const struct range *range;
};
const struct charset *charset_of(struct arena *a, const struct range *ranges, int64_t n); /* in any order */
const struct charset *charset_one(struct arena *a, uint32_t c);
const struct charset *charset_union(struct arena *a, const struct charset *x, const struct charset *y);
const struct charset *charset_invert(struct arena *a, const struct charset *x);
bool charset_has(const struct charset *x, uint32_t c);
