/* combine.cu - forward sums k rows per token. Backward reads a token's gradient once and writes it to its k
 * places; `place` is inverted first, to find the rows that no copy has. */
#include "ops/rows.cuh"
enum { Z, PLACE, Y, R = 0, N, D, K };
enum { THREADS = 256 };

/* row[place[i]] = i */
static __global__ void invert_kernel(int32_t *row, const int32_t *place, int64_t n)
{
    const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i < n)
        row[place[i]] = (int32_t)i;
}

/* Zeros in the rows of dz that no copy has. work: [R] int32 */
static void clear_others(const struct call *c, const int32_t *place)
{
    const int64_t copies = c->dim[N] * c->dim[K], r = c->dim[R];
    int32_t *row = (int32_t *)c->work;
    CUDA_DO(cudaMemsetAsync(row, 0xff, (size_t)r * sizeof *row, stream_of(c))); /* -1 */
    invert_kernel<<<blocks_for(copies, THREADS), THREADS, 0, stream_of(c)>>>(row, place, copies);
    LAUNCHED();
    rows_clear(stream_of(c), c->grad[Z], row, r, c->dim[D]);
}

extern "C" void combine_fwd_cuda(const struct call *c)
{
    rows_sum(stream_of(c), c->arg[Y], c->arg[Z], (const int32_t *)c->arg[PLACE], c->dim[N], c->dim[K],
             c->dim[D], false);
}

extern "C" void combine_bwd_cuda(const struct call *c)
{
    const int64_t r = c->dim[R], n = c->dim[N], d = c->dim[D], k = c->dim[K];
    const int32_t *place = (const int32_t *)c->arg[PLACE];
    if (!c->grad[Z])
        return;
    if (!c->grad[Y]) {
        if (!adds(c, Z))
            CUDA_DO(cudaMemsetAsync(c->grad[Z], 0, (size_t)(r * d) * sizeof(bf16), stream_of(c)));
        return;
    }
    if (!adds(c, Z))
        clear_others(c, place);
    rows_spread(stream_of(c), c->grad[Z], c->grad[Y], place, n, k, d, adds(c, Z));
}

extern "C" void combine_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)c->dim[R] * sizeof(int32_t);
}
