/* ref/latent.c - x = [u | k]: y = w u r, r = (mean(u^2) + eps)^(-1/2); k_rope = complex numbers (k[2i], k[2i+1])
 * times e^(i angle). */
#include "tests/ref/ref.h"
#include <math.h>
enum { X, W, TABLE, Y, K_ROPE, R, B = 0, S, C, H, T };

static void fwd(const struct call *c)
{
    const int64_t h = c->dim[H], t = c->dim[T];
    for (int64_t n = 0; n < c->dim[B] * c->dim[S]; n++) {
        const double *u = (const double *)c->arg[X] + n * c->dim[C], *k = u + h;
        const double *angle = (const double *)c->arg[TABLE] + n % c->dim[S] * t, *w = c->arg[W];
        double sum = 0, *r = (double *)c->arg[R] + n, *y = (double *)c->arg[Y] + n * h;
        double *out = (double *)c->arg[K_ROPE] + n * t;
        for (int64_t i = 0; i < h; i++)
            sum += u[i] * u[i] / (double)h;
        *r = pow(sum + c->attr[0], -0.5);
        for (int64_t i = 0; i < h; i++)
            y[i] = w[i] * u[i] * *r;
        for (int64_t i = 0; i < t / 2; i++) {
            out[2 * i] = k[2 * i] * angle[i] - k[2 * i + 1] * angle[t / 2 + i];
            out[2 * i + 1] = k[2 * i] * angle[t / 2 + i] + k[2 * i + 1] * angle[i];
        }
    }
}

/* dr/du_i = -r^3 u_i / h; the key's gradient turns back */
static void bwd(const struct call *c)
{
    const int64_t h = c->dim[H], t = c->dim[T];
    double *dw = c->grad[W];
    for (int64_t i = 0; i < h; i++)
        dw[i] = 0;
    for (int64_t n = 0; n < c->dim[B] * c->dim[S]; n++) {
        const double *u = (const double *)c->arg[X] + n * c->dim[C], *w = c->arg[W];
        const double *angle = (const double *)c->arg[TABLE] + n % c->dim[S] * t;
        const double *dy = (const double *)c->grad[Y] + n * h, *dk = (const double *)c->grad[K_ROPE] + n * t;
        const double r = ((const double *)c->arg[R])[n];
        double *du = (double *)c->grad[X] + n * c->dim[C], dr = 0;
        for (int64_t i = 0; i < h; i++) {
            dw[i] += dy[i] * u[i] * r;
            dr += dy[i] * w[i] * u[i];
        }
        for (int64_t i = 0; i < h; i++)
            du[i] = dy[i] * w[i] * r - dr * r * r * r * u[i] / (double)h;
        for (int64_t i = 0; i < t / 2; i++) {
            du[h + 2 * i] = dk[2 * i] * angle[i] + dk[2 * i + 1] * angle[t / 2 + i];
            du[h + 2 * i + 1] = dk[2 * i + 1] * angle[i] - dk[2 * i] * angle[t / 2 + i];
        }
    }
}

const struct ref ref_latent = { "y k_rope", "x w", fwd, bwd };
