/* linear.cu - y = x w^T on cuBLASLt. */
#include "cuda/gemm.cuh"
enum { X, W, Y, N = 0, K, M };

extern "C" void linear_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], k = c->dim[K], m = c->dim[M];
    cuda_gemm(stream_of(c), NO, TR, n, m, k, (const bf16 *)c->arg[X], k, (const bf16 *)c->arg[W], k, 0,
              c->arg[Y], false, m, c->work);
}

extern "C" void linear_bwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], k = c->dim[K], m = c->dim[M];
    const bf16 *dy = (const bf16 *)c->grad[Y];
    if (c->grad[X])
        cuda_gemm(stream_of(c), NO, NO, n, k, m, dy, m, (const bf16 *)c->arg[W], k, adds(c, X), c->grad[X],
                  is_wide(c, X), k, c->work);
    if (c->grad[W])
        cuda_gemm(stream_of(c), TR, NO, m, k, n, dy, m, (const bf16 *)c->arg[X], k, adds(c, W), c->grad[W],
                  is_wide(c, W), k, c->work);
}

extern "C" void linear_work_cuda(const struct call *c, size_t bytes[2])
{
    (void)c;
    bytes[0] = bytes[1] = GEMM_WORK;
}
