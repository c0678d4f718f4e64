/* ref/combine_add.c - y_t = base_t + sum_j z[place_tj]. */
#include "tests/ref/ref.h"
enum { Z, BASE, ROW, PLACE, Y, R = 0, N, D, K };

static void fwd(const struct call *c)
{
    const int64_t d = c->dim[D], k = c->dim[K];
    const int32_t *place = c->arg[PLACE];
    const double *z = c->arg[Z], *base = c->arg[BASE];
    double *y = c->arg[Y];
    for (int64_t t = 0; t < c->dim[N]; t++)
        for (int64_t i = 0; i < d; i++) {
            y[t * d + i] = base[t * d + i];
            for (int64_t j = t * k; j < (t + 1) * k; j++)
                y[t * d + i] += z[place[j] * d + i];
        }
}

static void bwd(const struct call *c)
{
    const int64_t d = c->dim[D], k = c->dim[K];
    const int32_t *place = c->arg[PLACE];
    const double *dy = c->grad[Y];
    double *dz = c->grad[Z], *dbase = c->grad[BASE];
    for (int64_t i = 0; i < c->dim[N] * d; i++)
        dbase[i] = dy[i];
    for (int64_t i = 0; i < c->dim[R] * d; i++)
        dz[i] = 0;
    for (int64_t j = 0; j < c->dim[N] * k; j++)
        for (int64_t i = 0; i < d; i++)
            dz[place[j] * d + i] += dy[j / k * d + i];
}

const struct ref ref_combine_add = { "y", "z base", fwd, bwd };
