/* combine.cu - forward sums k rows per token. Backward reads a token's gradient once and writes it to its k places, in
 * one kernel with the zeros of rows without a copy. */
#include "ops/combine.cuh"
enum { ROW = 1, PLACE, Y };

extern "C" void combine_fwd_cuda(const struct call *c)
{
    combine_sum(c, -1, PLACE, Y);
}

extern "C" void combine_bwd_cuda(const struct call *c)
{
    if (!c->grad[Y])
        grad_clear(c, Z, c->dim[R] * c->dim[D]);
    else if (c->grad[Z])
        combine_spread(c, ROW, PLACE, Y);
}
