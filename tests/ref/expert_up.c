/* ref/expert_up.c - for every row of a segment: h = [Wg x | Wu x], y = g silu(Wg x) (Wu x), with its expert's w
 * and its own gate g. */
#include "tests/ref/ref.h"
#include <math.h>
enum { XS, GATE, END, W, HID, Y, R = 0, E, D, S, G, F };

/* Segment of a row, or -1 for rows between segments; segments begin at multiples of tile. */
static int64_t segment_of(const struct call *c, int64_t row)
{
    const int32_t *end = c->arg[END];
    const int64_t tile = (int64_t)c->attr[0];
    int64_t begin = 0;
    for (int64_t i = 0; i < c->dim[E] * c->dim[S]; i++) {
        if (row >= begin && row < end[i])
            return i;
        for (begin = end[i]; begin % tile != 0;)
            begin++;
    }
    return -1;
}

static void fwd(const struct call *c)
{
    const int64_t d = c->dim[D], f = c->dim[F];
    for (int64_t i = 0; i < c->dim[R]; i++) {
        const int64_t segment = segment_of(c, i);
        const double *x = (const double *)c->arg[XS] + i * d;
        const double *w = (const double *)c->arg[W] + segment / c->dim[S] * 2 * f * d;
        double *h = (double *)c->arg[HID] + i * 2 * f, *y = (double *)c->arg[Y] + i * f;
        for (int64_t j = 0; j < 2 * f && segment >= 0; j++) {
            h[j] = 0;
            for (int64_t l = 0; l < d; l++)
                h[j] += w[j * d + l] * x[l];
        }
        for (int64_t j = 0; j < f && segment >= 0; j++)
            y[j] = ((const double *)c->arg[GATE])[i] * h[j] / (1 + exp(-h[j])) * h[f + j];
    }
}

static double dh(const struct call *c, int64_t row, int64_t j)
{
    const int64_t f = c->dim[F], i = j % f;
    const double *h = (const double *)c->arg[HID] + row * 2 * f, gate = h[i], up = h[f + i], e = exp(-gate);
    const double dy = ((const double *)c->arg[GATE])[row] * ((const double *)c->grad[Y])[row * f + i];
    return j < f ? dy * up * (1 / (1 + e) + gate * e / ((1 + e) * (1 + e))) : dy * gate / (1 + e);
}

static void bwd(const struct call *c)
{
    const int64_t d = c->dim[D], f = c->dim[F], parts = (int64_t)c->attr[1], weights = c->dim[E] * 2 * f * d;
    double *dw = c->grad[W];
    for (int64_t i = 0; i < parts * weights; i++)
        dw[i] = 0;
    for (int64_t i = 0; i < c->dim[R]; i++) {
        const int64_t segment = segment_of(c, i);
        if (segment < 0)
            continue;
        const int64_t w0 = segment / c->dim[S] * 2 * f * d;
        const int64_t part = parts == 1 ? 0 : segment % c->dim[S];
        const double *x = (const double *)c->arg[XS] + i * d, *w = (const double *)c->arg[W] + w0;
        const double *h = (const double *)c->arg[HID] + i * 2 * f, *dy = (const double *)c->grad[Y] + i * f;
        double *dx = (double *)c->grad[XS] + i * d, *dgate = (double *)c->grad[GATE] + i;
        *dgate = 0;
        for (int64_t j = 0; j < f; j++)
            *dgate += dy[j] * h[j] / (1 + exp(-h[j])) * h[f + j];
        for (int64_t l = 0; l < d; l++)
            dx[l] = 0;
        for (int64_t j = 0; j < 2 * f; j++) {
            const double dhj = dh(c, i, j);
            for (int64_t l = 0; l < d; l++) {
                dx[l] += dhj * w[j * d + l];
                dw[part * weights + w0 + j * d + l] += dhj * x[l];
            }
        }
    }
}

const struct ref ref_expert_up = { "y", "xs gate w", fwd, bwd };
