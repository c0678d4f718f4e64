/* embed.h - what embed and embed_part share on the CPU: y[t] = w[token[t]], of which rows [first, first + n) of `all` are
 * there; zero where the token has another row. Arguments: token [N], w [n D], y [N D]. */
#pragma once
#include "base/err.h"
#include "base/pool.h"
#include "ops/kernel.h"
#include <string.h>
struct embed_part {
    const struct call *c;
    int64_t n, first, all, tokens, width;
};
enum { EMBED_COLUMNS = 64 };

/* Row of w that token t has; -1: none here. */
static inline int64_t embed_row(const struct embed_part *p, int64_t t)
{
    const int64_t token = ((const int32_t *)p->c->arg[0])[t], row = token - p->first;
    CHECK(token >= 0 && token < p->all, "token %lld of %lld", (long long)token, (long long)p->all);
    return row >= 0 && row < p->n ? row : -1;
}

static inline void embed_rows(void *context, int64_t task)
{
    const struct embed_part *p = context;
    const float *w = p->c->arg[1];
    float *y = p->c->arg[2];
    const int64_t d = p->width;
    const struct span s = cut_span(p->tokens, cut_rows(d), task);
    for (int64_t t = s.from; t < s.to; t++) {
        const int64_t row = embed_row(p, t);
        if (row < 0)
            memset(y + t * d, 0, (size_t)d * sizeof *y);
        else
            memcpy(y + t * d, w + row * d, (size_t)d * sizeof *y);
    }
}

static inline void embed_forward(struct embed_part p)
{
    pool_run(cut_parts(p.tokens, cut_rows(p.width)), embed_rows, &p);
}

/* One task owns some columns of all rows of dw and adds the tokens in their order. */
static inline void embed_columns(void *context, int64_t task)
{
    const struct embed_part *p = context;
    const float *dy = p->c->grad[2];
    float *dw = p->c->grad[1];
    const int64_t d = p->width;
    const struct span s = cut_span(d, EMBED_COLUMNS, task);
    for (int64_t v = 0; v < p->n && !adds(p->c, 1); v++)
        memset(dw + v * d + s.from, 0, (size_t)(s.to - s.from) * sizeof *dw);
    for (int64_t t = 0; t < p->tokens; t++) {
        const int64_t row = embed_row(p, t);
        for (int64_t i = s.from; i < s.to && row >= 0; i++)
            dw[row * d + i] += dy[t * d + i];
    }
}

static inline void embed_backward(struct embed_part p)
{
    if (p.c->grad[1])
        pool_run(cut_parts(p.width, EMBED_COLUMNS), embed_columns, &p);
}
