/* combine_add.cu - combine.cu with a summand. Its gradient is that of the output, and seldom in a buffer of its own
 * (op.h: passes). */
#include "ops/rows.cuh"
enum { Z, BASE, ROW, PLACE, Y, R = 0, N, D, K };

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
    const struct row_sum s = {
        .to = (bf16 *)c->arg[Y],
        .first = (const bf16 *)c->arg[BASE],
        .from = (const bf16 *)c->arg[Z],
        .place = (const int32_t *)c->arg[PLACE],
        .gate = NULL,
        .gates = NULL,
        .n_tokens = c->dim[N],
        .k = (int)c->dim[K],
        .width = (int)c->dim[D],
        .add_gate = false,
    };
    rows_sum(stream_of(c), &s);
}

extern "C" void combine_add_bwd_cuda(const struct call *c)
{
    const struct row_spread s = {
        .to = (bf16 *)c->grad[Z],
        .from = (const bf16 *)c->grad[Y],
        .place = (const int32_t *)c->arg[PLACE],
        .row = adds(c, Z) ? NULL : (const int32_t *)c->arg[ROW],
        .gates = NULL,
        .gate = NULL,
        .n_tokens = c->dim[N],
        .n_rows = c->dim[R],
        .k = (int)c->dim[K],
        .width = (int)c->dim[D],
        .add = adds(c, Z),
    };
    if (!c->grad[Y]) {
        grad_clear(c, Z, c->dim[R] * c->dim[D]);
        grad_clear(c, BASE, c->dim[N] * c->dim[D]);
        return;
    }
    if (c->grad[Z])
        rows_spread(stream_of(c), &s);
    if (c->grad[BASE])
        pass(c);
}
