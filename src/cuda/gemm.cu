/* gemm.cu - see gemm.cuh. cuBLASLt is column-major: a row-major product is the column-major product of the
 * operands in the other order. */
#include "cuda/gemm.cuh"
#include "cuda/library.cuh"
#include <string.h>

struct shape {
    int64_t m, n, k, lda, ldb, ldc;
    int ta, tb, wide, add, align;
};
struct choice {
    struct shape shape;
    cublasLtMatmulAlgo_t algorithm;
};
enum { CHOICES = 1024 };
static struct choice choices[CHOICES];
static int n_choices;

static void check(cublasStatus_t status, const char *what, const struct shape *s)
{
    CHECK(status == CUBLAS_STATUS_SUCCESS,
          "%s failed (%d) for [%lld x %lld x %lld] lda %lld ldb %lld ldc %lld", what, (int)status,
          (long long)s->m, (long long)s->n, (long long)s->k, (long long)s->lda, (long long)s->ldb,
          (long long)s->ldc);
}

/* What one call hands to the library. */
struct problem {
    cublasLtMatmulDescOpaque_t matmul;
    cublasLtMatrixLayoutOpaque_t first, second, out;
};

static void describe(const struct shape *s, struct problem *p)
{
    const struct cuda_library *l = cuda_library();
    const cublasOperation_t first = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cudaDataType_t out = s->wide ? CUDA_R_32F : CUDA_R_16BF;
    check(l->matmul_desc_init(&p->matmul, sizeof p->matmul, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor", s);
    check(l->matmul_desc_set(&p->matmul, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first), "transposition",
          s);
    check(l->matmul_desc_set(&p->matmul, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second),
          "transposition", s);
    /* Column-major: the row-major [K,N] b is [N,K], and so on. */
    check(l->layout_init(&p->first, sizeof p->first, CUDA_R_16BF, (uint64_t)(s->tb ? s->k : s->n),
                         (uint64_t)(s->tb ? s->n : s->k), s->ldb),
          "layout", s);
    check(l->layout_init(&p->second, sizeof p->second, CUDA_R_16BF, (uint64_t)(s->ta ? s->m : s->k),
                         (uint64_t)(s->ta ? s->k : s->m), s->lda),
          "layout", s);
    check(l->layout_init(&p->out, sizeof p->out, out, (uint64_t)s->n, (uint64_t)s->m, s->ldc), "layout", s);
}

static const cublasLtMatmulAlgo_t *choose(const struct shape *s, struct problem *p)
{
    const struct cuda_library *l = cuda_library();
    for (int i = 0; i < n_choices; i++)
        if (memcmp(&choices[i].shape, s, sizeof *s) == 0)
            return &choices[i].algorithm;
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t result;
    const uint64_t bytes = GEMM_WORK;
    const uint32_t align = (uint32_t)s->align;
    int found = 0;
    check(l->preference_init(&preference, sizeof preference), "preference", s);
    check(l->preference_set(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes),
          "preference", s);
    const cublasLtMatmulPreferenceAttributes_t sides[] = { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES };
    for (int i = 0; i < 4; i++)
        check(l->preference_set(&preference, sides[i], &align, sizeof align), "preference", s);
    check(l->heuristic(l->lt, &p->matmul, &p->first, &p->second, &p->out, &p->out, &preference, 1, &result,
                       &found),
          "choice of the algorithm", s);
    CHECK(found == 1, "cuBLASLt has no algorithm for [%lld x %lld x %lld]", (long long)s->m, (long long)s->n,
          (long long)s->k);
    CHECK(n_choices < CHOICES, "more than %d shapes of matrix products", CHOICES);
    choices[n_choices].shape = *s;
    choices[n_choices].algorithm = result.algo;
    return &choices[n_choices++].algorithm;
}

/* Largest power of two up to 256 that divides all addresses. */
static int alignment(const void *a, const void *b, const void *out)
{
    const uintptr_t all = (uintptr_t)a | (uintptr_t)b | (uintptr_t)out | 256;
    return (int)(all & (~all + 1));
}

void cuda_gemm(cudaStream_t stream, enum trans ta, enum trans tb, int64_t m, int64_t n, int64_t k,
               const bf16 *a, int64_t lda, const bf16 *b, int64_t ldb, float beta, void *out, bool wide,
               int64_t ldc, void *work)
{
    const struct cuda_library *l = cuda_library();
    struct shape s;
    struct problem p;
    const float one = 1;
    if (m == 0 || n == 0)
        return;
    memset(&s, 0, sizeof s); /* it is compared byte by byte */
    s.m = m, s.n = n, s.k = k, s.lda = lda, s.ldb = ldb, s.ldc = ldc;
    s.ta = ta, s.tb = tb, s.wide = wide, s.add = beta != 0, s.align = alignment(a, b, out);
    describe(&s, &p);
    const cublasLtMatmulAlgo_t *algorithm = choose(&s, &p);
    check(l->matmul(l->lt, &p.matmul, &one, b, &p.first, a, &p.second, &beta, out, &p.out, out, &p.out,
                    algorithm, work, GEMM_WORK, stream),
          "cublasLtMatmul", &s);
}
