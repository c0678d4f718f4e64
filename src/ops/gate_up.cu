/* gate_up.cu - h = x w^T as one product, then y = silu(gate) up in one pass over h. Backward: dh in one pass over h and
 * dy, then a product for each gradient. */
#include "cuda/gemm.cuh"
enum { X, W, HID, Y, N = 0, D, G, F };
enum { THREADS = 256, EACH_FWD = 4, EACH_BWD = 2 }; /* vectors of y of 8 elements per thread, a block apart */

__device__ static inline float sigmoid(float x)
{
    return __fdividef(1.f, 1.f + __expf(-x)); /* 0 where exp() overflows; NaN stays NaN */
}

/* Where vector i of y, of rows of `width` vectors, has its gate in h; its up lies `width` further. */
__host__ __device__ static inline int64_t gate_of(uint32_t i, uint32_t width)
{
    return (int64_t)(i / width) * width + i;
}

__global__ static void __launch_bounds__(THREADS)
    gate_up_activate(uint4 *y, const uint4 *h, uint32_t n_vectors, uint32_t width)
{
    const uint32_t first = blockIdx.x * (THREADS * EACH_FWD) + threadIdx.x;
    uint4 a[EACH_FWD], b[EACH_FWD];
#pragma unroll
    for (int k = 0; k < EACH_FWD; k++)
        if (first + k * THREADS < n_vectors) {
            const int64_t at = gate_of(first + k * THREADS, width);
            a[k] = h[at];
            b[k] = h[at + width];
        }
#pragma unroll
    for (int k = 0; k < EACH_FWD; k++) {
        float gate[VEC], up[VEC];
        if (first + k * THREADS >= n_vectors)
            return;
        unpack8(gate, a[k]);
        unpack8(up, b[k]);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            up[j] *= gate[j] * sigmoid(gate[j]);
        y[first + k * THREADS] = pack8(up);
    }
}

/* Replaces gate and up by their gradients. */
__device__ static inline void activate_bwd(uint4 *gate, uint4 *up, uint4 dy)
{
    float g[VEC], u[VEC], z[VEC];
    unpack8(g, *gate);
    unpack8(u, *up);
    unpack8(z, dy);
#pragma unroll
    for (int j = 0; j < VEC; j++) {
        const float s = sigmoid(g[j]), dup = z[j] * g[j] * s;
        g[j] = z[j] * u[j] * s * (1 + g[j] * (1 - s));
        u[j] = dup;
    }
    *gate = pack8(g);
    *up = pack8(u);
}

__global__ static void __launch_bounds__(THREADS)
    gate_up_activate_bwd(uint4 *dh, const uint4 *h, const uint4 *dy, uint32_t n_vectors, uint32_t width)
{
    const uint32_t first = blockIdx.x * (THREADS * EACH_BWD) + threadIdx.x;
    uint4 a[EACH_BWD], b[EACH_BWD], z[EACH_BWD];
#pragma unroll
    for (int k = 0; k < EACH_BWD; k++)
        if (first + k * THREADS < n_vectors) {
            const int64_t at = gate_of(first + k * THREADS, width);
            a[k] = h[at];
            b[k] = h[at + width];
            z[k] = dy[first + k * THREADS];
        }
#pragma unroll
    for (int k = 0; k < EACH_BWD; k++) {
        if (first + k * THREADS >= n_vectors)
            return;
        const int64_t at = gate_of(first + k * THREADS, width);
        activate_bwd(&a[k], &b[k], z[k]);
        dh[at] = a[k];
        dh[at + width] = b[k];
    }
}

/* Vectors of y, whose numbers fit 32 bits with those of the last block. */
static uint32_t vectors_of(const struct call *c)
{
    const int64_t n = c->dim[N] * c->dim[F] / VEC;
    CHECK(c->dim[G] == 2, "%lld matrices in w", (long long)c->dim[G]);
    CHECK(n < (int64_t)1 << 31, "%lld vectors", (long long)n);
    return (uint32_t)n;
}

extern "C" void gate_up_again_cuda(const struct call *c)
{
    const uint32_t n = vectors_of(c);
    gate_up_activate<<<blocks_for(n, THREADS * EACH_FWD), THREADS, 0, stream_of(c)>>>(
        (uint4 *)c->arg[Y], (const uint4 *)c->arg[HID], n, (uint32_t)(c->dim[F] / VEC));
    LAUNCHED();
}

extern "C" void gate_up_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], d = c->dim[D], width = 2 * c->dim[F];
    cuda_gemm(stream_of(c), NO, TR, n, width, d, (const bf16 *)c->arg[X], d, (const bf16 *)c->arg[W], d, 0,
              c->arg[HID], false, width, c->work);
    gate_up_again_cuda(c);
}

extern "C" void gate_up_bwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N], d = c->dim[D], width = 2 * c->dim[F];
    const uint32_t vectors = vectors_of(c);
    bf16 *dh = (bf16 *)((char *)c->work + GEMM_WORK);
    gate_up_activate_bwd<<<blocks_for(vectors, THREADS * EACH_BWD), THREADS, 0, stream_of(c)>>>(
        (uint4 *)dh, (const uint4 *)c->arg[HID], (const uint4 *)c->grad[Y], vectors,
        (uint32_t)(c->dim[F] / VEC));
    LAUNCHED();
    if (c->grad[X])
        cuda_gemm(stream_of(c), NO, NO, n, d, width, dh, width, (const bf16 *)c->arg[W], d, adds(c, X),
                  c->grad[X], is_wide(c, X), d, c->work);
    if (c->grad[W])
        cuda_gemm(stream_of(c), TR, NO, width, d, n, dh, width, (const bf16 *)c->arg[X], d, adds(c, W),
                  c->grad[W], is_wide(c, W), d, c->work);
}

extern "C" void gate_up_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = GEMM_WORK;
    bytes[1] = GEMM_WORK + (size_t)(c->dim[N] * 2 * c->dim[F]) * sizeof(bf16);
}
