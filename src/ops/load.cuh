/* load.cuh - what aux_loss and aux_loss_batch share: copies and sums of probabilities per expert of every
 * sequence, and the way back. Chunks of a sequence are summed on their own, then in a fixed order in
 * float64. */
#pragma once
#include "ops/expert.cuh"
enum { LOAD_THREADS = 256, LOAD_WARPS = LOAD_THREADS / 32 };
enum { LOAD_CHUNK = 64 };         /* tokens */
enum { LOAD_MAX_EXPERTS = 1024 }; /* shared memory of load_chunk_kernel: 36 KiB */

/* prob [n_sequences, length, n_experts], top [n_sequences, length, k] */
struct load_sizes {
    int n_sequences, length, n_experts, k, n_chunks;
};

static inline struct load_sizes load_sizes_of(const int64_t *dim) /* of b s e k */
{
    struct load_sizes s;
    s.n_sequences = (int)dim[0], s.length = (int)dim[1], s.n_experts = (int)dim[2], s.k = (int)dim[3];
    s.n_chunks = (int)cut_parts(s.length, LOAD_CHUNK);
    return s;
}

__device__ static inline double warp_sum_double(double x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

/* Of one chunk of one sequence: count, column [n_sequences, n_experts, n_chunks]. Shared: copies
 * [n_experts], then the sums of each warp [LOAD_WARPS, n_experts]. */
static __global__ void load_chunk_kernel(int32_t *count, float *column, const float *prob, const int32_t *top,
                                         struct load_sizes s)
{
    extern __shared__ int32_t copies[];
    float *sums = (float *)(copies + s.n_experts);
    const int chunk = blockIdx.x % s.n_chunks, warp = threadIdx.x / 32;
    const int from = chunk * LOAD_CHUNK, to = min(from + LOAD_CHUNK, s.length);
    const int64_t sequence = blockIdx.x / s.n_chunks, token = sequence * s.length;
    for (int e = threadIdx.x; e < s.n_experts; e += LOAD_THREADS)
        copies[e] = 0;
    __syncthreads();
    for (int64_t i = (token + from) * s.k + threadIdx.x; i < (token + to) * s.k; i += LOAD_THREADS)
        atomicAdd(copies + expert_of(top, i, s.n_experts), 1);
    for (int e = threadIdx.x % 32; e < s.n_experts; e += 32) {
        float sum = 0;
#pragma unroll 8
        for (int t = from + warp; t < to; t += LOAD_WARPS)
            sum += prob[(token + t) * s.n_experts + e];
        sums[warp * s.n_experts + e] = sum;
    }
    __syncthreads();
    for (int e = threadIdx.x; e < s.n_experts; e += LOAD_THREADS) {
        const int64_t at = (sequence * s.n_experts + e) * s.n_chunks + chunk;
        float sum = 0;
        for (int w = 0; w < LOAD_WARPS; w++)
            sum += sums[w * s.n_experts + e];
        count[at] = copies[e];
        column[at] = sum;
    }
}

/* load[i], total[i]: the sums over the chunks, n = n_sequences * n_experts; one warp each */
static __global__ void load_total_kernel(int32_t *load, double *total, const int32_t *count,
                                         const float *column, int n_chunks, int64_t n)
{
    const int64_t i = blockIdx.x * (int64_t)LOAD_WARPS + threadIdx.x / 32;
    int copies = 0;
    double sum = 0;
    if (i >= n)
        return;
    for (int c = threadIdx.x % 32; c < n_chunks; c += 32) {
        copies += count[i * n_chunks + c];
        sum += (double)column[i * n_chunks + c];
    }
    copies = __reduce_add_sync(ALL_LANES, copies);
    sum = warp_sum_double(sum);
    if (threadIdx.x % 32 == 0) {
        load[i] = copies;
        total[i] = sum;
    }
}

/* Bytes of work for load_totals: total float64 [n_sequences, n_experts], count, column (see above) */
static inline size_t load_work_bytes(struct load_sizes s)
{
    return (size_t)s.n_sequences * (size_t)s.n_experts * (8 + 8 * (size_t)s.n_chunks);
}

/* load[b,e] = copies, returned[b,e] = sum of the probabilities, in work */
static inline const double *load_totals(const struct call *c, const float *prob, const int32_t *top,
                                        int32_t *load)
{
    const struct load_sizes s = load_sizes_of(c->dim);
    const int64_t n = (int64_t)s.n_sequences * s.n_experts;
    double *total = (double *)c->work;
    int32_t *count = (int32_t *)(total + n);
    float *column = (float *)(count + n * s.n_chunks);
    CHECK(s.n_experts <= LOAD_MAX_EXPERTS, "%d experts", s.n_experts);
    load_chunk_kernel<<<blocks_for((int64_t)s.n_sequences * s.n_chunks, 1), LOAD_THREADS,
                        (size_t)s.n_experts *(1 + LOAD_WARPS) * 4, stream_of(c)>>>(count, column, prob, top,
                                                                                   s);
    LAUNCHED();
    load_total_kernel<<<blocks_for(n, LOAD_WARPS), LOAD_THREADS, 0, stream_of(c)>>>(load, total, count,
                                                                                    column, s.n_chunks, n);
    LAUNCHED();
    return total;
}

/* dprob[t,e] (+)= slope[t / each, e]; one warp per token */
static __global__ void load_spread_kernel(float *dprob, const float *slope, int64_t n_tokens, int64_t each,
                                          int n_experts, bool add)
{
    const int64_t t = blockIdx.x * (int64_t)LOAD_WARPS + threadIdx.x / 32;
    if (t >= n_tokens)
        return;
    const float *mine = slope + t / each * n_experts;
    for (int e = threadIdx.x % 32; e < n_experts; e += 32)
        grad_put(dprob, true, add, t * n_experts + e, mine[e]);
}

static inline void load_spread(const struct call *c, void *dprob, const float *slope, int64_t each, bool add)
{
    const struct load_sizes s = load_sizes_of(c->dim);
    const int64_t n_tokens = (int64_t)s.n_sequences * s.length;
    load_spread_kernel<<<blocks_for(n_tokens, LOAD_WARPS), LOAD_THREADS, 0, stream_of(c)>>>(
        (float *)dprob, slope, n_tokens, each, s.n_experts, add);
    LAUNCHED();
}
