/* ref/attention_gqa.c - softmax(scale q k^T) v per query head over the positions up to the query's own; query head i
 * reads the keys and values of head i / m. */
#include "tests/ref/ref.h"
#include <math.h>
#include <stdlib.h>
enum { QUERY, KEY, VALUE, O, LSE, B = 0, S, G, X, H, M };

static int64_t at_q(const struct call *c, int64_t b, int64_t s, int64_t a)
{
    return ((b * c->dim[S] + s) * c->dim[G] * c->dim[M] + a) * c->dim[H];
}

static int64_t at_k(const struct call *c, int64_t b, int64_t s, int64_t a)
{
    return ((b * c->dim[S] + s) * c->dim[G] + a / c->dim[M]) * c->dim[H];
}

static double product(const double *x, const double *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* Probabilities of the keys that query s of head a sees; freed by the caller. */
static double *weights(const struct call *c, int64_t b, int64_t a, int64_t s, double *lse)
{
    double *x = calloc((size_t)s + 1, sizeof *x), top = -INFINITY, sum = 0;
    for (int64_t t = 0; t <= s; t++) {
        x[t] = c->attr[3] * product((double *)c->arg[QUERY] + at_q(c, b, s, a),
                                    (double *)c->arg[KEY] + at_k(c, b, t, a), c->dim[H]);
        top = fmax(top, x[t]);
    }
    for (int64_t t = 0; t <= s; t++)
        sum += exp(x[t] - top);
    *lse = top + log(sum);
    for (int64_t t = 0; t <= s; t++)
        x[t] = exp(x[t] - *lse);
    return x;
}

static void fwd_row(const struct call *c, int64_t b, int64_t a, int64_t s)
{
    double *o = (double *)c->arg[O] + at_q(c, b, s, a);
    double *p = weights(c, b, a, s, (double *)c->arg[LSE] + (b * c->dim[G] * c->dim[M] + a) * c->dim[S] + s);
    for (int64_t i = 0; i < c->dim[H]; i++) {
        o[i] = 0;
        for (int64_t t = 0; t <= s; t++)
            o[i] += p[t] * ((double *)c->arg[VALUE])[at_k(c, b, t, a) + i];
    }
    free(p);
}

static void bwd_row(const struct call *c, int64_t b, int64_t a, int64_t s)
{
    const int64_t q0 = at_q(c, b, s, a), h = c->dim[H];
    const double *q = (double *)c->arg[QUERY] + q0, *d_o = (double *)c->grad[O] + q0;
    double lse, mean = 0, *dq = (double *)c->grad[QUERY] + q0, *p = weights(c, b, a, s, &lse);
    for (int64_t t = 0; t <= s; t++)
        mean += p[t] * product(d_o, (double *)c->arg[VALUE] + at_k(c, b, t, a), h);
    for (int64_t t = 0; t <= s; t++) {
        const int64_t k0 = at_k(c, b, t, a);
        const double *k = (double *)c->arg[KEY] + k0, *v = (double *)c->arg[VALUE] + k0;
        const double d_score = c->attr[3] * p[t] * (product(d_o, v, h) - mean);
        for (int64_t i = 0; i < h; i++) {
            dq[i] += d_score * k[i];
            ((double *)c->grad[KEY])[k0 + i] += d_score * q[i];
            ((double *)c->grad[VALUE])[k0 + i] += p[t] * d_o[i];
        }
    }
    free(p);
}

static void all(const struct call *c, void (*row)(const struct call *, int64_t, int64_t, int64_t))
{
    for (int64_t b = 0; b < c->dim[B]; b++)
        for (int64_t a = 0; a < c->dim[G] * c->dim[M]; a++)
            for (int64_t s = 0; s < c->dim[S]; s++)
                row(c, b, a, s);
}

static void fwd(const struct call *c)
{
    all(c, fwd_row);
}

static void bwd(const struct call *c)
{
    const int64_t n = c->dim[B] * c->dim[S] * c->dim[G];
    for (int64_t i = 0; i < n * c->dim[X]; i++)
        ((double *)c->grad[QUERY])[i] = 0;
    for (int64_t i = 0; i < n * c->dim[H]; i++)
        ((double *)c->grad[KEY])[i] = ((double *)c->grad[VALUE])[i] = 0;
    all(c, bwd_row);
}

const struct ref ref_attention_gqa = { "o", "q k v", fwd, bwd };
