/* combine.h - the CPU kernels of combine and combine_add. */
#pragma once
#include "base/pool.h"
#include "ops/kernel.h"
struct combine {
    int64_t n_rows, n_tokens, width, k;
    const int32_t *place; /* [n_tokens, k] */
    const float *z;       /* [n_rows, width] */
    const float *base;    /* [n_tokens, width], added to the sum of the rows; NULL = nothing */
    float *y;             /* [n_tokens, width] */
    const float *dy;
    float *dz;
};

static inline void combine_sum_rows(void *context, int64_t task)
{
    const struct combine *m = context;
    const int64_t d = m->width, k = m->k;
    const struct span s = cut_span(m->n_tokens, cut_rows(d), task);
    for (int64_t t = s.from; t < s.to; t++) {
        float *y = m->y + t * d;
        memset(y, 0, (size_t)d * sizeof *y);
        for (int64_t j = t * k; j < (t + 1) * k; j++) {
            const float *from = m->z + m->place[j] * d;
            for (int64_t i = 0; i < d; i++)
                y[i] += from[i];
        }
        for (int64_t i = 0; i < d && m->base; i++)
            y[i] += m->base[t * d + i];
    }
}

/* y[t] = sum over j, in this order, of z[place[t,j]], + base[t] */
static inline void combine_sum(struct combine *m)
{
    pool_run(cut_parts(m->n_tokens, cut_rows(m->width)), combine_sum_rows, m);
}

static inline void combine_zero_rows(void *context, int64_t task)
{
    const struct combine *m = context;
    const struct span s = cut_span(m->n_rows, cut_rows(m->width), task);
    memset(m->dz + s.from * m->width, 0, (size_t)((s.to - s.from) * m->width) * sizeof *m->dz);
}

static inline void combine_spread_rows(void *context, int64_t task)
{
    const struct combine *m = context;
    const int64_t d = m->width, k = m->k;
    const struct span s = cut_span(m->n_tokens, cut_rows(d), task);
    for (int64_t j = s.from * k; j < s.to * k; j++)
        for (int64_t i = 0; i < d; i++)
            m->dz[m->place[j] * d + i] += m->dy[j / k * d + i]; /* no other copy has this row */
}

/* dz[place[t,j]] (+)= dy[t], and zeros in the rows that no copy has where nothing is added. dy = NULL: zeros. */
static inline void combine_spread(struct combine *m, bool add)
{
    if (!add)
        pool_run(cut_parts(m->n_rows, cut_rows(m->width)), combine_zero_rows, m);
    if (m->dy)
        pool_run(cut_parts(m->n_tokens, cut_rows(m->width)), combine_spread_rows, m);
}
