/* gemm.cu - see gemm.cuh. cuBLASLt is column-major: a row-major product is the column-major product of the
 * operands in the other order. */
#include "cuda/gemm.cuh"
#include "cuda/gemm_tune.cuh"
#include <string.h>

struct shape {
    int64_t m, n, k, lda, ldb, ldc;
    int ta, tb, wide, add, align;
};
struct choice {
    struct shape shape;
    cublasLtMatmulAlgo_t algorithm;
    struct product record;
};
enum { CHOICES = 1024 };
static struct choice choices[CHOICES];
static int n_choices;

static void check(cublasStatus_t status, const char *what, const struct shape *s)
{
    CHECK(status == CUBLAS_STATUS_SUCCESS || cuda_forgives(what),
          "%s failed (%d) for [%lld x %lld x %lld] lda %lld ldb %lld ldc %lld", what, (int)status,
          (long long)s->m, (long long)s->n, (long long)s->k, (long long)s->lda, (long long)s->ldb,
          (long long)s->ldc);
}

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

/* What the library proposes, fastest first by its own estimate; returns how many there are. */
static int propose(const struct shape *s, struct problem *p,
                   cublasLtMatmulHeuristicResult_t result[CANDIDATES])
{
    const struct cuda_library *l = cuda_library();
    cublasLtMatmulPreferenceOpaque_t preference;
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
    check(l->heuristic(l->lt, &p->matmul, &p->first, &p->second, &p->out, &p->out, &preference, CANDIDATES,
                       result, &found),
          "choice of the algorithm", s);
    CHECK(found >= 1, "cuBLASLt has no algorithm for [%lld x %lld x %lld]", (long long)s->m, (long long)s->n,
          (long long)s->k);
    return found;
}

static bool captured(cudaStream_t stream)
{
    cudaStreamCaptureStatus status;
    CUDA_DO(cudaStreamIsCapturing(stream, &status));
    return status != cudaStreamCaptureStatusNone;
}

static struct choice *choose(const struct shape *s, struct problem *p, const struct trial *t)
{
    cublasLtMatmulHeuristicResult_t result[CANDIDATES];
    for (int i = 0; i < n_choices; i++)
        if (memcmp(&choices[i].shape, s, sizeof *s) == 0)
            return &choices[i];
    CHECK(n_choices < CHOICES, "more than %d shapes of matrix products", CHOICES);
    struct choice *c = &choices[n_choices++];
    const int n = propose(s, p, result);
    c->shape = *s;
    c->record.m = s->m, c->record.n = s->n, c->record.k = s->k;
    c->record.ta = s->ta, c->record.tb = s->tb, c->record.wide = s->wide, c->record.add = s->add;
    c->record.candidates = n;
    c->algorithm = result[captured(t->stream) ? 0 : gemm_tune(t, result, n, &c->record)].algo;
    return c;
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
    struct shape s;
    struct problem p;
    if (m == 0 || n == 0)
        return;
    memset(&s, 0, sizeof s); /* it is compared byte by byte */
    s.m = m, s.n = n, s.k = k, s.lda = lda, s.ldb = ldb, s.ldc = ldc;
    s.ta = ta, s.tb = tb, s.wide = wide, s.add = beta != 0, s.align = alignment(a, b, out);
    describe(&s, &p);
    const struct trial t = { &p, b, a, out, out, m, n, ldc, beta, wide, work, stream };
    struct choice *c = choose(&s, &p, &t);
    c->record.calls++;
    check(gemm_run(&t, &c->algorithm), "cublasLtMatmul", &s);
}

extern "C" int cuda_products(struct product *out, int capacity)
{
    for (int i = 0; i < n_choices && i < capacity; i++)
        out[i] = choices[i].record;
    return n_choices;
}
