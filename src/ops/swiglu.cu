/* swiglu.cu - y = silu(gate) up. */
#include "cuda/cuda.cuh"
enum { GATE, UP, Y, N = 0, F };
enum { THREADS = 256, EACH = 2 }; /* vectors of 8 elements per thread, a block apart */

__device__ static inline float sigmoid(float x)
{
    return __fdividef(1.f, 1.f + __expf(-x)); /* 0 where exp() overflows; NaN stays NaN */
}

__global__ static void __launch_bounds__(THREADS)
    swiglu_fwd(bf16 *y, const bf16 *gate, const bf16 *up, int64_t n_vectors)
{
    const int64_t first = (int64_t)blockIdx.x * THREADS * EACH + threadIdx.x;
    uint4 a[EACH], b[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (first + k * THREADS < n_vectors) {
            a[k] = ((const uint4 *)gate)[first + k * THREADS];
            b[k] = ((const uint4 *)up)[first + k * THREADS];
        }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        float g[VEC], u[VEC];
        if (first + k * THREADS >= n_vectors)
            return;
        unpack8(g, a[k]);
        unpack8(u, b[k]);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            u[j] *= g[j] * sigmoid(g[j]);
        ((uint4 *)y)[first + k * THREADS] = pack8(u);
    }
}

struct swiglu_grads {
    bf16 *gate, *up; /* either may be NULL */
    bool add_gate, add_up;
};

/* Vector i of both gradients. */
__device__ static inline void swiglu_bwd_vector(const struct swiglu_grads *d, int64_t i, uint4 gate, uint4 up,
                                                uint4 dy)
{
    float g[VEC], u[VEC], z[VEC], dgate[VEC], dup[VEC];
    unpack8(g, gate);
    unpack8(u, up);
    unpack8(z, dy);
#pragma unroll
    for (int j = 0; j < VEC; j++) {
        const float s = sigmoid(g[j]);
        dgate[j] = z[j] * u[j] * s * (1 + g[j] * (1 - s));
        dup[j] = z[j] * g[j] * s;
    }
    if (d->gate)
        grad_put8(d->gate, false, d->add_gate, i * VEC, dgate);
    if (d->up)
        grad_put8(d->up, false, d->add_up, i * VEC, dup);
}

__global__ static void __launch_bounds__(THREADS)
    swiglu_bwd(struct swiglu_grads d, const bf16 *dy, const bf16 *gate, const bf16 *up, int64_t n_vectors)
{
    const int64_t first = (int64_t)blockIdx.x * THREADS * EACH + threadIdx.x;
    uint4 a[EACH], b[EACH], z[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (first + k * THREADS < n_vectors) {
            a[k] = ((const uint4 *)gate)[first + k * THREADS];
            b[k] = ((const uint4 *)up)[first + k * THREADS];
            z[k] = ((const uint4 *)dy)[first + k * THREADS];
        }
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (first + k * THREADS < n_vectors)
            swiglu_bwd_vector(&d, first + k * THREADS, a[k], b[k], z[k]);
}

extern "C" void swiglu_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N] * c->dim[F] / VEC;
    swiglu_fwd<<<blocks_for(n, THREADS * EACH), THREADS, 0, stream_of(c)>>>(
        (bf16 *)c->arg[Y], (const bf16 *)c->arg[GATE], (const bf16 *)c->arg[UP], n);
    LAUNCHED();
}

extern "C" void swiglu_bwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[N] * c->dim[F] / VEC;
    const struct swiglu_grads d = { (bf16 *)c->grad[GATE], (bf16 *)c->grad[UP], adds(c, GATE), adds(c, UP) };
    if (!c->grad[Y]) {
        grad_clear(c, GATE, n * VEC);
        grad_clear(c, UP, n * VEC);
        return;
    }
    swiglu_bwd<<<blocks_for(n, THREADS * EACH), THREADS, 0, stream_of(c)>>>(
        d, (const bf16 *)c->grad[Y], (const bf16 *)c->arg[GATE], (const bf16 *)c->arg[UP], n);
    LAUNCHED();
}
