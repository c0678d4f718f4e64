/* vector.h - exp() and row reductions that compilers vectorize without -ffast-math. The order of every sum is
 * fixed (64 partial sums, then a tree) and products are never contracted, so the clones of a WIDE function
 * give the same bits as its default version. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
/* Also compiled for wider registers, chosen when the program starts. Not under sanitizers, whose run time is
 * not up yet when the choice is made, and not by clang 14, which cannot combine it with "unused". */
#if defined __x86_64__ && !defined __clang__ && !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default"), unused))
#else
#define WIDE __attribute__((unused))
#endif
enum { LANES = 64, STEP = 16 };
/* e^x for float32, error below 2 ulp; NaN stays NaN; x < -87.3 gives at most 2^-125, x > 88.3 gives e^88.3.
 * e^x = 2^n e^r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds x / ln 2 to n and leaves n in the low bits. */
static inline float vector_exp(float x)
{
    const float clamped = x < -87.3f ? -87.3f : x > 88.3f ? 88.3f : x;
    const float shifted = clamped * 1.44269504f + 12582912.f, n = shifted - 12582912.f;
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    const float q =
        (((1.3926927e-3f * r + 8.3637739e-3f) * r + 4.1666550e-2f) * r + 1.6666573e-1f) * r + 0.5f;
    uint32_t bits;
    float power;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23; /* the 1.5 * 2^23 leaves through the top */
    memcpy(&power, &bits, sizeof power);
    return ((q * r) * r + r + 1) * power;
}
static inline float vector_sigmoid(float x)
{
    return 1 / (1 + vector_exp(-x));
}
static inline float lanes_sum(float *part)
{
    for (int w = LANES / 2; w > 0; w /= 2)
        for (int j = 0; j < w; j++)
            part[j] += part[j + w];
    return part[0];
}
/* Largest of n >= 1 elements; NaN are passed over (they show up in the sum of exponentials). */
WIDE static float vector_max(const float *x, int64_t n)
{
    float top[LANES];
    int64_t i = 0;
    for (int j = 0; j < LANES; j++)
        top[j] = x[0];
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            top[j] = x[i + j] > top[j] ? x[i + j] : top[j];
    for (; i + STEP <= n; i += STEP)
        for (int j = 0; j < STEP; j++)
            top[j] = x[i + j] > top[j] ? x[i + j] : top[j];
    for (; i < n; i++)
        top[0] = x[i] > top[0] ? x[i] : top[0];
    for (int w = LANES / 2; w > 0; w /= 2)
        for (int j = 0; j < w; j++)
            top[j] = top[j + w] > top[j] ? top[j + w] : top[j];
    return top[0];
}
/* x = exp(scale x - shift), returns its sum. */
WIDE static float vector_exp_sum(float *x, int64_t n, float scale, float shift)
{
    float part[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            part[j] += x[i + j] = vector_exp(scale * x[i + j] - shift);
    for (; i + STEP <= n; i += STEP)
        for (int j = 0; j < STEP; j++)
            part[j] += x[i + j] = vector_exp(scale * x[i + j] - shift);
    for (int j = 0; i < n; i++, j++)
        part[j] += x[i] = vector_exp(scale * x[i] - shift);
    return lanes_sum(part);
}
/* The sum of exp(x - shift). */
WIDE static float vector_sum_exp(const float *x, int64_t n, float shift)
{
    float part[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            part[j] += vector_exp(x[i + j] - shift);
    for (int j = 0; i < n; i++, j++)
        part[j] += vector_exp(x[i] - shift);
    return lanes_sum(part);
}
/* The sum of x y z. */
WIDE static float vector_dot3(const float *x, const float *y, const float *z, int64_t n)
{
    float part[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            part[j] += x[i + j] * y[i + j] * z[i + j];
    for (int j = 0; i < n; i++, j++)
        part[j] += x[i] * y[i] * z[i];
    return lanes_sum(part);
}
