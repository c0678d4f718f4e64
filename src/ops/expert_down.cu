/* expert_down.cu - z = y w^T of every row with its expert's matrix, see cuda/grouped.cuh. */
#include "cuda/grouped.cuh"
enum { Y, END, W, Z, R = 0, E, F, S, D };
enum { A_TILE, A_PARTS };

static struct groups groups_of(const struct call *c)
{
    const struct groups g = { (const int32_t *)c->arg[END], c->dim[E], c->dim[S], (int64_t)c->attr[A_TILE],
                              c->dim[R] };
    return g;
}

extern "C" void expert_down_fwd_cuda(const struct call *c)
{
    const struct groups g = groups_of(c);
    grouped_rows(stream_of(c), &g, TR, c->dim[D], c->dim[F], (const bf16 *)c->arg[Y], (const bf16 *)c->arg[W],
                 false, (bf16 *)c->arg[Z]);
}

extern "C" void expert_down_bwd_cuda(const struct call *c)
{
    const struct groups g = groups_of(c);
    const int64_t d = c->dim[D], f = c->dim[F];
    const bf16 *dz = (const bf16 *)c->grad[Z];
    CHECK(!is_wide(c, Y), "the gradient of rows of experts is bfloat16");
    if (c->grad[Y])
        grouped_rows(stream_of(c), &g, NO, f, d, dz, (const bf16 *)c->arg[W], adds(c, Y), (bf16 *)c->grad[Y]);
    if (c->grad[W])
        grouped_gradient(stream_of(c), &g, (int64_t)c->attr[A_PARTS], d, f, dz, (const bf16 *)c->arg[Y],
                         adds(c, W), c->grad[W], is_wide(c, W));
}

extern "C" void expert_down_work_cuda(const struct call *c, size_t bytes[2])
{
    (void)c;
    bytes[0] = bytes[1] = 0;
}
