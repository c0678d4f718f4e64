/* ref/part_loss.c - nll = log(sum exp(lse)) - logit, 0 where the label is below 0. */
#include "tests/ref/ref.h"
#include <math.h>
enum { LSE, LOGIT, LABEL, NLL, N = 0, M };

static double lse_of(const struct call *c, int64_t t)
{
    const double *x = (const double *)c->arg[LSE] + t * c->dim[M];
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < c->dim[M]; i++)
        top = fmax(top, x[i]);
    for (int64_t i = 0; i < c->dim[M]; i++)
        sum += exp(x[i] - top);
    return top + log(sum);
}

static void fwd(const struct call *c)
{
    for (int64_t t = 0; t < c->dim[N]; t++)
        ((double *)c->arg[NLL])[t] =
            ((const int32_t *)c->arg[LABEL])[t] < 0 ? 0 : lse_of(c, t) - ((const double *)c->arg[LOGIT])[t];
}

static void bwd(const struct call *c)
{
    const int64_t m = c->dim[M];
    for (int64_t t = 0; t < c->dim[N]; t++) {
        const double dnll = ((const int32_t *)c->arg[LABEL])[t] < 0 ? 0 : ((const double *)c->grad[NLL])[t];
        for (int64_t i = 0; i < m; i++)
            ((double *)c->grad[LSE])[t * m + i] =
                dnll * exp(((const double *)c->arg[LSE])[t * m + i] - lse_of(c, t));
        ((double *)c->grad[LOGIT])[t] = -dnll;
    }
}

const struct ref ref_part_loss = { "nll", "lse logit", fwd, bwd };
