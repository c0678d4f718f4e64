/* dense_probe.cu - the dense products of DeepSeek-V2-Lite at 8192 tokens by every algorithm that cuBLASLt proposes and that
 * has the bits of the first: for a moment, as gemm_tune() times them, and without a pause, when the power limit holds
 * the clock down as in training. `make probe` builds it. Links none of gemm.cu and gemm_tune.cu: it has them. */
#include "src/cuda/gemm.cu"
#include "src/cuda/gemm_tune.cu"
#include "src/cuda/library.cuh"
#include "tests/probe/normals.cuh"
extern "C" {
#include "device/device.h"
}
#include <stdio.h>
enum { TOKENS = 8192 };
struct shape_of {
    const char *name;
    int ta, tb;
    int64_t m, n, k;
    float beta;
};
static const struct shape_of shapes[] = {
    { "q", NO, TR, TOKENS, 3072, 2048, 0 },          { "kv_a", NO, TR, TOKENS, 576, 2048, 0 },
    { "kv_b", NO, TR, TOKENS, 4096, 512, 0 },        { "o", NO, TR, TOKENS, 2048, 2048, 0 },
    { "down", NO, TR, TOKENS, 2048, 2816, 0 },       { "gate_up", NO, TR, TOKENS, 5632, 2048, 0 },
    { "q dx", NO, NO, TOKENS, 2048, 3072, 0 },       { "kv_b dx", NO, NO, TOKENS, 512, 4096, 0 },
    { "o dx", NO, NO, TOKENS, 2048, 2048, 0 },       { "down dx", NO, NO, TOKENS, 2816, 2048, 0 },
    { "gate_up dx", NO, NO, TOKENS, 2048, 5632, 1 }, { "q dw", TR, NO, 3072, 2048, TOKENS, 1 },
    { "kv_b dw", TR, NO, 4096, 512, TOKENS, 1 },     { "o dw", TR, NO, 2048, 2048, TOKENS, 1 },
    { "down dw", TR, NO, 2048, 2816, TOKENS, 1 },    { "gate_up dw", TR, NO, 5632, 2048, TOKENS, 1 },
};

/* us of a call, `seconds` long without a pause */
static double sustained_us(const struct trial *t, const cublasLtMatmulAlgo_t *algorithm, double us,
                           double seconds)
{
    const struct stopwatch w = stopwatch_new(t->stream);
    const int n = (int)(seconds * 1e6 / us) + 1;
    stopwatch_start(&w);
    for (int i = 0; i < n; i++)
        CHECK(gemm_run(t, algorithm) == CUBLAS_STATUS_SUCCESS, "a product that ran does not run again");
    return 1e3 * (double)stopwatch_stop(&w) / n;
}

static void probe(const struct shape_of *x)
{
    cublasLtMatmulHeuristicResult_t result[CANDIDATES];
    bool good[CANDIDATES] = {};
    double brief[CANDIDATES] = {}, held[CANDIDATES] = {};
    struct problem p;
    struct shape s;
    struct product record = {};
    memset(&s, 0, sizeof s);
    s.m = x->m, s.n = x->n, s.k = x->k, s.ta = x->ta, s.tb = x->tb, s.add = x->beta != 0, s.align = 256;
    s.lda = x->ta ? x->m : x->k, s.ldb = x->tb ? x->k : x->n, s.ldc = x->n;
    bf16 *a = normals(x->m * x->k, 1, 1), *b = normals(x->k * x->n, 2, 0.02f),
         *out = normals(x->m * x->n, 3, 1);
    void *work = normals(GEMM_WORK / 2, 4, 1);
    describe(&s, &p);
    const struct trial t = { &p, b, a, out, out, x->m, x->n, s.ldc, x->beta, false, work, NULL };
    struct trial plain = t;
    const int n = propose(&s, &p, result);
    plain.beta = 0;
    find_same(&plain, result, n, good);
    const int chosen = fastest(&plain, result, n, good, &record);
    sustained_us(&t, &result[0].algo, record.first_us, 0.7);
    for (int i = 0; i < n; i++)
        if (good[i])
            brief[i] = sustained_us(&t, &result[i].algo, record.first_us, 0.1);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < n; i++)
            if (good[i])
                held[i] += sustained_us(&t, &result[i].algo, brief[i], 0.2) / 2;
    int best = 0;
    for (int i = 0; i < n; i++)
        if (good[i] && held[i] < held[best])
            best = i;
    const double flops = 2e-6 * (double)x->m * (double)x->n * (double)x->k;
    printf("%-11s tuner: first %6.1f us, chosen %d %6.1f us; sustained: first %6.1f, chosen %6.1f, best %d "
           "%6.1f us %5.0f TFLOP/s (%+.1f %%):",
           x->name, record.first_us, chosen, record.fastest_us, held[0], held[chosen], best, held[best],
           flops / held[best], 100 * (held[best] / held[chosen] - 1));
    for (int i = 0; i < n; i++)
        printf(good[i] ? " %.1f" : " -", held[i]);
    printf("\n");
    CUDA_DO(cudaFree(a));
    CUDA_DO(cudaFree(b));
    CUDA_DO(cudaFree(out));
    CUDA_DO(cudaFree(work));
}

int main(void)
{
    struct err e = { 0, "" };
    if (!device_cuda_open(0, &e))
        die_err(&e);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        probe(&shapes[i]);
    return 0;
}
