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

/* slope[e]: gradient of prob[b,s,e] for every b and s */
static __global__ void slope_kernel(float *slope, const float *daux, const int32_t *load, int n_sequences,
                                    int n_experts, double scale)
{
    const int e = blockIdx.x * LOAD_THREADS + threadIdx.x;
    double d = 0;
    if (e >= n_experts)
        return;
    for (int b = 0; b < n_sequences && daux; b++)
        d += (double)daux[b];
    slope[e] = (float)(scale * d * (double)copies_of(load, e, n_sequences, n_experts));
}

/* alpha E / (all copies) / (all tokens) */
static double scale_of(const struct call *c)
{
    const double tokens = (double)(c->dim[B] * c->dim[S]);
    return c->attr[0] * (double)c->dim[E] / (tokens * (double)c->dim[K]) / tokens;
}

extern "C" void aux_loss_batch_fwd_cuda(const struct call *c)
{
    int32_t *load = (int32_t *)c->arg[LOAD];
    const double *total = load_totals(c, (const float *)c->arg[PROB], (const int32_t *)c->arg[TOP], load);
    aux_kernel<<<1, 32, 0, stream_of(c)>>>((float *)c->arg[AUX], total, load, (int)c->dim[B], (int)c->dim[E],
                                           scale_of(c));
    LAUNCHED();
}

extern "C" void aux_loss_batch_bwd_cuda(const struct call *c)
{
    float *slope = (float *)c->work;
    if (!c->grad[PROB])
        return;
    slope_kernel<<<blocks_for(c->dim[E], LOAD_THREADS), LOAD_THREADS, 0, stream_of(c)>>>(
        slope, (const float *)c->grad[AUX], (const int32_t *)c->arg[LOAD], (int)c->dim[B], (int)c->dim[E],
        scale_of(c));
    LAUNCHED();
    load_spread(c, c->grad[PROB], slope, c->dim[B] * c->dim[S], adds(c, PROB));
}

extern "C" void aux_loss_batch_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = load_work_bytes(load_sizes_of(c->dim));
    bytes[1] = (size_t)c->dim[E] * sizeof(float);
}
