/* head.cuh - what head_loss and head_part share: products of a chunk of rows with the head, sums of exponentials of a
 * row of bfloat16 logits. Arguments 0 and 1 of both are x [N D] and w [V D]. */
#pragma once
#include "cuda/gemm.cuh"
enum {
    ROW_THREADS = 512, /* of a row, at most */
    EACH = 4           /* vectors of 8 logits in flight per thread */
};

struct running { /* of the logits seen: largest, sum of exp(logit - largest) */
    float top, sum;
};

/* A NaN is passed over by the maximum and shows up in the sum. */
__device__ static inline void run_on(struct running *r, uint4 raw)
{
    float x[VEC], top = r->top, sum = 0;
    unpack8(x, raw);
#pragma unroll
    for (int j = 0; j < VEC; j++)
        top = fmaxf(top, x[j]);
#pragma unroll
    for (int j = 0; j < VEC; j++)
        sum += __expf(x[j] - top);
    r->sum = r->sum * __expf(r->top - top) + sum;
    r->top = top;
}

/* log(sum(exp)) of n vectors, which all threads get; each leaves the vectors that it reads in `kept` too (not NULL). */
__device__ static inline float lse_of(const uint4 *row, int64_t n, uint4 *kept)
{
    __shared__ float room[33];
    const int64_t step = blockDim.x;
    struct running r = { -INFINITY, 0 };
    int64_t i = threadIdx.x;
    for (; i + (EACH - 1) * step < n; i += EACH * step) {
        uint4 raw[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++)
            raw[k] = row[i + k * step];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            if (kept)
                kept[i + k * step] = raw[k];
            run_on(&r, raw[k]);
        }
    }
    for (; i < n; i += step) {
        const uint4 raw = row[i];
        if (kept)
            kept[i] = raw;
        run_on(&r, raw);
    }
    const float top = block_max(r.top, room);
    return top + logf(block_sum(r.sum == 0 ? 0 : r.sum * __expf(r.top - top), room));
}

/* Threads of a row; the order of its sums follows from it. */
static inline unsigned team_of(int64_t v)
{
    const int64_t team = round_up(v / VEC, 32);
    return (unsigned)(team < ROW_THREADS ? team : (int64_t)ROW_THREADS);
}

struct rows {
    int64_t from, n;
};

/* Chunk number `chunk` of `each` rows of n. */
static inline struct rows rows_of(int64_t n, int64_t each, int64_t chunk)
{
    const int64_t from = chunk * each, left = n - from;
    return (struct rows){ from, left < each ? left : each };
}

/* logits [rows, v] = x w^T */
static inline void head_logits(const struct call *c, struct rows r, int64_t d, int64_t v, void *logits)
{
    cuda_gemm(stream_of(c), NO, TR, r.n, v, d, (const bf16 *)c->arg[0] + r.from * d, d,
              (const bf16 *)c->arg[1], d, 0, logits, false, v, c->work);
}

/* dx = dlogits w, dw = dlogits^T x */
static inline void head_multiply(const struct call *c, struct rows r, int64_t d, int64_t v,
                                 const bf16 *dlogits)
{
    const bf16 *x = (const bf16 *)c->arg[0] + r.from * d;
    char *dx = (char *)c->grad[0] + r.from * d * (is_wide(c, 0) ? 4 : 2);
    if (c->grad[0])
        cuda_gemm(stream_of(c), NO, NO, r.n, d, v, dlogits, v, (const bf16 *)c->arg[1], d, adds(c, 0), dx,
                  is_wide(c, 0), d, c->work);
    if (c->grad[1])
        cuda_gemm(stream_of(c), TR, NO, v, d, r.n, dlogits, v, x, d, r.from > 0 || adds(c, 1), c->grad[1],
                  is_wide(c, 1), d, c->work);
}

/* How much dynamic shared memory a block of a kernel can have (227 KB less its own on compute capability 9.0); asks for it. */
static inline int64_t most_shared(const void *kernel)
{
    cudaFuncAttributes own;
    int device = 0, block = 0;
    CUDA_DO(cudaGetDevice(&device));
    CUDA_DO(cudaDeviceGetAttribute(&block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    CUDA_DO(cudaFuncGetAttributes(&own, kernel));
    const int most = block - (int)own.sharedSizeBytes;
    CUDA_DO(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    return most;
}
