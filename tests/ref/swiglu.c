/* ref/swiglu.c - y = gate / (1 + e^-gate) * up. */
#include "tests/ref/ref.h"
#include <math.h>
enum { GATE, UP, Y, N = 0, F };

static void fwd(const struct call *c)
{
    const double *gate = c->arg[GATE], *up = c->arg[UP];
    double *y = c->arg[Y];
    for (int64_t i = 0; i < c->dim[N] * c->dim[F]; i++)
        y[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
}

static void bwd(const struct call *c)
{
    const double *gate = c->arg[GATE], *up = c->arg[UP], *dy = c->grad[Y];
    double *dgate = c->grad[GATE], *dup = c->grad[UP];
    for (int64_t i = 0; i < c->dim[N] * c->dim[F]; i++) {
        const double e = exp(-gate[i]), silu = gate[i] / (1 + e);
        dup[i] = dy[i] * silu;
        dgate[i] = dy[i] * up[i] * (1 / (1 + e) + gate[i] * e / ((1 + e) * (1 + e)));
    }
}

const struct ref ref_swiglu = { "y", "gate up", fwd, bwd };
