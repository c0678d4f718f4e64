/* gemm.cu - cuda_gemm() of src/cuda/gemm.cuh in the plainest way, one thread for each element. ops_cuda_test is linked with it as
 * build/cpu/tests/plain/ops_cuda_test (tools/sanitize-cuda.sh): racecheck of compute-sanitizer does not get through cuBLASLt's
 * kernels, and with those left out it fails itself. */
#include "cuda/gemm.cuh"
extern "C" {
#include "cuda/products.h"
}

enum { SIDE = 16 }; /* a block makes SIDE x SIDE elements */
struct factors {
    const bf16 *a, *b;
    int64_t a_row, a_column, b_row, b_column; /* elements from one to the next */
    int64_t m, n, k;
};

__global__ static void multiply(struct factors f, bool add, void *out, bool wide, int64_t ldc)
{
    const int64_t row = (int64_t)blockIdx.y * SIDE + threadIdx.y,
                  column = (int64_t)blockIdx.x * SIDE + threadIdx.x;
    float sum = 0;
    if (row >= f.m || column >= f.n)
        return;
    for (int64_t i = 0; i < f.k; i++)
        sum += __bfloat162float(f.a[row * f.a_row + i * f.a_column]) *
               __bfloat162float(f.b[i * f.b_row + column * f.b_column]);
    grad_put(out, wide, add, row * ldc + column, sum);
}

void cuda_gemm(cudaStream_t stream, enum trans ta, enum trans tb, int64_t m, int64_t n, int64_t k,
               const bf16 *a, int64_t lda, const bf16 *b, int64_t ldb, float beta, void *out, bool wide,
               int64_t ldc, void *work)
{
    (void)work;
    if (m == 0 || n == 0)
        return;
    CHECK(beta == 0 || beta == 1, "beta %g", (double)beta);
    const struct factors f = { .a = a,
                               .b = b,
                               .a_row = ta == TR ? 1 : lda,
                               .a_column = ta == TR ? lda : 1,
                               .b_row = tb == TR ? 1 : ldb,
                               .b_column = tb == TR ? ldb : 1,
                               .m = m,
                               .n = n,
                               .k = k };
    const dim3 blocks(blocks_for(n, SIDE), blocks_for(m, SIDE)), threads(SIDE, SIDE);
    multiply<<<blocks, threads, 0, stream>>>(f, beta == 1, out, wide, ldc);
    LAUNCHED();
}

extern "C" int cuda_products(struct product *out, int capacity)
{
    (void)out;
    (void)capacity;
    return 0;
}
