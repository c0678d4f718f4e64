/* ref/rmsnorm.c - y = w x r, r = (mean(x^2) + eps)^(-1/2). */
#include "tests/ref/ref.h"
#include <math.h>
enum { X, W, Y, R, N = 0, H };

static void fwd(const struct call *c)
{
    const double *x = c->arg[X], *w = c->arg[W];
    double *y = c->arg[Y], *r = c->arg[R];
    for (int64_t n = 0, h = c->dim[H]; n < c->dim[N]; n++, x += h, y += h) {
        double sum = 0;
        for (int64_t i = 0; i < h; i++)
            sum += x[i] * x[i];
        r[n] = 1 / sqrt(sum / (double)h + c->attr[0]);
        for (int64_t i = 0; i < h; i++)
            y[i] = w[i] * x[i] * r[n];
    }
}

/* dr/dx_i = -r^3 x_i / h */
static void bwd(const struct call *c)
{
    const double *x = c->arg[X], *w = c->arg[W], *r = c->arg[R], *dy = c->grad[Y];
    double *dx = c->grad[X], *dw = c->grad[W];
    for (int64_t i = 0; i < c->dim[H]; i++)
        dw[i] = 0;
    for (int64_t n = 0, h = c->dim[H]; n < c->dim[N]; n++, x += h, dy += h, dx += h) {
        double dr = 0;
        for (int64_t i = 0; i < h; i++) {
            dw[i] += dy[i] * x[i] * r[n];
            dr += dy[i] * w[i] * x[i];
        }
        for (int64_t i = 0; i < h; i++)
            dx[i] = dy[i] * w[i] * r[n] - dr * pow(r[n], 3) * x[i] / (double)h;
    }
}

const struct ref ref_rmsnorm = { "y", "x w", fwd, bwd };
