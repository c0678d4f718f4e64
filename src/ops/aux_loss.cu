/* aux_loss.cu - aux_b = scale sum_e load_be total_be with total = sum of the probabilities of a sequence;
 * back, every token of a sequence gets the same row of gradients. */
#include "ops/load.cuh"
enum { PROB, TOP, AUX, LOAD, B = 0, S, E, K };
enum { FINISH_THREADS = 1024 };

/* One block per sequence, with a warp for every 32nd expert. */
static __global__ void __launch_bounds__(FINISH_THREADS)
    finish_kernel(float *aux, int32_t *load, struct load_chunks k, struct load_sizes s, double scale)
{
    __shared__ double part[LOAD_MAX_EXPERTS];
    double sum = 0;
    for (int e = threadIdx.x / 32; e < s.n_experts; e += FINISH_THREADS / 32) {
        const int64_t i = (int64_t)blockIdx.x * s.n_experts + e;
        double total;
        const int copies = load_total(k, s.n_chunks, i, &total);
        if (threadIdx.x % 32 == 0) {
            load[i] = copies;
            part[e] = (double)copies * total;
        }
    }
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    for (int e = threadIdx.x; e < s.n_experts; e += 32)
        sum += part[e];
    sum = warp_sum_double(sum);
    if (threadIdx.x == 0)
        aux[blockIdx.x] = (float)(scale * sum);
}

/* A block has a chunk of a sequence. daux = NULL: zeros */
static __global__ void spread_kernel(float *dprob, const float *daux, const int32_t *load,
                                     struct load_sizes s, double scale, bool add)
{
    __shared__ float slope[LOAD_MAX_EXPERTS];
    const int b = blockIdx.x / s.n_chunks;
    for (int e = threadIdx.x; e < s.n_experts; e += LOAD_THREADS)
        slope[e] = daux ? (float)(scale * (double)daux[b] * (double)load[(int64_t)b * s.n_experts + e]) : 0;
    __syncthreads();
    load_spread(dprob, slope, s, add);
}

/* alpha / (fair number of copies per expert) / tokens */
static double scale_of(const struct call *c)
{
    const double s = (double)c->dim[S], fair = (double)(c->dim[S] * c->dim[K]) / (double)c->dim[E];
    return c->attr[0] / fair / s;
}

extern "C" void aux_loss_fwd_cuda(const struct call *c)
{
    const struct load_chunks k =
        load_in_chunks(c, (const float *)c->arg[PROB], (const int32_t *)c->arg[TOP], c->work);
    finish_kernel<<<blocks_for(c->dim[B], 1), FINISH_THREADS, 0, stream_of(c)>>>(
        (float *)c->arg[AUX], (int32_t *)c->arg[LOAD], k, load_sizes_of(c->dim), scale_of(c));
    LAUNCHED();
}

extern "C" void aux_loss_bwd_cuda(const struct call *c)
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

extern "C" void aux_loss_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = load_work_bytes(load_sizes_of(c->dim));
    bytes[1] = 0;
}
