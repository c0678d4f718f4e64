/* norm.h - rows of RMS norm on the CPU: y = w x r, r = 1 / sqrt(mean(x^2) + eps); what rmsnorm and add_norm share. */
#pragma once
#include "base/num.h"
#include "ops/kernel.h"
#include "ops/vector.h"
/* y = w x r for one row of h elements */
static inline void norm_scale_row(float *y, const float *x, const float *w, float r, int64_t h)
{
    for (int64_t i = 0; i < h; i++)
        y[i] = w[i] * x[i] * r;
}
/* r of a row */
static inline float norm_of_row(const float *x, int64_t h, double eps)
{
    return 1 / sqrtf(dot(x, x, h) / (float)h + (float)eps);
}
/* Rows of a backward task; at most 32 tasks, so that their parts of dw stay small. */
static inline int64_t norm_bwd_rows(int64_t n)
{
    const int64_t even = cut_parts(n, 32);
    return even > 16 ? even : 16;
}
static inline int64_t norm_bwd_parts(int64_t n)
{
    return cut_parts(n, norm_bwd_rows(n));
}
/* dx (+)= the gradient of a row */
static inline void norm_bwd_row(float *dx, const float *dy, const float *x, const float *w, float r,
                                int64_t h, bool add)
{
    const float mean = vector_dot3(dy, w, x, h) * r / (float)h; /* of dy w x^, x^ = x r */
    if (add)
        for (int64_t i = 0; i < h; i++)
            dx[i] += r * (dy[i] * w[i] - x[i] * r * mean);
    else
        for (int64_t i = 0; i < h; i++)
            dx[i] = r * (dy[i] * w[i] - x[i] * r * mean);
}
/* What a row adds to dw */
static inline void norm_weight_row(float *dw, const float *dy, const float *x, float r, int64_t h)
{
    for (int64_t i = 0; i < h; i++)
        dw[i] += dy[i] * x[i] * r;
}
/* dw (+)= the tasks' parts [n_parts, h], in order */
static inline void norm_add_parts(float *dw, bool add, const float *part, int64_t n_parts, int64_t h)
{
    if (!add)
        memset(dw, 0, (size_t)h * sizeof *dw);
    for (int64_t p = 0; p < n_parts; p++)
        for (int64_t i = 0; i < h; i++)
            dw[i] += part[p * h + i];
}
