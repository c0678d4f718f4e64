/* dispatch.cu - a token is read once and written to its k places; rows without a copy are zeroed by a second
 * kernel. */
#include "ops/rows.cuh"
enum { X, GATE, ROW, PLACE, XS, GATES, N = 0, D, K, R };
enum { THREADS = 256 };

/* to[i] (+)= from[at[i]], or 0 where at[i] is negative or from is NULL */
static __global__ void gather_kernel(float *to, const float *from, const int32_t *at, int64_t n, bool add)
{
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i < n)
        grad_put(to, true, add, i, from && at[i] >= 0 ? from[at[i]] : 0);
}

static void gather(const struct call *c, void *to, const void *from, const int32_t *at, int64_t n, bool add)
{
    gather_kernel<<<blocks_for(n, THREADS), THREADS, 0, stream_of(c)>>>((float *)to, (const float *)from, at,
                                                                        n, add);
    LAUNCHED();
}

extern "C" void dispatch_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], d = c->dim[D], k = c->dim[K], r = c->dim[R];
    const int32_t *row = (const int32_t *)c->arg[ROW], *place = (const int32_t *)c->arg[PLACE];
    rows_spread(stream_of(c), c->arg[XS], c->arg[X], place, n, k, d, false);
    rows_clear(stream_of(c), c->arg[XS], row, r, d);
    gather(c, c->arg[GATES], c->arg[GATE], row, r, false);
}

extern "C" void dispatch_bwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], d = c->dim[D], k = c->dim[K];
    const int32_t *place = (const int32_t *)c->arg[PLACE];
    if (c->grad[X] && c->grad[XS])
        rows_sum(stream_of(c), c->grad[X], c->grad[XS], place, n, k, d, adds(c, X));
    else if (c->grad[X] && !adds(c, X))
        CUDA_DO(cudaMemsetAsync(c->grad[X], 0, (size_t)(n * d) * sizeof(bf16), stream_of(c)));
    if (c->grad[GATE])
        gather(c, c->grad[GATE], c->grad[GATES], place, n * k, adds(c, GATE));
}
