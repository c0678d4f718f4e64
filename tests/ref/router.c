/* ref/router.c - softmax over all experts; the best k of them, or of the best groups; their gates. */
#include "tests/ref/ref.h"
#include <math.h>
enum { X, W, PROB, TOP, GATE, N = 0, D, E, K };
enum { A_K, A_GROUPS, A_TOPK_GROUPS, A_NORM, A_SCALING };

static void softmax(const struct call *c, int64_t t)
{
    const double *x = (const double *)c->arg[X] + t * c->dim[D], *w = c->arg[W];
    double *p = (double *)c->arg[PROB] + t * c->dim[E], top = -INFINITY, sum = 0;
    for (int64_t e = 0; e < c->dim[E]; e++) {
        p[e] = 0;
        for (int64_t i = 0; i < c->dim[D]; i++)
            p[e] += x[i] * w[e * c->dim[D] + i];
        top = fmax(top, p[e]);
    }
    for (int64_t e = 0; e < c->dim[E]; e++)
        sum += p[e] = exp(p[e] - top);
    for (int64_t e = 0; e < c->dim[E]; e++)
        p[e] /= sum;
}

static double group_worth(const struct call *c, const double *p, int64_t g)
{
    const int64_t each = c->dim[E] / (int64_t)c->attr[A_GROUPS];
    double worth = 0;
    for (int64_t e = g * each; e < (g + 1) * each; e++)
        worth = fmax(worth, p[e]);
    return worth;
}

/* Whether e takes part: fewer than topk_groups groups come before its own. */
static int takes_part(const struct call *c, const double *p, int64_t e)
{
    const int64_t groups = (int64_t)c->attr[A_GROUPS];
    if (groups <= 1)
        return 1;
    const int64_t mine = e / (c->dim[E] / groups);
    int64_t before = 0;
    for (int64_t g = 0; g < groups; g++) {
        const double other = group_worth(c, p, g), own = group_worth(c, p, mine);
        before += other > own || (other == own && g < mine);
    }
    return before < (int64_t)c->attr[A_TOPK_GROUPS];
}

/* e is number j of the list when j experts that take part come before it. */
static void choose(const struct call *c, int64_t t)
{
    const double *p = (const double *)c->arg[PROB] + t * c->dim[E];
    for (int64_t e = 0; e < c->dim[E]; e++) {
        int64_t before = 0;
        if (!takes_part(c, p, e))
            continue;
        for (int64_t i = 0; i < c->dim[E]; i++)
            before += takes_part(c, p, i) && (p[i] > p[e] || (p[i] == p[e] && i < e));
        if (before < c->dim[K])
            ((int32_t *)c->arg[TOP])[t * c->dim[K] + before] = (int32_t)e;
    }
}

static double chosen_sum(const struct call *c, int64_t t)
{
    const int32_t *top = (const int32_t *)c->arg[TOP] + t * c->dim[K];
    double sum = 1e-20;
    for (int64_t j = 0; j < c->dim[K]; j++)
        sum += ((const double *)c->arg[PROB])[t * c->dim[E] + top[j]];
    return sum;
}

static int normalizes(const struct call *c)
{
    return c->attr[A_NORM] != 0 && c->dim[K] > 1;
}

static void fwd(const struct call *c)
{
    for (int64_t t = 0; t < c->dim[N]; t++) {
        softmax(c, t);
        choose(c, t);
        for (int64_t j = t * c->dim[K]; j < (t + 1) * c->dim[K]; j++) {
            const double p =
                ((const double *)c->arg[PROB])[t * c->dim[E] + ((const int32_t *)c->arg[TOP])[j]];
            ((double *)c->arg[GATE])[j] = normalizes(c) ? p / chosen_sum(c, t) : p * c->attr[A_SCALING];
        }
    }
}

/* Gradient of prob[t, e], from prob itself and from every gate that depends on it. */
static double dprob(const struct call *c, int64_t t, int64_t e)
{
    const int64_t k = c->dim[K];
    const int32_t *top = (const int32_t *)c->arg[TOP] + t * k;
    const double *p = (const double *)c->arg[PROB] + t * c->dim[E], sum = chosen_sum(c, t);
    const double *dgate = (const double *)c->grad[GATE] + t * k;
    double d = ((const double *)c->grad[PROB])[t * c->dim[E] + e];
    int chosen = 0;
    for (int64_t j = 0; j < k; j++)
        chosen |= top[j] == e;
    for (int64_t j = 0; j < k && chosen; j++)
        if (normalizes(c))
            d += dgate[j] * ((top[j] == e) / sum - p[top[j]] / (sum * sum));
        else
            d += dgate[j] * (top[j] == e) * c->attr[A_SCALING];
    return d;
}

static void bwd(const struct call *c)
{
    const int64_t n = c->dim[N], d = c->dim[D], n_e = c->dim[E];
    const double *x = c->arg[X], *w = c->arg[W], *p = c->arg[PROB];
    double *dx = c->grad[X], *dw = c->grad[W];
    for (int64_t i = 0; i < n * d; i++)
        dx[i] = 0;
    for (int64_t i = 0; i < n_e * d; i++)
        dw[i] = 0;
    for (int64_t t = 0; t < n; t++) {
        double mean = 0;
        for (int64_t e = 0; e < n_e; e++)
            mean += p[t * n_e + e] * dprob(c, t, e);
        for (int64_t e = 0; e < n_e; e++)
            for (int64_t i = 0; i < d; i++) {
                const double dlogit = p[t * n_e + e] * (dprob(c, t, e) - mean);
                dx[t * d + i] += dlogit * w[e * d + i];
                dw[e * d + i] += dlogit * x[t * d + i];
            }
    }
}

const struct ref ref_router = { "prob gate", "x w", fwd, bwd };
