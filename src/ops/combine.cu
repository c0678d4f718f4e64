/* combine.cu - forward sums k rows per token. Backward reads a token's gradient once and writes it to its k places, in
 * one kernel with the zeros of rows without a copy. */
#include "ops/rows.cuh"
enum { Z, ROW, PLACE, Y, R = 0, N, D, K };

extern "C" void combine_fwd_cuda(const struct call *c)
{
    const struct row_sum s = {
        .to = (bf16 *)c->arg[Y],
        .first = NULL,
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

extern "C" void combine_bwd_cuda(const struct call *c)
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
    if (!c->grad[Y])
        grad_clear(c, Z, c->dim[R] * c->dim[D]);
    else if (c->grad[Z])
        rows_spread(stream_of(c), &s);
}
