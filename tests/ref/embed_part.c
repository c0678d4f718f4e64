/* ref/embed_part.c - row lookup; zero where the token's row is not among those of w. */
#include "tests/ref/ref.h"
enum { TOKEN, W, Y, N = 0, V, D, FIRST = 1 };

/* 1 where token t has row v */
static double has(const struct call *c, int64_t t, int64_t v)
{
    return ((const int32_t *)c->arg[TOKEN])[t] == v + (int64_t)c->attr[FIRST];
}

static void fwd(const struct call *c)
{
    const int32_t *token = c->arg[TOKEN];
    const double *w = c->arg[W];
    for (int64_t t = 0; t < c->dim[N]; t++)
        for (int64_t i = 0; i < c->dim[D]; i++) {
            const int64_t row = token[t] - (int64_t)c->attr[FIRST];
            ((double *)c->arg[Y])[t * c->dim[D] + i] =
                row < 0 || row >= c->dim[V] ? 0 : w[row * c->dim[D] + i];
        }
}

static void bwd(const struct call *c)
{
    const double *dy = c->grad[Y];
    double *dw = c->grad[W];
    for (int64_t i = 0; i < c->dim[V] * c->dim[D]; i++)
        dw[i] = 0;
    for (int64_t t = 0; t < c->dim[N]; t++)
        for (int64_t v = 0; v < c->dim[V]; v++)
            for (int64_t i = 0; i < c->dim[D] && has(c, t, v) > 0; i++)
                dw[v * c->dim[D] + i] += dy[t * c->dim[D] + i];
}

const struct ref ref_embed_part = { "y", "w", fwd, bwd };
