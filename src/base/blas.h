/* blas.h - row-major float32 matrix product on OpenBLAS, which runs single-threaded under pool.h.
 * C[M,N] = alpha op(A)[M,K] op(B)[K,N] + beta C; lda, ldb, ldc are row strides in elements.
 * M, N or K may be 0. Every size is checked to fit int. */
#pragma once
#include <stdint.h>
enum trans { NO, TR };
void gemm(enum trans ta, enum trans tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
          int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc); /* in this thread */
/* Same over the pool, cut into panels of rows of C whose number depends on M, N, K only: the bits do not
 * depend on the number of threads. */
void gemm_panels(enum trans ta, enum trans tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
/* Rows of such a panel, a multiple of 16, for kernels that do more with a panel while it is in the cache. */
int64_t gemm_panel_rows(int64_t m, int64_t n, int64_t k);
const char *blas_name(void); /* library and kernel family, for the log */
void blas_warm_up(void);     /* makes OpenBLAS take its buffers now */
