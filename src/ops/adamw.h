/* adamw.h - in which form AdamW keeps its states on CUDA, by two attributes of the operator. On the CPU all is
 * float32 and both are 0.
 *   master   where the bits are that a bfloat16 weight p lacks; `low` of the call holds them
 *     0  nowhere: a new weight is rounded at random, up with the probability that its mean is exact
 *     1  low is int16: p's bits << 16 plus low are the bits of the float32 master, and p is the master rounded to
 *        nearest (a tie away from zero). low = 0 is the master of any p.
 *     2  low is the float32 master; p is the master rounded to nearest, a tie to even
 *   moments  what m and v are; all bytes zero are moments of zero
 *     0  float32
 *     1  bfloat16, rounded at random
 *     2  a byte each: blocks of 256 elements from the call's first element on (arXiv 2110.02861). The n codes,
 *        rounded up to 16 bytes, then a float32 per block; the value is adamw_code_value() times that float
 * Random bits are Philox 4x32-7 of (control's step and seed, attribute `first` + element, which of p m v): they do
 * not depend on how the elements are divided among calls. 8-bit moments do not either when calls begin at multiples
 * of 256 elements. */
#pragma once
#include "base/num.h"
#include <stdbool.h>
#include <stdint.h>
#ifdef __CUDACC__
#define ADAMW_BOTH __host__ __device__
#else
#define ADAMW_BOTH
#endif
enum { ADAMW_BLOCK = 256, ADAMW_MINUS = 127 }; /* elements of a block; the code of 0 where there are signs */
int64_t adamw_state_bytes(int moments, int64_t n); /* of m, and of v */
int64_t adamw_low_bytes(int master, int64_t n);

/* Where the float32 of the blocks begin. */
ADAMW_BOTH static inline int64_t adamw_scales_at(int64_t n)
{
    return (n + 15) / 16 * 16;
}
/* Seven decades from 1e-7 to 1, the i-th cut into 2^i (m: codes 128.., and 126.. for the negative) or 2^(i+1) cells
 * (v: codes 1..); a code stands for the middle of its cell. 0 and 1 have codes of their own. A value gets the code of
 * its cell, 0 below 1e-7; a v that is not 0 gets at least code 1, since a v of 0 would make its step large. */
ADAMW_BOTH static inline float adamw_code_value(bool has_sign, int code)
{
    const int k = !has_sign ? code : code < ADAMW_MINUS ? ADAMW_MINUS - code : code - ADAMW_MINUS;
    const double at =
        has_sign ? 2 * k + 1 : k + 1.5; /* in units in which decade i spans 2^(i+1) from 2^(i+1) on */
    double top = 1e-6, span = 2;
    if (k == 0)
        return 0;
    if (k == (has_sign ? 128 : 255))
        return 1;
    for (; at >= 2 * span; span *= 2)
        top *= 10;
    const double magnitude = top * (0.1 + 0.9 * (at / span - 1));
    return (float)(has_sign && code < ADAMW_MINUS ? -magnitude : magnitude);
}
