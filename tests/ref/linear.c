/* ref/linear.c - y = x w^T. */
#include "tests/ref/ref.h"
enum { X, W, Y, N = 0, K, M };

static void fwd(const struct call *c)
{
    const int64_t n = c->dim[N], k = c->dim[K], m = c->dim[M];
    const double *x = c->arg[X], *w = c->arg[W];
    double *y = c->arg[Y];
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += x[i * k + l] * w[j * k + l];
            y[i * m + j] = sum;
        }
}

static void bwd(const struct call *c)
{
    const int64_t n = c->dim[N], k = c->dim[K], m = c->dim[M];
    const double *x = c->arg[X], *w = c->arg[W], *dy = c->grad[Y];
    double *dx = c->grad[X], *dw = c->grad[W];
    for (int64_t i = 0; i < n * k; i++)
        dx[i] = 0;
    for (int64_t i = 0; i < m * k; i++)
        dw[i] = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++)
            for (int64_t l = 0; l < k; l++) {
                dx[i * k + l] += dy[i * m + j] * w[j * k + l];
                dw[j * k + l] += dy[i * m + j] * x[i * k + l];
            }
}

const struct ref ref_linear = { "y", "x w", fwd, bwd };
