/* ref/experts.c - for every row of a segment: h = [Wg x | Wu x], y = g silu(Wg x) (Wu x), z = Wd y, with its expert's
 * matrices and its own weight g. */
#include "tests/ref/ref.h"
#include <math.h>
enum { XS, GATE, END, W_UP, W_DOWN, HID, Z, R = 0, E, D, S, G, F };

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

static double silu_up(const struct call *c, int64_t row, int64_t j)
{
    const int64_t f = c->dim[F];
    const double *h = (const double *)c->arg[HID] + row * 2 * f;
    return h[j] / (1 + exp(-h[j])) * h[f + j];
}

static double weight(const struct call *c, int64_t row)
{
    return ((const double *)c->arg[GATE])[row];
}

static void fwd(const struct call *c)
{
    const int64_t d = c->dim[D], f = c->dim[F];
    for (int64_t i = 0; i < c->dim[R]; i++) {
        const int64_t segment = segment_of(c, i);
        if (segment < 0)
            continue;
        const double *x = (const double *)c->arg[XS] + i * d;
        const double *up = (const double *)c->arg[W_UP] + segment / c->dim[S] * 2 * f * d;
        const double *down = (const double *)c->arg[W_DOWN] + segment / c->dim[S] * d * f;
        double *h = (double *)c->arg[HID] + i * 2 * f, *z = (double *)c->arg[Z] + i * d;
        for (int64_t j = 0; j < 2 * f; j++) {
            h[j] = 0;
            for (int64_t l = 0; l < d; l++)
                h[j] += up[j * d + l] * x[l];
        }
        for (int64_t l = 0; l < d; l++)
            z[l] = 0;
        for (int64_t j = 0; j < f; j++) {
            const double y = weight(c, i) * silu_up(c, i, j);
            for (int64_t l = 0; l < d; l++)
                z[l] += down[l * f + j] * y;
        }
    }
}

static double dh(const struct call *c, int64_t row, int64_t j, double dy)
{
    const int64_t f = c->dim[F], i = j % f;
    const double *h = (const double *)c->arg[HID] + row * 2 * f, gate = h[i], up = h[f + i], e = exp(-gate);
    return weight(c, row) * dy *
           (j < f ? up * (1 / (1 + e) + gate * e / ((1 + e) * (1 + e))) : gate / (1 + e));
}

static void clear(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = 0;
}

/* Column j of y of row i, from there on everything that its gradient dy makes. */
static void bwd_element(const struct call *c, int64_t i, int64_t j, int64_t expert, int64_t part)
{
    const int64_t d = c->dim[D], f = c->dim[F], e = part * c->dim[E] + expert;
    const double *x = (const double *)c->arg[XS] + i * d, *dz = (const double *)c->grad[Z] + i * d;
    const double *up = (const double *)c->arg[W_UP] + expert * 2 * f * d;
    const double *down = (const double *)c->arg[W_DOWN] + expert * d * f;
    double *dx = (double *)c->grad[XS] + i * d, *dup = (double *)c->grad[W_UP] + e * 2 * f * d;
    double *ddown = (double *)c->grad[W_DOWN] + e * d * f, dy = 0;
    for (int64_t l = 0; l < d; l++) {
        dy += dz[l] * down[l * f + j];
        ddown[l * f + j] += dz[l] * weight(c, i) * silu_up(c, i, j);
    }
    ((double *)c->grad[GATE])[i] += dy * silu_up(c, i, j);
    for (int64_t k = j; k < 2 * f; k += f) {
        const double dhk = dh(c, i, k, dy);
        for (int64_t l = 0; l < d; l++) {
            dx[l] += dhk * up[k * d + l];
            dup[k * d + l] += dhk * x[l];
        }
    }
}

static void bwd(const struct call *c)
{
    const int64_t d = c->dim[D], f = c->dim[F], parts = (int64_t)c->attr[1], each = c->dim[E] * d * f;
    clear(c->grad[W_UP], parts * 2 * each);
    clear(c->grad[W_DOWN], parts * each);
    for (int64_t i = 0; i < c->dim[R]; i++) {
        const int64_t segment = segment_of(c, i);
        if (segment < 0)
            continue;
        clear((double *)c->grad[GATE] + i, 1);
        clear((double *)c->grad[XS] + i * d, d);
        for (int64_t j = 0; j < f; j++)
            bwd_element(c, i, j, segment / c->dim[S], parts == 1 ? 0 : segment % c->dim[S]);
    }
}

const struct ref ref_experts = { "z", "xs gate w_up w_down", fwd, bwd };
