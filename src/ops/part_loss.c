/* part_loss.c - the loss from what head_part tells of the m parts of a vocabulary: nll = log(sum exp(lse)) - logit, 0
 * where the label is below 0. Parts are added in their order. */
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { LSE, LOGIT, LABEL, NLL, N = 0, M };

/* log(sum exp(x)) */
static float sum_parts(const float *x, int64_t n)
{
    float top = x[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        top = x[i] > top ? x[i] : top;
    for (int64_t i = 0; i < n; i++)
        sum += expf(x[i] - top);
    return top + logf(sum);
}

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int32_t *label = c->arg[LABEL];
    const float *lse = c->arg[LSE], *logit = c->arg[LOGIT];
    float *nll = c->arg[NLL];
    const struct span s = cut_span(c->dim[N], cut_rows(c->dim[M]), task);
    for (int64_t t = s.from; t < s.to; t++)
        nll[t] = label[t] < 0 ? 0 : sum_parts(lse + t * c->dim[M], c->dim[M]) - logit[t];
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[M])), fwd_rows, (void *)c);
}

static void put(const struct call *c, int arg, int64_t at, float x)
{
    float *grad = c->grad[arg];
    if (grad)
        grad[at] = x + (adds(c, arg) ? grad[at] : 0);
}

static void bwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t m = c->dim[M];
    const int32_t *label = c->arg[LABEL];
    const float *dnll = c->grad[NLL];
    const struct span s = cut_span(c->dim[N], cut_rows(m), task);
    for (int64_t t = s.from; t < s.to; t++) {
        const float *lse = (const float *)c->arg[LSE] + t * m, scale = label[t] < 0 ? 0 : dnll[t],
                    all = sum_parts(lse, m);
        for (int64_t i = 0; i < m; i++)
            put(c, LSE, t * m + i, scale * expf(lse[i] - all));
        put(c, LOGIT, t, -scale);
    }
}

static void bwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[M])), bwd_rows, (void *)c);
}

static void fill(const struct call *c, uint64_t seed)
{
    int32_t *label = c->arg[LABEL];
    for (int64_t t = 0; t < c->dim[N]; t++)
        label[t] = t % 5 == 3 ? -1 : (int32_t)fill_below(1000, seed, t);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], m = (double)c->dim[M];
    flops[0] = 20 * n * m;
    flops[1] = 40 * n * m;
    bytes[0] = 4 * n * (m + 3);
    bytes[1] = 4 * n * (2 * m + 3);
}

CUDA_KERNELS(part_loss);
const struct op op_part_loss = {
    .name = "part_loss",
    .anno = "lse: n m^ @f32, logit: n @f32, label: n @i32 -> nll: n @f32",
    .saved = "lse label",
    .cost = cost,
    .fwd = { [CPU] = fwd, [CUDA] = part_loss_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = part_loss_bwd_cuda },
    .fill = fill,
    .cases =
        (const struct op_case[]){
            { .dim = { 1, 1 } }, { .dim = { 37, 4 } }, { .dim = { 9000, 2 } }, { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { .dim = { 1, 1 } },
                                            { .dim = { 37, 4 } },
                                            { .dim = { 9000, 2 } },
                                            { .dim = { 131, 72 } },
                                            { .dim = { 0 } } },
};
