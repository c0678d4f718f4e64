/* ref/embed.c - row lookup. */
#include "tests/ref/ref.h"
enum { TOKEN, W, Y, N = 0, V, D };

static void fwd(const struct call *c)
{
    const int32_t *token = c->arg[TOKEN];
    const double *w = c->arg[W];
    double *y = c->arg[Y];
    for (int64_t t = 0; t < c->dim[N]; t++)
        for (int64_t i = 0; i < c->dim[D]; i++)
            y[t * c->dim[D] + i] = w[token[t] * c->dim[D] + i];
}

static void bwd(const struct call *c)
{
    const int32_t *token = c->arg[TOKEN];
    const double *dy = c->grad[Y];
    double *dw = c->grad[W];
    for (int64_t i = 0; i < c->dim[V] * c->dim[D]; i++)
        dw[i] = 0;
    for (int64_t t = 0; t < c->dim[N]; t++)
        for (int64_t i = 0; i < c->dim[D]; i++)
            dw[token[t] * c->dim[D] + i] += dy[t * c->dim[D] + i];
}

const struct ref ref_embed = { "y", "w", fwd, bwd };
