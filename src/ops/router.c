/* router.c - softmax over all experts, then the best k in descending order. With groups > 1 only the experts
 * of the best groups take part (a group is worth its best expert). Ties go to the lowest index. gate is
 * p * scaling, or p / (sum of the chosen + 1e-20) where `norm` is set and k > 1. */
#include "base/blas.h"
#include "base/err.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/kernel.h"
#include "ops/vector.h"
enum { X, W, PROB, TOP, GATE, N = 0, D, E, K };
enum { A_K, A_GROUPS, A_TOPK_GROUPS, A_NORM, A_SCALING };
enum { MAX_GROUPS = 64 };

static int64_t n_groups(const struct call *c)
{
    return c->attr[A_GROUPS] > 1 ? (int64_t)c->attr[A_GROUPS] : 1;
}

static bool normalizes(const struct call *c)
{
    return c->attr[A_NORM] != 0 && c->dim[K] > 1;
}

/* Bit per group: whether it is among the best `keep`. */
static uint64_t best_groups(const float *prob, int64_t groups, int64_t each, int64_t keep)
{
    float worth[MAX_GROUPS];
    uint64_t kept = 0;
    for (int64_t g = 0; g < groups; g++)
        worth[g] = vector_max(prob + g * each, each);
    for (int64_t j = 0; j < keep; j++) {
        int64_t best = -1;
        for (int64_t g = 0; g < groups; g++)
            if (!(kept >> g & 1) && (best < 0 || worth[g] > worth[best]))
                best = g;
        kept |= (uint64_t)1 << best;
    }
    return kept;
}

static bool holds(const int32_t *list, int64_t n, int64_t item)
{
    for (int64_t i = 0; i < n; i++)
        if (list[i] == item)
            return true;
    return false;
}

static int32_t best_expert(const float *prob, uint64_t kept, int64_t groups, int64_t each,
                           const int32_t *taken, int64_t n_taken)
{
    int64_t best = -1;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t e = g * each; kept >> g & 1 && e < (g + 1) * each; e++)
            if ((best < 0 || prob[e] > prob[best]) && !holds(taken, n_taken, e))
                best = e;
    CHECK(best >= 0, "fewer experts in the best groups than top-k");
    return (int32_t)best;
}

static void gates(const struct call *c, float *gate, const float *prob, const int32_t *top)
{
    float sum = 0;
    for (int64_t j = 0; j < c->dim[K]; j++)
        sum += prob[top[j]];
    for (int64_t j = 0; j < c->dim[K]; j++)
        gate[j] = normalizes(c) ? prob[top[j]] / (sum + 1e-20f) : prob[top[j]] * (float)c->attr[A_SCALING];
}

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t e = c->dim[E], k = c->dim[K], groups = n_groups(c), each = e / groups;
    const struct span s = cut_span(c->dim[N], cut_rows(8 * e), task);
    for (int64_t t = s.from; t < s.to; t++) {
        float *p = (float *)c->arg[PROB] + t * e;
        int32_t *top = (int32_t *)c->arg[TOP] + t * k;
        const float sum = vector_exp_sum(p, e, 1, vector_max(p, e));
        for (int64_t i = 0; i < e; i++)
            p[i] /= sum;
        const uint64_t kept = groups > 1 ? best_groups(p, groups, each, (int64_t)c->attr[A_TOPK_GROUPS]) : 1;
        for (int64_t j = 0; j < k; j++)
            top[j] = best_expert(p, kept, groups, each, top, j);
        gates(c, (float *)c->arg[GATE] + t * k, p, top);
    }
}

static void fwd(const struct call *c)
{
    const int64_t n = c->dim[N], d = c->dim[D], e = c->dim[E], groups = n_groups(c);
    CHECK(groups <= MAX_GROUPS && e % groups == 0, "%lld experts in %lld groups", (long long)e,
          (long long)groups);
    gemm_panels(NO, TR, n, e, d, 1, c->arg[X], d, c->arg[W], d, 0, c->arg[PROB], e);
    pool_run(cut_parts(n, cut_rows(8 * e)), fwd_rows, (void *)c);
}

