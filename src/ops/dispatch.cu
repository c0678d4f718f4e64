/* dispatch.cu - a token is read once and written to its k places, in one kernel with its gates and the zeros of rows
 * without a copy; backward sums the rows of a token and takes their gates' gradients along. */
#include "ops/rows.cuh"
enum { X, GATE, ROW, PLACE, XS, GATES, N = 0, D, K, R };

extern "C" void dispatch_fwd_cuda(const struct call *c)
{
    const struct row_spread s = {
        .to = (bf16 *)c->arg[XS],
        .from = (const bf16 *)c->arg[X],
        .place = (const int32_t *)c->arg[PLACE],
        .row = (const int32_t *)c->arg[ROW],
        .gates = (float *)c->arg[GATES],
        .gate = (const float *)c->arg[GATE],
        .n_tokens = c->dim[N],
        .n_rows = c->dim[R],
        .k = (int)c->dim[K],
        .width = (int)c->dim[D],
        .add = false,
    };
    rows_spread(stream_of(c), &s);
}

extern "C" void dispatch_bwd_cuda(const struct call *c)
{
    const bool sums = c->grad[X] && c->grad[XS];
    const struct row_sum s = {
        .to = (bf16 *)c->grad[X],
        .first = adds(c, X) ? (const bf16 *)c->grad[X] : NULL,
        .from = (const bf16 *)c->grad[XS],
        .place = (const int32_t *)c->arg[PLACE],
        .gate = (float *)c->grad[GATE],
        .gates = (const float *)c->grad[GATES],
        .n_tokens = c->dim[N],
        .k = (int)c->dim[K],
        .width = sums ? (int)c->dim[D] : 0,
        .add_gate = adds(c, GATE),
    };
    if (!sums)
        grad_clear(c, X, c->dim[N] * c->dim[D]);
    if (sums || c->grad[GATE])
        rows_sum(stream_of(c), &s);
}
