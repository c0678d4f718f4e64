/* ref/aux_loss.c - aux_b = alpha sum_e (count_be E / (S K)) (sum_s prob_bse / S). */
#include "tests/ref/ref.h"
enum { PROB, TOP, AUX, LOAD, B = 0, S, E, K };

static double share(const struct call *c, int64_t b, int64_t e) /* copies sent to e over the fair number */
{
    return ((const int32_t *)c->arg[LOAD])[b * c->dim[E] + e] * (double)c->dim[E] /
           (double)(c->dim[S] * c->dim[K]);
}

static void fwd(const struct call *c)
{
    const double *prob = c->arg[PROB];
    const int32_t *top = c->arg[TOP];
    double *aux = c->arg[AUX];
    int32_t *load = c->arg[LOAD];
    for (int64_t b = 0; b < c->dim[B]; b++) {
        aux[b] = 0;
        for (int64_t e = 0; e < c->dim[E]; e++) {
            double mean = 0;
            load[b * c->dim[E] + e] = 0;
            for (int64_t i = 0; i < c->dim[S] * c->dim[K]; i++)
                load[b * c->dim[E] + e] += top[b * c->dim[S] * c->dim[K] + i] == e;
            for (int64_t s = 0; s < c->dim[S]; s++)
                mean += prob[(b * c->dim[S] + s) * c->dim[E] + e] / (double)c->dim[S];
            aux[b] += c->attr[0] * share(c, b, e) * mean;
        }
    }
}

static void bwd(const struct call *c)
{
    const double *daux = c->grad[AUX];
    double *dprob = c->grad[PROB];
    for (int64_t b = 0; b < c->dim[B]; b++)
        for (int64_t s = 0; s < c->dim[S]; s++)
            for (int64_t e = 0; e < c->dim[E]; e++)
                dprob[(b * c->dim[S] + s) * c->dim[E] + e] =
                    daux[b] * c->attr[0] * share(c, b, e) / (double)c->dim[S];
}

const struct ref ref_aux_loss = { "aux", "prob", fwd, bwd };
