/* place.h - offsets for buffers with lifetimes: each gets the lowest one that nothing placed before it covers at the same
 * time. Time is cut into blocks, so that a buffer of a short life is compared with its contemporaries alone. */
#pragma once
#include "base/arena.h"
#include <stdint.h>
struct places;
/* Moments are 0 .. n_times - 1; offsets begin at base. All memory is the arena's. */
struct places *places_new(struct arena *a, int n_times, int64_t base);
/* The offset of a buffer that lives from moment `first` to `last`, both included. */
int64_t places_put(struct places *p, int64_t bytes, int first, int last);
