/* gemm.cuh - dense matrix products on cuBLASLt; row-major, the conventions of base/blas.h.
 * out[M,N] = op(a)[M,K] op(b)[K,N] + beta out with bfloat16 a and b, float32 accumulation; out is bfloat16
 * or float32 (wide). The algorithm is chosen once per shape, when it is first met, and kept. It has the bits of the
 * library's first choice (gemm_tune.cuh), so every run has the same. */
#pragma once
#include "cuda/cuda.cuh"
enum { GEMM_WORK = 32 << 20 }; /* bytes of `work` that cuda_gemm may use */
enum trans { NO, TR };
void cuda_gemm(cudaStream_t stream, enum trans ta, enum trans tb, int64_t m, int64_t n, int64_t k,
               const bf16 *a, int64_t lda, const bf16 *b, int64_t ldb, float beta, void *out, bool wide,
               int64_t ldc, void *work);
