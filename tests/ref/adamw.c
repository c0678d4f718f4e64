/* ref/adamw.c - decoupled weight decay, then Adam with bias correction. low and low2 stay as they are. */
#include "tests/ref/ref.h"
#include <math.h>
enum { P, M, V, G, CONTROL, LOW, P2, M2, V2, LOW2, X = 0 };

static void fwd(const struct call *c)
{
    const double *p = c->arg[P], *m = c->arg[M], *v = c->arg[V], *g = c->arg[G], *control = c->arg[CONTROL];
    double *p2 = c->arg[P2], *m2 = c->arg[M2], *v2 = c->arg[V2];
    const double beta1 = c->attr[0], beta2 = c->attr[1], eps = c->attr[2], decay = c->attr[3];
    for (int64_t i = 0; i < c->dim[X]; i++) {
        const double gi = g[i] * control[1];
        m2[i] = beta1 * m[i] + (1 - beta1) * gi;
        v2[i] = beta2 * v[i] + (1 - beta2) * gi * gi;
        p2[i] = p[i] - control[0] * decay * p[i] -
                control[0] * (m2[i] / control[2]) / (sqrt(v2[i] / control[3]) + eps);
    }
}

const struct ref ref_adamw = { "", "", fwd, 0 };
