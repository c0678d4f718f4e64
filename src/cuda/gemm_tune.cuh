/* gemm_tune.cuh - inside gemm.cu: which of the library's algorithms makes a product fastest without changing a bit.
 * Each candidate computes the real operands; those whose output has the bits of the first one's are timed. So
 * measured times decide about speed alone, and two runs that choose differently still agree. Sums over k in another
 * order differ in the last bits of float32, which some 2^-13 to 2^-16 of all bfloat16 results show: outputs with
 * too few numbers to see that keep the first algorithm, as do those without room for a second output. */
#pragma once
#include "cuda/library.cuh"
extern "C" {
#include "cuda/products.h"
}
enum { CANDIDATES = 8 };
/* What one call hands to the library; its matrices are column-major. */
struct problem {
    cublasLtMatmulDescOpaque_t matmul;
    cublasLtMatrixLayoutOpaque_t first, second, out;
};
struct trial {
    struct problem *problem;
    const void *first, *second, *in; /* out = first second + beta in */
    void *out; /* row-major [rows, columns], ld elements apart; 4 bytes each (wide) or 2 */
    int64_t rows, columns, ld;
    float beta;
    bool wide;
    void *work; /* GEMM_WORK bytes */
    cudaStream_t stream;
};
cublasStatus_t gemm_run(const struct trial *t, const cublasLtMatmulAlgo_t *algorithm);
/* Index of the candidate to take, 0 where nothing could be tried; fills same, chosen and the times of `record`.
 * Writes out only where beta is 0. Waits for the stream; not to be called while it is captured. */
int gemm_tune(const struct trial *t, const cublasLtMatmulHeuristicResult_t *candidate, int n,
              struct product *record);
