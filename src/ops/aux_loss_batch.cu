/* aux_loss_batch.cu - aux = scale sum_e (sum_b load_be) (sum_b total_be) for every b, with total = sum of the
 * probabilities of a sequence; back, every token gets the same row of gradients. */
#include "ops/load.cuh"
enum { PROB, TOP, AUX, LOAD, B = 0, S, E, K };

__device__ static inline int64_t copies_of(const int32_t *load, int e, int n_sequences, int n_experts)
{
    int64_t copies = 0;
    for (int b = 0; b < n_sequences; b++)
        copies += load[(int64_t)b * n_experts + e];
    return copies;
}

/* load[i], total[i]: n = n_sequences * n_experts, one warp each */
static __global__ void total_kernel(int32_t *load, double *total, struct load_chunks k, int n_chunks,
                                    int64_t n)
{
    const int64_t i = blockIdx.x * (int64_t)LOAD_WARPS + threadIdx.x / 32;
    double sum;
    if (i >= n)
        return;
    const int copies = load_total(k, n_chunks, i, &sum);
    if (threadIdx.x % 32 == 0) {
        load[i] = copies;
        total[i] = sum;
    }
}

/* One warp. */
static __global__ void aux_kernel(float *aux, const double *total, const int32_t *load, int n_sequences,
                                  int n_experts, double scale)
{
    double sum = 0;
    for (int e = threadIdx.x; e < n_experts; e += 32) {
        double column = 0;
        for (int b = 0; b < n_sequences; b++)
            column += total[(int64_t)b * n_experts + e];
        sum += column * (double)copies_of(load, e, n_sequences, n_experts);
    }
    sum = warp_sum_double(sum);
    for (int b = threadIdx.x; b < n_sequences; b += 32)
        aux[b] = (float)(scale * sum);
}

/* A block has a chunk of a sequence. daux = NULL: zeros */
static __global__ void spread_kernel(float *dprob, const float *daux, const int32_t *load,
                                     struct load_sizes s, double scale, bool add)
{
    __shared__ float slope[LOAD_MAX_EXPERTS];
    double d = 0;
    for (int b = 0; b < s.n_sequences && daux; b++)
        d += (double)daux[b];
    for (int e = threadIdx.x; e < s.n_experts; e += LOAD_THREADS)
        slope[e] = (float)(scale * d * (double)copies_of(load, e, s.n_sequences, s.n_experts));
    __syncthreads();
    load_spread(dprob, slope, s, add);
}

/* alpha E / (all copies) / (all tokens) */
static double scale_of(const struct call *c)
{
    const double tokens = (double)(c->dim[B] * c->dim[S]);
    return c->attr[0] * (double)c->dim[E] / (tokens * (double)c->dim[K]) / tokens;
}

/* work: total float64 [n_sequences, n_experts], then that of load_in_chunks */
extern "C" void aux_loss_batch_fwd_cuda(const struct call *c)
{
    const struct load_sizes s = load_sizes_of(c->dim);
    const int64_t n = c->dim[B] * c->dim[E];
    int32_t *load = (int32_t *)c->arg[LOAD];
    double *total = (double *)c->work;
    const struct load_chunks k =
        load_in_chunks(c, (const float *)c->arg[PROB], (const int32_t *)c->arg[TOP], total + n);
    total_kernel<<<blocks_for(n, LOAD_WARPS), LOAD_THREADS, 0, stream_of(c)>>>(load, total, k, s.n_chunks, n);
    LAUNCHED();
    aux_kernel<<<1, 32, 0, stream_of(c)>>>((float *)c->arg[AUX], total, load, s.n_sequences, s.n_experts,
                                           scale_of(c));
    LAUNCHED();
}

extern "C" void aux_loss_batch_bwd_cuda(const struct call *c)
{
    const struct load_sizes s = load_sizes_of(c->dim);
    if (!c->grad[PROB])
        return;
    CHECK(s.n_experts <= LOAD_MAX_EXPERTS, "%d experts", s.n_experts);
    spread_kernel<<<blocks_for((int64_t)s.n_sequences * s.n_chunks, 1), LOAD_THREADS, 0, stream_of(c)>>>(
        (float *)c->grad[PROB], (const float *)c->grad[AUX], (const int32_t *)c->arg[LOAD], s, scale_of(c),
        adds(c, PROB));
    LAUNCHED();
}

extern "C" void aux_loss_batch_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = (size_t)(c->dim[B] * c->dim[E]) * sizeof(double) + load_work_bytes(load_sizes_of(c->dim));
    bytes[1] = 0;
}
