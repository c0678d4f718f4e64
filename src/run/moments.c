/* moments.c - see moments.h. */
#include "run/moments.h"

void moments_values(bool is_signed, float values[256])
{
    for (int code = 0; code < 256; code++)
        values[code] = adamw_code_value(is_signed, code);
}

/* The code whose value is nearest. */
static unsigned char nearest_code(const float values[256], float x)
{
    int low = 0, high = 255;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (values[middle] <= x)
            low = middle;
        else
            high = middle;
    }
    return (unsigned char)(x - values[low] <= values[high] - x ? low : high);
}

/* The scale under which these values are those of codes: 1 is one, the lowest is a little above -1; where the largest is
 * negative it had that code. */
static float scale_of(const float values[256], const float *x, int64_t n)
{
    float low = 0, high = 0;
    for (int64_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    return -low >= high && low < 0 ? low / values[0] : high;
}

float moments_encode(const float values[256], bool is_signed, const float *x, int64_t n, unsigned char *codes)
{
    const float scale = scale_of(values, x, n);
    for (int64_t i = 0; i < n; i++) {
        codes[i] = nearest_code(values, scale > 0 ? x[i] / scale : 0);
        if (!is_signed && x[i] > 0 && codes[i] == 0)
            codes[i] = 1; /* never 0: its step would be large */
    }
    return scale;
}
