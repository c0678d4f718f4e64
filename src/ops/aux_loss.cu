/* aux_loss.cu - aux_b = scale sum_e load_be total_be with total = sum of the probabilities of a sequence;
 * back, every token of a sequence gets the same row of gradients. */
#include "ops/load.cuh"
enum { PROB, TOP, AUX, LOAD, B = 0, S, E, K };

/* One warp per sequence. */
static __global__ void aux_kernel(float *aux, const double *total, const int32_t *load, int n_experts,
                                  double scale)
{
    double sum = 0;
    for (int e = threadIdx.x; e < n_experts; e += 32) {
        const int64_t i = (int64_t)blockIdx.x * n_experts + e;
        sum += (double)load[i] * total[i];
    }
    sum = warp_sum_double(sum);
    if (threadIdx.x == 0)
        aux[blockIdx.x] = (float)(scale * sum);
}

/* slope[b,e]: gradient of prob[b,s,e] for every s; n = sequences * experts */
static __global__ void slope_kernel(float *slope, const float *daux, const int32_t *load, int64_t n,
                                    int n_experts, double scale)
{
    const int64_t i = blockIdx.x * (int64_t)LOAD_THREADS + threadIdx.x;
    if (i < n)
        slope[i] = daux ? (float)(scale * (double)daux[i / n_experts] * (double)load[i]) : 0;
}

/* alpha / (fair number of copies per expert) / tokens */
static double scale_of(const struct call *c)
{
    const double s = (double)c->dim[S], fair = (double)(c->dim[S] * c->dim[K]) / (double)c->dim[E];
    return c->attr[0] / fair / s;
}

extern "C" void aux_loss_fwd_cuda(const struct call *c)
{
    int32_t *load = (int32_t *)c->arg[LOAD];
    const double *total = load_totals(c, (const float *)c->arg[PROB], (const int32_t *)c->arg[TOP], load);
    aux_kernel<<<blocks_for(c->dim[B], 1), 32, 0, stream_of(c)>>>((float *)c->arg[AUX], total, load,
                                                                  (int)c->dim[E], scale_of(c));
    LAUNCHED();
}

extern "C" void aux_loss_bwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[B] * c->dim[E];
    float *slope = (float *)c->work;
    if (!c->grad[PROB])
        return;
    slope_kernel<<<blocks_for(n, LOAD_THREADS), LOAD_THREADS, 0, stream_of(c)>>>(
        slope, (const float *)c->grad[AUX], (const int32_t *)c->arg[LOAD], n, (int)c->dim[E], scale_of(c));
    LAUNCHED();
    load_spread(c, c->grad[PROB], slope, c->dim[S], adds(c, PROB));
}

extern "C" void aux_loss_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = load_work_bytes(load_sizes_of(c->dim));
    bytes[1] = (size_t)(c->dim[B] * c->dim[E]) * sizeof(float);
}
