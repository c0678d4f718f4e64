/* ref/expert_down.c - z = W y for every row of a segment, with its expert's w. */
#include "tests/ref/ref.h"
enum { Y, END, W, Z, R = 0, E, F, S, D };

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
        const double *y = (const double *)c->arg[Y] + i * f;
        const double *w = (const double *)c->arg[W] + segment / c->dim[S] * d * f;
        double *z = (double *)c->arg[Z] + i * d;
        for (int64_t l = 0; l < d && segment >= 0; l++) {
            z[l] = 0;
            for (int64_t j = 0; j < f; j++)
                z[l] += w[l * f + j] * y[j];
        }
    }
}

static void bwd(const struct call *c)
{
    const int64_t d = c->dim[D], f = c->dim[F], parts = (int64_t)c->attr[1], weights = c->dim[E] * d * f;
    double *dw = c->grad[W];
    for (int64_t i = 0; i < parts * weights; i++)
        dw[i] = 0;
    for (int64_t i = 0; i < c->dim[R]; i++) {
        const int64_t segment = segment_of(c, i);
        if (segment < 0)
            continue;
        const int64_t w0 = segment / c->dim[S] * d * f;
        const int64_t part = parts == 1 ? 0 : segment % c->dim[S];
        const double *y = (const double *)c->arg[Y] + i * f, *w = (const double *)c->arg[W] + w0;
        const double *dz = (const double *)c->grad[Z] + i * d;
        double *dy = (double *)c->grad[Y] + i * f;
        for (int64_t j = 0; j < f; j++) {
            dy[j] = 0;
            for (int64_t l = 0; l < d; l++) {
                dy[j] += dz[l] * w[l * f + j];
                dw[part * weights + w0 + l * f + j] += dz[l] * y[j];
            }
        }
    }
}

const struct ref ref_expert_down = { "z", "y w", fwd, bwd };
