/* ref/gate_up.c - h = [Wg x | Wu x], y = silu(Wg x) (Wu x). */
#include "tests/ref/ref.h"
#include <math.h>
enum { X, W, HID, Y, N = 0, D, G, F };

static void fwd(const struct call *c)
{
    const int64_t d = c->dim[D], f = c->dim[F];
    const double *x = c->arg[X], *w = c->arg[W];
    double *h = c->arg[HID], *y = c->arg[Y];
    for (int64_t n = 0; n < c->dim[N]; n++, x += d, h += 2 * f, y += f) {
        for (int64_t j = 0; j < 2 * f; j++) {
            h[j] = 0;
            for (int64_t i = 0; i < d; i++)
                h[j] += w[j * d + i] * x[i];
        }
        for (int64_t j = 0; j < f; j++)
            y[j] = h[j] / (1 + exp(-h[j])) * h[f + j];
    }
}

static double dh(const double *h, const double *dy, int64_t f, int64_t j)
{
    const double gate = h[j % f], up = h[f + j % f], e = exp(-gate);
    return j < f ? dy[j] * up * (1 / (1 + e) + gate * e / ((1 + e) * (1 + e))) : dy[j - f] * gate / (1 + e);
}

static void bwd(const struct call *c)
{
    const int64_t d = c->dim[D], f = c->dim[F];
    const double *x = c->arg[X], *w = c->arg[W], *h = c->arg[HID], *dy = c->grad[Y];
    double *dx = c->grad[X], *dw = c->grad[W];
    for (int64_t i = 0; i < 2 * f * d; i++)
        dw[i] = 0;
    for (int64_t n = 0; n < c->dim[N]; n++, x += d, dx += d, h += 2 * f, dy += f) {
        for (int64_t i = 0; i < d; i++)
            dx[i] = 0;
        for (int64_t j = 0; j < 2 * f; j++) {
            const double dhj = dh(h, dy, f, j);
            for (int64_t i = 0; i < d; i++) {
                dx[i] += dhj * w[j * d + i];
                dw[j * d + i] += dhj * x[i];
            }
        }
    }
}

const struct ref ref_gate_up = { "y", "x w", fwd, bwd };
