/* combine.cuh - what combine and combine_add share on CUDA: both have z as argument 0 and the dimensions below. */
#pragma once
#include "ops/rows.cuh"
enum { Z = 0, R = 0, N, D, K };

/* y = the sum of the k rows of a token, + base (that argument; -1 = none) */
static inline void combine_sum(const struct call *c, int base, int place, int y)
{
    const struct row_sum s = {
        .to = (bf16 *)c->arg[y],
        .first = base < 0 ? NULL : (const bf16 *)c->arg[base],
        .from = (const bf16 *)c->arg[Z],
        .place = (const int32_t *)c->arg[place],
        .gate = NULL,
        .gates = NULL,
        .n_tokens = c->dim[N],
        .k = (int)c->dim[K],
        .width = (int)c->dim[D],
        .add_gate = false,
    };
    rows_sum(stream_of(c), &s);
}

/* grad[Z] (+)= grad[y], which is not NULL, in the k places of a token */
static inline void combine_spread(const struct call *c, int row, int place, int y)
{
    const struct row_spread s = {
        .to = (bf16 *)c->grad[Z],
        .from = (const bf16 *)c->grad[y],
        .place = (const int32_t *)c->arg[place],
        .row = adds(c, Z) ? NULL : (const int32_t *)c->arg[row],
        .gates = NULL,
        .gate = NULL,
        .n_tokens = c->dim[N],
        .n_rows = c->dim[R],
        .k = (int)c->dim[K],
        .width = (int)c->dim[D],
        .add = adds(c, Z),
    };
    rows_spread(stream_of(c), &s);
}
