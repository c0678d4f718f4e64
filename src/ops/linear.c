/* linear.c - y = x w^T for a stored weight w[out, in]. */
#include "base/blas.h"
#include "graph/op.h"
#include "ops/kernel.h"
enum { X, W, Y, N = 0, K, M };

static void fwd(const struct call *c)
{
    const int64_t n = c->dim[N], k = c->dim[K], m = c->dim[M];
    gemm_panels(NO, TR, n, m, k, 1, c->arg[X], k, c->arg[W], k, 0, c->arg[Y], m);
}

static void bwd(const struct call *c)
{
    const int64_t n = c->dim[N], k = c->dim[K], m = c->dim[M];
    const float *dy = c->grad[Y];
    if (c->grad[X])
        gemm_panels(NO, NO, n, k, m, 1, dy, m, c->arg[W], k, beta_of(c, X), c->grad[X], k);
    if (c->grad[W])
        gemm_panels(TR, NO, m, k, n, 1, dy, m, c->arg[X], k, beta_of(c, W), c->grad[W], k);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N], k = (double)c->dim[K], m = (double)c->dim[M];
    flops[0] = 2 * n * k * m;
    flops[1] = 2 * flops[0];
    bytes[0] = 4 * (n * k + m * k + n * m);
    bytes[1] = 2 * bytes[0];
}

CUDA_KERNELS(linear);
const struct op op_linear = {
    .name = "linear",
    .anno = "x: n k+, w: m k+ -> y: n m",
    .saved = "x w",
    .cost = cost,
    .work = { [CUDA] = linear_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = linear_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = linear_bwd_cuda },
    .cases =
        (const struct op_case[]){
            { .dim = { 1, 1, 1 } }, { .dim = { 5, 33, 17 } }, { .dim = { 130, 64, 129 } }, { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { .dim = { 1, 8, 8 } },
                                            { .dim = { 5, 40, 24 } },
                                            { .dim = { 1031, 576, 200 } },
                                            { .dim = { 4127, 256, 24 } },
                                            { .dim = { 0 } } },
};
