/* add.cu - z = x + y; backward hands dz to both. */
#include "cuda/cuda.cuh"
enum { X, Y, Z, N = 0, H };
enum { THREADS = 256, EACH = 4 }; /* vectors of 8 elements per thread, a block apart */

__global__ static void __launch_bounds__(THREADS)
    add_fwd(bf16 *z, const bf16 *x, const bf16 *y, int64_t n_vectors)
{
    const int64_t first = (int64_t)blockIdx.x * THREADS * EACH + threadIdx.x;
    uint4 a[EACH], b[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (first + k * THREADS < n_vectors) {
            a[k] = ((const uint4 *)x)[first + k * THREADS];
            b[k] = ((const uint4 *)y)[first + k * THREADS];
        }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        float u[VEC], v[VEC];
        if (first + k * THREADS >= n_vectors)
            return;
        unpack8(u, a[k]);
        unpack8(v, b[k]);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            u[j] += v[j];
        ((uint4 *)z)[first + k * THREADS] = pack8(u);
    }
}

/* out = dz, or += dz */
__device__ static void hand(bf16 *out, const uint4 dz[EACH], bool add, int64_t first, int64_t n_vectors)
{
    uint4 old[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (add && first + k * THREADS < n_vectors)
            old[k] = ((const uint4 *)out)[first + k * THREADS];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        float u[VEC], v[VEC];
        if (first + k * THREADS >= n_vectors)
            return;
        unpack8(u, dz[k]);
        if (add) {
            unpack8(v, old[k]);
#pragma unroll
            for (int j = 0; j < VEC; j++)
                u[j] += v[j];
        }
        ((uint4 *)out)[first + k * THREADS] = pack8(u);
    }
}

__global__ static void __launch_bounds__(THREADS)
    add_bwd(bf16 *dx, bf16 *dy, const bf16 *dz, bool add_x, bool add_y, int64_t n_vectors)
{
    const int64_t first = (int64_t)blockIdx.x * THREADS * EACH + threadIdx.x;
    uint4 raw[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (first + k * THREADS < n_vectors)
            raw[k] = ((const uint4 *)dz)[first + k * THREADS];
    if (dx)
        hand(dx, raw, add_x, first, n_vectors);
    if (dy)
        hand(dy, raw, add_y, first, n_vectors);
}

extern "C" void add_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N] * c->dim[H] / VEC;
    add_fwd<<<blocks_for(n, THREADS * EACH), THREADS, 0, stream_of(c)>>>(
        (bf16 *)c->arg[Z], (const bf16 *)c->arg[X], (const bf16 *)c->arg[Y], n);
    LAUNCHED();
}

extern "C" void add_bwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N] * c->dim[H] / VEC;
    if (!c->grad[Z]) {
        grad_clear(c, X, n * VEC);
        grad_clear(c, Y, n * VEC);
        return;
    }
    add_bwd<<<blocks_for(n, THREADS * EACH), THREADS, 0, stream_of(c)>>>(
        (bf16 *)c->grad[X], (bf16 *)c->grad[Y], (const bf16 *)c->grad[Z], adds(c, X), adds(c, Y), n);
    LAUNCHED();
}
