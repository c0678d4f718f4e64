/* ref/head_part.c - lse of each part of the columns, the label's logit, 0 for what is elsewhere. logits keeps the last
 * chunk that was computed. */
#include "tests/ref/ref.h"
#include <math.h>
enum { X, W, LABEL, LSE, LOGIT, LOGITS, N = 0, D, P, C, M, ROWS, FIRST = 3 };

static double dot_of(const struct call *c, int64_t t, int64_t column)
{
    const double *x = (const double *)c->arg[X] + t * c->dim[D],
                 *w = (const double *)c->arg[W] + column * c->dim[D];
    double sum = 0;
    for (int64_t i = 0; i < c->dim[D]; i++)
        sum += x[i] * w[i];
    return sum;
}

/* log(sum exp(logit)) over the columns of part p of those here. */
static double lse_of(const struct call *c, int64_t t, int64_t p)
{
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < c->dim[C]; i++)
        top = fmax(top, dot_of(c, t, p * c->dim[C] + i));
    for (int64_t i = 0; i < c->dim[C]; i++)
        sum += exp(dot_of(c, t, p * c->dim[C] + i) - top);
    return top + log(sum);
}

static void fwd(const struct call *c)
{
    const int64_t first = (int64_t)c->attr[FIRST], columns = c->dim[P] * c->dim[C];
    for (int64_t t = 0; t < c->dim[N]; t++) {
        const int64_t at = ((const int32_t *)c->arg[LABEL])[t] - first * c->dim[C];
        for (int64_t j = 0; j < c->dim[M]; j++)
            ((double *)c->arg[LSE])[t * c->dim[M] + j] =
                j < first || j >= first + c->dim[P] ? 0 : lse_of(c, t, j - first);
        for (int64_t i = 0; i < columns; i++)
            ((double *)c->arg[LOGITS])[t % c->dim[ROWS] * columns + i] = dot_of(c, t, i);
        ((double *)c->arg[LOGIT])[t] =
            ((const int32_t *)c->arg[LABEL])[t] < 0 || at < 0 || at >= columns ? 0 : dot_of(c, t, at);
    }
}

static void bwd(const struct call *c)
{
    const int64_t d = c->dim[D], first = (int64_t)c->attr[FIRST], columns = c->dim[P] * c->dim[C];
    const int32_t *label = c->arg[LABEL];
    const double *x = c->arg[X], *w = c->arg[W], *dlse = c->grad[LSE], *dlogit = c->grad[LOGIT];
    double *dx = c->grad[X], *dw = c->grad[W];
    for (int64_t i = 0; i < c->dim[N] * d; i++)
        dx[i] = 0;
    for (int64_t i = 0; i < columns * d; i++)
        dw[i] = 0;
    for (int64_t t = 0; t < c->dim[N]; t++)
        for (int64_t p = 0; p < c->dim[P]; p++) {
            const double lse = lse_of(c, t, p);
            for (int64_t v = p * c->dim[C]; v < (p + 1) * c->dim[C]; v++) {
                const double g = dlse[t * c->dim[M] + first + p] * exp(dot_of(c, t, v) - lse) +
                                 (label[t] == first * c->dim[C] + v ? dlogit[t] : 0);
                for (int64_t i = 0; i < d; i++) {
                    dx[t * d + i] += g * w[v * d + i];
                    dw[v * d + i] += g * x[t * d + i];
                }
            }
        }
}

const struct ref ref_head_part = { "lse logit", "x w", fwd, bwd };