/* dp of the chosen experts through their gates, added to dp. */
static void gates_bwd(const struct call *c, float *dp, const float *dgate, const float *prob,
                      const int32_t *top)
{
    const int64_t k = c->dim[K];
    float sum = 0, all = 0;
    for (int64_t j = 0; j < k; j++) {
        sum += prob[top[j]];
        all += dgate[j] * prob[top[j]];
    }
    sum += 1e-20f;
    for (int64_t j = 0; j < k; j++)
        dp[top[j]] += normalizes(c) ? (dgate[j] - all / sum) / sum : dgate[j] * (float)c->attr[A_SCALING];
}

/* work[n, e] = gradient of the logits = p (dp - sum p dp) */
static void bwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t e = c->dim[E], k = c->dim[K];
    const struct span s = cut_span(c->dim[N], cut_rows(8 * e), task);
    const float *dprob = c->grad[PROB], *dgate = c->grad[GATE];
    for (int64_t t = s.from; t < s.to; t++) {
        const float *p = (const float *)c->arg[PROB] + t * e;
        float *dp = (float *)c->work + t * e, mean = 0;
        for (int64_t i = 0; i < e; i++)
            dp[i] = dprob ? dprob[t * e + i] : 0;
        if (dgate)
            gates_bwd(c, dp, dgate + t * k, p, (const int32_t *)c->arg[TOP] + t * k);
        for (int64_t i = 0; i < e; i++)
            mean += p[i] * dp[i];
        for (int64_t i = 0; i < e; i++)
            dp[i] = p[i] * (dp[i] - mean);
    }
}

static void bwd(const struct call *c)
{
    const int64_t n = c->dim[N], d = c->dim[D], e = c->dim[E];
    pool_run(cut_parts(n, cut_rows(8 * e)), bwd_rows, (void *)c);
    if (c->grad[X])
        gemm_panels(NO, NO, n, d, e, 1, c->work, e, c->arg[W], d, beta_of(c, X), c->grad[X], d);
    if (c->grad[W])
        gemm_panels(TR, NO, e, d, n, 1, c->work, e, c->arg[X], d, beta_of(c, W), c->grad[W], d);
}

static void work(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(c->dim[N] * c->dim[E]) * sizeof(float);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], d = (double)c->dim[D], e = (double)c->dim[E], k = (double)c->dim[K];
    flops[0] = 2 * n * d * e + n * e * (k + 12);
    flops[1] = 4 * n * d * e + 5 * n * e;
    bytes[0] = 4 * (n * d + e * d + n * (e + 2 * k));
    bytes[1] = 4 * (2 * n * d + 2 * e * d + n * (3 * e + 2 * k));
}

CUDA_KERNELS(router);
const struct op op_router = {
    .name = "router",
    .anno = "x: n d^, w: e^ d^ -> prob: n e^ @f32, top: n k^ @i32, gate: n k^ @f32",
    .attrs = "k groups topk_groups norm scaling",
    .saved = "x w prob top",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = router_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = router_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = router_bwd_cuda },
    .cases = (const struct op_case[]){ { { 1, 3, 1, 1 }, { 1, 1, 1, 0, 1 } },
                                       { { 13, 7, 5, 3 }, { 3, 1, 1, 0, 2.5 } },
                                       { { 70, 20, 16, 4 }, { 4, 0, 0, 1, 1 } },
                                       { { 33, 9, 24, 5 }, { 5, 4, 2, 0, 16 } },
                                       { { 9, 9, 8, 3 }, { 3, 4, 3, 1, 1 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 8, 1, 1 }, { 1, 1, 1, 0, 1 } },
                                            { { 13, 16, 5, 3 }, { 3, 1, 1, 0, 2.5 } },
                                            { { 70, 24, 16, 4 }, { 4, 0, 0, 1, 1 } },
                                            { { 33, 16, 24, 5 }, { 5, 4, 2, 0, 16 } },
                                            { { 9, 16, 8, 3 }, { 3, 4, 3, 1, 1 } },
                                            { { 1, 8, 64, 6 }, { 6, 1, 1, 0, 1 } },
                                            { { 301, 64, 64, 6 }, { 6, 1, 1, 0, 1 } },
                                            { { 3, 32, 160, 6 }, { 6, 8, 3, 0, 16 } },
                                            { { 3, 16, 512, 40 }, { 40, 1, 1, 1, 1 } },
                                            { .dim = { 0 } } },
};
