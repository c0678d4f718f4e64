/* rope.h - turning pairs on the CPU, for the operators that do it: (x[2i], x[2i+1]) by the angle whose cosine and sine
 * stand in a row of the table [positions, 2 half]: half cosines, then half sines. sign -1 turns back. */
#pragma once
#include "graph/op.h"
#include "ops/vector.h"

WIDE static void rope_turn(float *restrict y, const float *restrict x, const float *restrict table,
                           int64_t half, float sign)
{
    for (int64_t i = 0; i < half; i++) {
        const float cosine = table[i], sine = sign * table[half + i];
        y[2 * i] = x[2 * i] * cosine - x[2 * i + 1] * sine;
        y[2 * i + 1] = x[2 * i + 1] * cosine + x[2 * i] * sine;
    }
}

/* The same with y = x: a few pairs at a time leave their place first. */
static inline void rope_turn_in_place(float *x, const float *table, int64_t half, float sign)
{
    float held[LANES], angles[LANES];
    for (int64_t i = 0; i < half; i += LANES / 2) {
        const int64_t n = half - i < LANES / 2 ? half - i : LANES / 2;
        memcpy(held, x + 2 * i, (size_t)(2 * n) * sizeof *held);
        memcpy(angles, table + i, (size_t)n * sizeof *angles);
        memcpy(angles + n, table + half + i, (size_t)n * sizeof *angles);
        rope_turn(x + 2 * i, held, angles, n, sign);
    }
}

static inline void rope_turn_add(float *y, const float *x, const float *table, int64_t half, float sign)
{
    for (int64_t i = 0; i < half; i++) {
        const float cosine = table[i], sine = sign * table[half + i];
        y[2 * i] += x[2 * i] * cosine - x[2 * i + 1] * sine;
        y[2 * i + 1] += x[2 * i + 1] * cosine + x[2 * i] * sine;
    }
}

/* A table as models have it, for fill. */
static inline void rope_fill_table(float *table, int64_t positions, int64_t half)
{
    for (int64_t s = 0; s < positions; s++)
        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)s * pow(1e4, -(double)i / (double)half);
            table[s * 2 * half + i] = (float)cos(angle);
            table[s * 2 * half + half + i] = (float)sin(angle);
        }
}
