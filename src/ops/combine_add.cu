/* combine_add.cu - combine.cu with a summand. Its gradient is that of the output, and seldom in a buffer of its own
 * (op.h: passes). */
#include "ops/combine.cuh"
enum { BASE = 1, ROW, PLACE, Y };

enum { THREADS = 256 };

/* to (+)= from, 8 numbers per thread */
static __global__ void pass_kernel(bf16 *to, const bf16 *from, bool add, int64_t n)
{
    const int64_t i = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * VEC;
    float x[VEC];
    if (i >= n)
        return;
    load8(x, from + i);
    grad_put8(to, false, add, i, x);
}

static void pass(const struct call *c)
{
    const int64_t n = c->dim[N] * c->dim[D];
    pass_kernel<<<blocks_for(n / VEC, THREADS), THREADS, 0, stream_of(c)>>>(
        (bf16 *)c->grad[BASE], (const bf16 *)c->grad[Y], adds(c, BASE), n);
    LAUNCHED();
}

extern "C" void combine_add_fwd_cuda(const struct call *c)
{
    combine_sum(c, BASE, PLACE, Y);
}

extern "C" void combine_add_bwd_cuda(const struct call *c)
{
    if (!c->grad[Y]) {
        grad_clear(c, Z, c->dim[R] * c->dim[D]);
        grad_clear(c, BASE, c->dim[N] * c->dim[D]);
        return;
    }
    if (c->grad[Z])
        combine_spread(c, ROW, PLACE, Y);
    if (c->grad[BASE])
        pass(c);
}
