/* head.h - what head_loss and head_part share on the CPU: products of a chunk of rows with the head, and a softmax in place.
 * Arguments 0 and 1 of both are x [N D] and w [V D]. */
#pragma once
#include "base/blas.h"
#include "ops/kernel.h"
#include "ops/vector.h"

/* logits [rows, v] = x w^T */
static inline void head_logits(const struct call *c, struct span rows, int64_t d, int64_t v, float *logits)
{
    gemm_panels(NO, TR, rows.to - rows.from, v, d, 1, (const float *)c->arg[0] + rows.from * d, d, c->arg[1],
                d, 0, logits, v);
}

/* dx = dlogits w, dw = dlogits^T x */
static inline void head_multiply(const struct call *c, struct span rows, int64_t d, int64_t v,
                                 const float *dlogits)
{
    const int64_t n = rows.to - rows.from;
    const float *x = (const float *)c->arg[0] + rows.from * d;
    if (c->grad[0])
        gemm_panels(NO, NO, n, d, v, 1, dlogits, v, c->arg[1], d, beta_of(c, 0),
                    (float *)c->grad[0] + rows.from * d, d);
    if (c->grad[1])
        gemm_panels(TR, NO, v, d, n, 1, dlogits, v, x, d, rows.from > 0 ? 1 : beta_of(c, 1), c->grad[1], d);
}

/* x = scale exp(x - lse) */
WIDE static void softmax_scaled(float *x, int64_t n, float lse, float scale)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = scale * vector_exp(x[i] - lse);
}
