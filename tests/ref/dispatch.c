/* ref/dispatch.c - row i holds the token of copy row[i], or zeros. */
#include "tests/ref/ref.h"
enum { X, ROW, PLACE, XS, N = 0, D, R, K };

static void fwd(const struct call *c)
{
    const int32_t *row = c->arg[ROW];
    const double *x = c->arg[X];
    double *xs = c->arg[XS];
    for (int64_t i = 0; i < c->dim[R]; i++)
        for (int64_t l = 0; l < c->dim[D]; l++)
            xs[i * c->dim[D] + l] = row[i] < 0 ? 0 : x[row[i] / c->dim[K] * c->dim[D] + l];
}

static void bwd(const struct call *c)
{
    const int32_t *row = c->arg[ROW];
    const double *dxs = c->grad[XS];
    double *dx = c->grad[X];
    for (int64_t i = 0; i < c->dim[N] * c->dim[D]; i++)
        dx[i] = 0;
    for (int64_t i = 0; i < c->dim[R]; i++)
        for (int64_t l = 0; l < c->dim[D] && row[i] >= 0; l++)
            dx[row[i] / c->dim[K] * c->dim[D] + l] += dxs[i * c->dim[D] + l];
}

const struct ref ref_dispatch = { "xs", "x", fwd, bwd };
