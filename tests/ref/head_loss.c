/* ref/head_loss.c - nll = log(sum exp(logit)) - logit[label], 0 where the label is below 0. logits keeps the
 * last chunk that was computed. */
#include "tests/ref/ref.h"
#include <math.h>
enum { X, W, LABEL, NLL, LSE, LOGITS, N = 0, D, V, C };

static double logit(const struct call *c, int64_t t, int64_t v)
{
    const double *x = (const double *)c->arg[X] + t * c->dim[D],
                 *w = (const double *)c->arg[W] + v * c->dim[D];
    double sum = 0;
    for (int64_t i = 0; i < c->dim[D]; i++)
        sum += x[i] * w[i];
    return sum;
}

static void fwd(const struct call *c)
{
    const int32_t *label = c->arg[LABEL];
    double *logits = c->arg[LOGITS];
    for (int64_t t = 0; t < c->dim[N]; t++) {
        double *row = logits + t % c->dim[C] * c->dim[V], top = -INFINITY, sum = 0;
        for (int64_t v = 0; v < c->dim[V]; v++)
            top = fmax(top, row[v] = logit(c, t, v));
        for (int64_t v = 0; v < c->dim[V]; v++)
            sum += exp(row[v] - top);
        ((double *)c->arg[LSE])[t] = top + log(sum);
        ((double *)c->arg[NLL])[t] = label[t] < 0 ? 0 : top + log(sum) - row[label[t]];
    }
}

static void bwd(const struct call *c)
{
    const int64_t d = c->dim[D];
    const int32_t *label = c->arg[LABEL];
    const double *x = c->arg[X], *w = c->arg[W], *lse = c->arg[LSE], *dnll = c->grad[NLL];
    double *dx = c->grad[X], *dw = c->grad[W];
    for (int64_t i = 0; i < c->dim[N] * d; i++)
        dx[i] = 0;
    for (int64_t i = 0; i < c->dim[V] * d; i++)
        dw[i] = 0;
    for (int64_t t = 0; t < c->dim[N]; t++)
        for (int64_t v = 0; v < c->dim[V] && label[t] >= 0; v++) {
            const double dlogit = dnll[t] * (exp(logit(c, t, v) - lse[t]) - (v == label[t]));
            for (int64_t i = 0; i < d; i++) {
                dx[t * d + i] += dlogit * w[v * d + i];
                dw[v * d + i] += dlogit * x[t * d + i];
            }
        }
}

const struct ref ref_head_loss = { "nll", "x w", fwd, bwd };
