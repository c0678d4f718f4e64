/* ref/add_norm.c - s = x + y; z = w s r, r = (mean(s^2) + eps)^(-1/2). */
#include "tests/ref/ref.h"
#include <math.h>
enum { X, Y, W, S, Z, R, N = 0, H };

static void fwd(const struct call *c)
{
    const double *x = c->arg[X], *y = c->arg[Y], *w = c->arg[W];
    double *s = c->arg[S], *z = c->arg[Z], *r = c->arg[R];
    const int64_t h = c->dim[H];
    for (int64_t n = 0; n < c->dim[N]; n++) {
        double sum = 0;
        for (int64_t i = n * h; i < (n + 1) * h; i++) {
            s[i] = x[i] + y[i];
            sum += s[i] * s[i];
        }
        r[n] = 1 / sqrt(sum / (double)h + c->attr[0]);
        for (int64_t i = 0; i < h; i++)
            z[n * h + i] = w[i] * s[n * h + i] * r[n];
    }
}

/* dr/ds_i = -r^3 s_i / h; both summands get all of it */
static void bwd(const struct call *c)
{
    const double *w = c->arg[W], *s = c->arg[S], *r = c->arg[R], *ds = c->grad[S], *dz = c->grad[Z];
    double *dx = c->grad[X], *dy = c->grad[Y], *dw = c->grad[W];
    const int64_t h = c->dim[H];
    for (int64_t i = 0; i < h; i++)
        dw[i] = 0;
    for (int64_t n = 0; n < c->dim[N]; n++) {
        double dr = 0;
        for (int64_t i = 0; i < h; i++) {
            dw[i] += dz[n * h + i] * s[n * h + i] * r[n];
            dr += dz[n * h + i] * w[i] * s[n * h + i];
        }
        for (int64_t i = 0; i < h; i++) {
            const int64_t at = n * h + i;
            dx[at] = dy[at] = ds[at] + dz[at] * w[i] * r[n] - dr * pow(r[n], 3) * s[at] / (double)h;
        }
    }
}

const struct ref ref_add_norm = { "s z", "x y w", fwd, bwd };
