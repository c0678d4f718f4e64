/* ref/aux_loss_batch.c - aux_b = alpha sum_e E (count_e / (B S K)) (sum_bs prob_bse / (B S)) for every b. */
#include "tests/ref/ref.h"
enum { PROB, TOP, AUX, LOAD, B = 0, S, E, K };

/* How much aux grows with prob[b, s, e], for any b and s. */
static double slope(const struct call *c, int64_t e)
{
    const int64_t tokens = c->dim[B] * c->dim[S];
    const int32_t *top = c->arg[TOP];
    int64_t count = 0;
    for (int64_t i = 0; i < tokens * c->dim[K]; i++)
        count += top[i] == e;
    return c->attr[0] * (double)c->dim[E] * (double)count / (double)(tokens * c->dim[K]) / (double)tokens;
}

static void fwd(const struct call *c)
{
    const double *prob = c->arg[PROB];
    const int32_t *top = c->arg[TOP];
    double aux = 0;
    for (int64_t e = 0; e < c->dim[E]; e++)
        for (int64_t t = 0; t < c->dim[B] * c->dim[S]; t++)
            aux += slope(c, e) * prob[t * c->dim[E] + e];
    for (int64_t b = 0; b < c->dim[B]; b++) {
        ((double *)c->arg[AUX])[b] = aux;
        for (int64_t e = 0; e < c->dim[E]; e++) {
            int32_t *load = (int32_t *)c->arg[LOAD] + b * c->dim[E] + e;
            *load = 0;
            for (int64_t i = 0; i < c->dim[S] * c->dim[K]; i++)
                *load += top[b * c->dim[S] * c->dim[K] + i] == e;
        }
    }
}

static void bwd(const struct call *c)
{
    double daux = 0;
    for (int64_t b = 0; b < c->dim[B]; b++)
        daux += ((const double *)c->grad[AUX])[b];
    for (int64_t t = 0; t < c->dim[B] * c->dim[S]; t++)
        for (int64_t e = 0; e < c->dim[E]; e++)
            ((double *)c->grad[PROB])[t * c->dim[E] + e] = daux * slope(c, e);
}

const struct ref ref_aux_loss_batch = { "aux", "prob", fwd, bwd };
