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
        float held[LOAD_CHUNK / LOAD_WARPS], sum = 0; /* all loads before the first sum */
#pragma unroll
        for (int i = 0; i < LOAD_CHUNK / LOAD_WARPS; i++) {
            const int t = from + warp + i * LOAD_WARPS;
            held[i] = t < to ? prob[(token + t) * s.n_experts + e] : 0;
        }
#pragma unroll
        for (int i = 0; i < LOAD_CHUNK / LOAD_WARPS; i++)
            sum += held[i];
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

/* What load_chunk_kernel leaves in work. */
struct load_chunks {
    int32_t *count; /* [n_sequences, n_experts, n_chunks] */
    float *column;
};

/* Copies, and sum of the probabilities, of expert number i of n_sequences * n_experts: over the chunks, by a warp. */
__device__ static inline int load_total(const struct load_chunks &k, int n_chunks, int64_t i, double *total)
{
    int copies = 0;
    double sum = 0;
    for (int c = threadIdx.x % 32; c < n_chunks; c += 32) {
        copies += k.count[i * n_chunks + c];
        sum += (double)k.column[i * n_chunks + c];
    }
    *total = warp_sum_double(sum);
    return __reduce_add_sync(ALL_LANES, copies);
}

/* Bytes of work for load_in_chunks */
static inline size_t load_work_bytes(struct load_sizes s)
{
    return (size_t)s.n_sequences * (size_t)s.n_experts * 8 * (size_t)s.n_chunks;
}

static inline struct load_chunks load_in_chunks(const struct call *c, const float *prob, const int32_t *top,
                                                void *work)
{
    const struct load_sizes s = load_sizes_of(c->dim);
    struct load_chunks k;
    k.count = (int32_t *)work;
    k.column = (float *)(k.count + (int64_t)s.n_sequences * s.n_experts * s.n_chunks);
    CHECK(s.n_experts <= LOAD_MAX_EXPERTS, "%d experts", s.n_experts);
    load_chunk_kernel<<<blocks_for((int64_t)s.n_sequences * s.n_chunks, 1), LOAD_THREADS,
                        (size_t)s.n_experts *(1 + LOAD_WARPS) * 4, stream_of(c)>>>(k.count, k.column, prob,
                                                                                   top, s);
    LAUNCHED();
    return k;
}

/* dprob[t,e] (+)= slope[e] for the tokens of this block, one of load_chunk_kernel's; slope is in shared memory. */
__device__ static inline void load_spread(float *dprob, const float *slope, const struct load_sizes &s,
                                          bool add)
{
    const int chunk = blockIdx.x % s.n_chunks, from = chunk * LOAD_CHUNK,
              to = min(from + LOAD_CHUNK, s.length);
    const int64_t token = (int64_t)(blockIdx.x / s.n_chunks) * s.length;
    for (int e = threadIdx.x % 32; e < s.n_experts; e += 32)
#pragma unroll 8
        for (int t = from + threadIdx.x / 32; t < to; t += LOAD_WARPS)
            grad_put(dprob, true, add, (token + t) * s.n_experts + e, slope[e]);
}
