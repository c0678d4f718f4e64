/* aux_loss.c - load balance of each sequence: aux_b = alpha sum_e ce_be mean_s prob_bse, where ce = load E/(S K)
 * is the number of copies sent to an expert over the fair number; it is not differentiated. */
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

static double fair_share(const struct call *c) /* of an expert in one sequence */
{
    return (double)(c->dim[S] * c->dim[K]) / (double)c->dim[E];
}

static void fwd(const struct call *c)
{
    const int64_t s = c->dim[S], e = c->dim[E];
    for (int64_t b = 0; b < c->dim[B]; b++) {
        const float *prob = (const float *)c->arg[PROB] + b * s * e;
        const int32_t *load = (const int32_t *)c->arg[LOAD] + b * e;
        double sum = 0;
        count(c, b);
        for (int64_t t = 0; t < s; t++)
            for (int64_t i = 0; i < e; i++)
                sum += (double)load[i] * (double)prob[t * e + i];
        ((float *)c->arg[AUX])[b] = (float)(c->attr[0] * sum / fair_share(c) / (double)s);
    }
}

static void bwd(const struct call *c)
{
    const int64_t s = c->dim[S], e = c->dim[E];
    const int32_t *load = c->arg[LOAD];
    for (int64_t b = 0; b < c->dim[B] && c->grad[PROB]; b++) {
        float *dprob = (float *)c->grad[PROB] + b * s * e;
        const double d = c->attr[0] / fair_share(c) / (double)s * (double)((const float *)c->grad[AUX])[b];
        for (int64_t t = 0; t < s; t++)
            for (int64_t i = 0; i < e; i++) {
                const float add = (float)(d * (double)load[b * e + i]);
                dprob[t * e + i] = adds(c, PROB) ? dprob[t * e + i] + add : add;
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
    flops[0] = n * (2 * e + k);
    flops[1] = n * e;
    bytes[0] = 4 * n * (e + k);
    bytes[1] = 4 * n * e;
}

CUDA_KERNELS(aux_loss);
const struct op op_aux_loss = {
    .name = "aux_loss",
    .anno = "prob: b s^ e^ @f32, top: b s^ k^ @i32 -> aux: b @f32, load: b e^ @i32",
    .attrs = "alpha",
    .saved = "load",
    .cost = cost,
    .work = { [CUDA] = aux_loss_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = aux_loss_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = aux_loss_bwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { { 1, 1, 1, 1 }, { 1 } },
                                       { { 3, 11, 7, 2 }, { 0.5 } },
                                       { { 4, 90, 16, 4 }, { 2 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 1, 1 }, { 1 } },
                                            { { 3, 67, 5, 1 }, { 0.5 } },
                                            { { 1, 1, 64, 6 }, { 1 } },
                                            { { 2, 2115, 64, 6 }, { 2 } },
                                            { { 2, 130, 160, 6 }, { 2 } },
                                            { .dim = { 0 } } },
};
