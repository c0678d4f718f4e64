/* num.c - conversions on the bits (no CPU extension needed, NaN payloads kept) and sums in fixed order. */
#include "base/num.h"
#include "base/err.h"
#include <string.h>
enum { PARTS = 16 };
static const struct {
    const char *name;
    size_t bytes;
} types[DTYPES] = { [F32] = { "F32", 4 }, [BF16] = { "BF16", 2 }, [F16] = { "F16", 2 }, [F64] = { "F64", 8 },
                    [I32] = { "I32", 4 }, [I64] = { "I64", 8 },   [U16] = { "U16", 2 }, [U8] = { "U8", 1 } };

size_t num_dtype_bytes(enum dtype t)
{
    CHECK((unsigned)t < DTYPES, "dtype %d", (int)t);
    return types[t].bytes;
}

const char *num_dtype_name(enum dtype t)
{
    CHECK((unsigned)t < DTYPES, "dtype %d", (int)t);
    return types[t].name;
}

int num_dtype_from(const char *name)
{
    for (int t = 0; t < DTYPES; t++)
        if (!strcmp(name, types[t].name))
            return t;
    return -1;
}

static inline uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float from_bf16(uint16_t x)
{
    return float_of((uint32_t)x << 16);
}

static inline uint16_t to_bf16(float x)
{
    const uint32_t u = bits_of(x), top = u >> 16;
    const uint32_t rounded = (u + 0x7fffu + (top & 1)) >> 16;
    const uint32_t nan =
        top | ((top & 0x7f) == 0 ? 0x40 : 0); /* the payload may lie in the dropped half only */
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

float num_from_bf16(uint16_t x)
{
    return from_bf16(x);
}

uint16_t num_to_bf16(float x)
{
    return to_bf16(x);
}

float num_from_f16(uint16_t x)
{
    const uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 0x3ff;
    if (exponent == 31)
        return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact in float */
        const float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

/* Drops `shift` bits of x, to nearest, ties to even. */
static uint32_t round_shift(uint32_t x, uint32_t shift)
{
    const uint32_t half = 1u << (shift - 1), rest = x & (2 * half - 1), kept = x >> shift;
    return kept + (rest > half || (rest == half && (kept & 1)));
}

uint16_t num_to_f16(float x)
{
    const uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    const uint32_t exponent = magnitude >> 23, fraction = magnitude & 0x7fffff;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7c00 | (fraction >> 13 ? fraction >> 13 : 0x200));
    if (exponent >= 143) /* 2^16 and above, infinity */
        return (uint16_t)(sign | 0x7c00);
    if (exponent >= 113) /* a carry of the rounding moves on into the exponent, as it must */
        return (uint16_t)(sign | round_shift(magnitude - (112u << 23), 13));
    if (exponent < 102) /* below half of the smallest subnormal, 2^-24 */
        return (uint16_t)sign;
    return (uint16_t)(sign | round_shift(fraction | 0x800000, 126 - exponent));
}

/* Elements of files may lie at odd addresses: memcpy loads and stores. */
static void halves_to_float(float *out, const char *in, enum dtype t, int64_t n)
{
    uint16_t x;
    if (t == BF16)
        for (int64_t i = 0; i < n; i++) {
            memcpy(&x, in + 2 * i, sizeof x);
            out[i] = from_bf16(x);
        }
    else
        for (int64_t i = 0; i < n; i++) {
            memcpy(&x, in + 2 * i, sizeof x);
            out[i] = num_from_f16(x);
        }
}

void num_to_float(float *out, const void *in, enum dtype t, int64_t n)
{
    CHECK(t == F32 || t == BF16 || t == F16, "dtype %d is not a float", (int)t);
    if (n <= 0)
        return;
    if (t == F32)
        memcpy(out, in, (size_t)n * sizeof *out);
    else
        halves_to_float(out, in, t, n);
}

static void float_to_halves(char *out, const float *in, enum dtype t, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint16_t x = t == BF16 ? to_bf16(in[i]) : num_to_f16(in[i]);
        memcpy(out + 2 * i, &x, sizeof x);
    }
}

void num_from_float(void *out, const float *in, enum dtype t, int64_t n)
{
    CHECK(t == F32 || t == BF16 || t == F16, "dtype %d is not a float", (int)t);
    if (n <= 0)
        return;
    if (t == F32)
        memcpy(out, in, (size_t)n * sizeof *in);
    else
        float_to_halves(out, in, t, n);
}

float dot(const float *x, const float *y, int64_t n)
{
    float part[PARTS] = { 0 };
    int64_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (int j = 0; j < PARTS; j++)
            part[j] += x[i + j] * y[i + j];
    for (int j = 0; i < n; i++, j++)
        part[j] += x[i] * y[i];
    for (int half = PARTS / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            part[j] += part[j + half];
    return part[0];
}

double num_sum_squares(const float *x, int64_t n)
{
    double part[PARTS] = { 0 };
    int64_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (int j = 0; j < PARTS; j++)
            part[j] += (double)x[i + j] * (double)x[i + j];
    for (int j = 0; i < n; i++, j++)
        part[j] += (double)x[i] * (double)x[i];
    for (int half = PARTS / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            part[j] += part[j + half];
    return part[0];
}

static int64_t count_nonfinite(const float *x, int64_t n)
{
    int bad = 0;
    for (int64_t i = 0; i < n; i++)
        bad += (bits_of(x[i]) & 0x7f800000u) == 0x7f800000u;
    return bad;
}

int64_t num_first_nonfinite(const float *x, int64_t n)
{
    const int64_t chunk = 4096; /* counting vectorizes, stopping does not */
    for (int64_t i = 0; i < n; i += chunk) {
        const int64_t m = n - i < chunk ? n - i : chunk;
        if (count_nonfinite(x + i, m) == 0)
            continue;
        for (int64_t j = i; j < i + m; j++)
            if (count_nonfinite(x + j, 1))
                return j;
    }
    return -1;
}
