/* experts.cu - the products of every row with its expert's matrices, and what stands between them in their epilogues:
 * see cuda/grouped.cuh. */
#include "cuda/grouped.cuh"
enum { XS, GATE, END, W_UP, W_DOWN, HID, Z, R = 0, E, D, S, G, F };
enum { A_TILE, A_PARTS };

static struct groups groups_of(const struct call *c)
{
    const struct groups g = { (const int32_t *)c->arg[END], c->dim[E], c->dim[S], (int64_t)c->attr[A_TILE],
                              c->dim[R] };
    CHECK(c->dim[G] == 2, "%lld matrices in w_up", (long long)c->dim[G]);
    return g;
}

extern "C" void experts_fwd_cuda(const struct call *c)
{
    const struct groups g = groups_of(c);
    const int64_t d = c->dim[D], f = c->dim[F];
    bf16 *y = (bf16 *)c->work;
    grouped_up(stream_of(c), &g, d, f, (const bf16 *)c->arg[XS], (const float *)c->arg[GATE],
               (const bf16 *)c->arg[W_UP], (bf16 *)c->arg[HID], y);
    grouped_rows(stream_of(c), &g, TR, d, f, y, (const bf16 *)c->arg[W_DOWN], false, (bf16 *)c->arg[Z]);
}

extern "C" void experts_again_cuda(const struct call *c)
{
    const struct groups g = groups_of(c);
    grouped_rows(stream_of(c), &g, TR, 2 * c->dim[F], c->dim[D], (const bf16 *)c->arg[XS],
                 (const bf16 *)c->arg[W_UP], false, (bf16 *)c->arg[HID]);
}

/* In the workspace: dh, y, partial sums of the gradient of the rows' weights. */
static struct grouped_back back_of(const struct call *c)
{
    const int64_t rf = c->dim[R] * c->dim[F];
    bf16 *dh = (bf16 *)c->work, *y = dh + 2 * rf;
    const struct grouped_back b = { (const bf16 *)c->grad[Z],
                                    (const bf16 *)c->arg[W_DOWN],
                                    (const bf16 *)c->arg[HID],
                                    (const float *)c->arg[GATE],
                                    dh,
                                    y,
                                    (float *)c->grad[GATE],
                                    (float *)(y + rf),
                                    adds(c, GATE) };
    return b;
}

extern "C" void experts_bwd_cuda(const struct call *c)
{
    const struct groups g = groups_of(c);
    const struct grouped_back b = back_of(c);
    const int64_t d = c->dim[D], f = c->dim[F], parts = (int64_t)c->attr[A_PARTS];
    CHECK(!is_wide(c, XS), "the gradient of rows of experts is bfloat16");
    grouped_back(stream_of(c), &g, d, f, &b);
    if (c->grad[W_DOWN])
        grouped_gradient(stream_of(c), &g, parts, d, f, b.dz, b.y, adds(c, W_DOWN), c->grad[W_DOWN],
                         is_wide(c, W_DOWN));
    if (c->grad[XS])
        grouped_rows(stream_of(c), &g, NO, d, 2 * f, b.dh, (const bf16 *)c->arg[W_UP], adds(c, XS),
                     (bf16 *)c->grad[XS]);
    if (c->grad[W_UP])
        grouped_gradient(stream_of(c), &g, parts, 2 * f, d, b.dh, (const bf16 *)c->arg[XS], adds(c, W_UP),
                         c->grad[W_UP], is_wide(c, W_UP));
}

extern "C" void experts_work_cuda(const struct call *c, size_t bytes[2])
{
    const int64_t rf = c->dim[R] * c->dim[F];
    bytes[0] = (size_t)rf * sizeof(bf16);
    bytes[1] = 3 * bytes[0] + (size_t)grouped_back_partials(c->dim[R], c->dim[F]) * sizeof(float);
}
