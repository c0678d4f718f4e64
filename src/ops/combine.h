/* combine.h - what combine and combine_add share on the CPU. Both have z as argument 0 and the dimensions below. */
#pragma once
#include "base/pool.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { COMBINE_Z = 0, COMBINE_R = 0, COMBINE_N, COMBINE_D, COMBINE_K };
struct combine {
    int64_t n_rows, n_tokens, width, k;
    const int32_t *place; /* [n_tokens, k] */
    const float *z;       /* [n_rows, width] */
    const float *base;    /* [n_tokens, width], added to the sum of the rows; NULL = nothing */
    float *y;             /* [n_tokens, width] */
    const float *dy;
    float *dz;
};

/* base: that argument, -1 = none */
static inline struct combine combine_of(const struct call *c, int base, int place, int y)
{
    return (struct combine){ .n_rows = c->dim[COMBINE_R],
                             .n_tokens = c->dim[COMBINE_N],
                             .width = c->dim[COMBINE_D],
                             .k = c->dim[COMBINE_K],
                             .place = c->arg[place],
                             .z = c->arg[COMBINE_Z],
                             .base = base < 0 ? NULL : c->arg[base],
                             .y = c->arg[y],
                             .dy = c->grad[y],
                             .dz = c->grad[COMBINE_Z] };
}

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
