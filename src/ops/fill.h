/* fill.h - valid integer inputs for tests, bench and profile, from (seed, what, index). */
#pragma once
#include "base/rng.h"
#include <math.h>
#include <stdint.h>
static inline int64_t fill_below(int64_t n, uint64_t seed, int64_t index)
{
    return (int64_t)(rng_u64(seed, (uint64_t)n, (uint64_t)index) % (uint64_t)n);
}
/* k different experts of e for each of n tokens; low numbers are chosen more often. */
static inline void fill_top(int32_t *top, int64_t n, int64_t k, int64_t e, uint64_t seed)
{
    for (int64_t t = 0; t < n; t++)
        for (int64_t j = 0; j < k; j++) {
            const double u = rng_uniform(seed, 1, (uint64_t)(t * k + j));
            int64_t choice = (int64_t)(u * u * (double)e);
            for (int64_t i = 0; i < j; i++)
                if (top[t * k + i] == choice) {
                    choice = (choice + 1) % e;
                    i = -1;
                }
            top[t * k + j] = (int32_t)choice;
        }
}
static inline int64_t fill_divisor(int64_t a, int64_t b) /* greatest common */
{
    while (b) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}
/* Different rows of r for m copies: multiples of a number that has no factor in common with r. */
static inline void fill_place(int32_t *place, int64_t m, int64_t r, uint64_t seed)
{
    const int64_t first = fill_below(r, seed, 1);
    int64_t step = 1 + fill_below(r, seed, 0);
    while (fill_divisor(r, step) != 1)
        step = step % r + 1;
    for (int64_t i = 0; i < m; i++)
        place[i] = (int32_t)((first + i * step) % r);
}
/* The same, and which copy is in each of the r rows: -1 where none is. */
static inline void fill_rows(int32_t *row, int32_t *place, int64_t m, int64_t r, uint64_t seed)
{
    fill_place(place, m, r, seed);
    for (int64_t i = 0; i < r; i++)
        row[i] = -1;
    for (int64_t i = 0; i < m; i++)
        row[place[i]] = (int32_t)i;
}
/* Segment ends of e experts with s sources each in at most r rows: segment i has a random part of what the
 * others may still need; every third segment is empty. */
static inline void fill_end(int32_t *end, int64_t n_segments, int64_t r, int64_t tile, uint64_t seed)
{
    int64_t at = 0;
    for (int64_t i = 0; i < n_segments; i++) {
        const int64_t begin = (at + tile - 1) / tile * tile, left = r - begin;
        const int64_t part = left <= 0 || i % 3 == 2 ? 0 : i + 1 == n_segments ? left : left / 2 + 1;
        at = begin < r ? begin : r;
        at += part > 0 ? fill_below(part + 1, seed, i) : 0;
        end[i] = (int32_t)at;
    }
}
