/* ref/add.c - z = x + y. */
#include "tests/ref/ref.h"
enum { X, Y, Z, N = 0, H };

static void fwd(const struct call *c)
{
    const double *x = c->arg[X], *y = c->arg[Y];
    double *z = c->arg[Z];
    for (int64_t i = 0; i < c->dim[N] * c->dim[H]; i++)
        z[i] = x[i] + y[i];
}

static void bwd(const struct call *c)
{
    const double *dz = c->grad[Z];
    double *dx = c->grad[X], *dy = c->grad[Y];
    for (int64_t i = 0; i < c->dim[N] * c->dim[H]; i++)
        dx[i] = dy[i] = dz[i];
}

const struct ref ref_add = { "z", "x y", fwd, bwd };
