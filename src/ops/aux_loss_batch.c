/* aux_loss_batch.c - load balance of a whole micro-batch: every aux_b is the same value
 * alpha sum_e (E fraction_e) mean_bs prob_bse, fraction_e = copies sent to e / all copies; it is not
 * differentiated. load holds the copies of each sequence. */
#include "base/err.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { PROB, TOP, AUX, LOAD, B = 0, S, E, K };

static void count(const struct call *c, int64_t b)
{
    const int64_t copies = c->dim[S] * c->dim[K], e = c->dim[E];
    const int32_t *top = (const int32_t *)c->arg[TOP] + b * copies;
    int32_t *load = (int32_t *)c->arg[LOAD] + b * e;
    memset(load, 0, (size_t)e * sizeof *load);
    for (int64_t i = 0; i < copies; i++) {
        CHECK(top[i] >= 0 && top[i] < e, "expert %d of %lld", top[i], (long long)e);
        load[top[i]]++;
    }
}

/* alpha E fraction_e / (B S): what one unit of prob[., e] adds to the loss */
static double weight(const struct call *c, int64_t e)
{
    const int32_t *load = c->arg[LOAD];
    const double rows = (double)(c->dim[B] * c->dim[S]);
    int64_t copies = 0;
    for (int64_t b = 0; b < c->dim[B]; b++)
        copies += load[b * c->dim[E] + e];
    return c->attr[0] * (double)(c->dim[E] * copies) / (rows * (double)c->dim[K]) / rows;
}

static void fwd(const struct call *c)
{
    const int64_t rows = c->dim[B] * c->dim[S];
    const float *prob = c->arg[PROB];
    float *aux = c->arg[AUX];
    double sum = 0;
    for (int64_t b = 0; b < c->dim[B]; b++)
        count(c, b);
    for (int64_t e = 0; e < c->dim[E]; e++) {
        double column = 0;
        for (int64_t t = 0; t < rows; t++)
            column += (double)prob[t * c->dim[E] + e];
        sum += column * weight(c, e);
    }
    for (int64_t b = 0; b < c->dim[B]; b++)
        aux[b] = (float)sum;
}

static void bwd(const struct call *c)
{
    const int64_t rows = c->dim[B] * c->dim[S];
    const float *daux = c->grad[AUX];
    float *dprob = c->grad[PROB];
    double d = 0;
    for (int64_t b = 0; b < c->dim[B]; b++)
        d += (double)daux[b];
    for (int64_t e = 0; e < c->dim[E] && dprob; e++) {
        const float add = (float)(d * weight(c, e));
        for (int64_t t = 0; t < rows; t++) {
            float *to = dprob + t * c->dim[E] + e;
            *to = adds(c, PROB) ? *to + add : add;
        }
    }
}

static void fill(const struct call *c, uint64_t seed)
{
    fill_top(c->arg[TOP], c->dim[B] * c->dim[S], c->dim[K], c->dim[E], seed);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)(c->dim[B] * c->dim[S]), e = (double)c->dim[E], k = (double)c->dim[K];
    flops[0] = n * (e + k);
    flops[1] = n * e;
    bytes[0] = 4 * n * (e + k);
    bytes[1] = 4 * n * e;
}

CUDA_KERNELS(aux_loss_batch);
const struct op op_aux_loss_batch = {
    .name = "aux_loss_batch",
    .anno = "prob: b^ s^ e^ @f32, top: b^ s^ k^ @i32 -> aux: b^ @f32, load: b^ e^ @i32",
    .attrs = "alpha",
    .saved = "load",
    .cost = cost,
    .work = { [CUDA] = aux_loss_batch_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = aux_loss_batch_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = aux_loss_batch_bwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { { 1, 1, 1, 1 }, { 1 } },
                                       { { 3, 11, 7, 2 }, { 0.5 } },
                                       { { 2, 90, 16, 4 }, { 2 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 1, 1 }, { 1 } },
                                            { { 3, 67, 5, 1 }, { 0.5 } },
                                            { { 1, 1, 64, 6 }, { 1 } },
                                            { { 2, 131, 64, 6 }, { 2 } },
                                            { { 3, 30, 160, 6 }, { 2 } },
                                            { .dim = { 0 } } },
};
