/* ref/dispatch.c - row i holds the token of copy row[i] and its gate, or zeros. */
#include "tests/ref/ref.h"
enum { X, GATE, ROW, PLACE, XS, GATES, N = 0, D, K, R };

static void fwd(const struct call *c)
{
    const int32_t *row = c->arg[ROW];
    const double *x = c->arg[X], *gate = c->arg[GATE];
    double *xs = c->arg[XS], *gates = c->arg[GATES];
    for (int64_t i = 0; i < c->dim[R]; i++) {
        gates[i] = row[i] < 0 ? 0 : gate[row[i]];
        for (int64_t l = 0; l < c->dim[D]; l++)
            xs[i * c->dim[D] + l] = row[i] < 0 ? 0 : x[row[i] / c->dim[K] * c->dim[D] + l];
    }
}

static void bwd(const struct call *c)
{
    const int32_t *row = c->arg[ROW];
    const double *dxs = c->grad[XS], *dgates = c->grad[GATES];
    double *dx = c->grad[X], *dgate = c->grad[GATE];
    for (int64_t i = 0; i < c->dim[N] * c->dim[D]; i++)
        dx[i] = 0;
    for (int64_t i = 0; i < c->dim[R]; i++)
        for (int64_t l = 0; l < c->dim[D] && row[i] >= 0; l++)
            dx[row[i] / c->dim[K] * c->dim[D] + l] += dxs[i * c->dim[D] + l];
    for (int64_t i = 0; i < c->dim[R]; i++)
        if (row[i] >= 0)
            dgate[row[i]] = dgates[i];
}

const struct ref ref_dispatch = { "xs gates", "x gate", fwd, bwd };
