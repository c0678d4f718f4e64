/* expert_up.cu - h = xs w^T of every row with its expert's matrix, and y from h in the same kernel: cuda/grouped.cuh.
 * Backward: dh and the gradient of the rows' weights in one pass over h and dy, then two grouped products. */
#include "cuda/grouped.cuh"
enum { XS, GATE, END, W, HID, Y, R = 0, E, D, S, G, F };
enum { A_TILE, A_PARTS };
enum { WARP = 32, BLOCK_ROWS = 8 };

static struct groups groups_of(const struct call *c)
{
    const struct groups g = { (const int32_t *)c->arg[END], c->dim[E], c->dim[S], (int64_t)c->attr[A_TILE],
                              c->dim[R] };
    CHECK(c->dim[G] == 2, "%lld matrices in w", (long long)c->dim[G]);
    return g;
}

extern "C" void expert_up_fwd_cuda(const struct call *c)
{
    const struct groups g = groups_of(c);
    grouped_up(stream_of(c), &g, c->dim[D], c->dim[F], (const bf16 *)c->arg[XS], (const float *)c->arg[GATE],
               (const bf16 *)c->arg[W], (bf16 *)c->arg[HID], (bf16 *)c->arg[Y]);
}

/* Replaces gate and up by their gradients; returns what the vector adds to the gradient of the row's weight. */
__device__ static float swiglu_bwd(float gate[VEC], float up[VEC], const float dy[VEC], float weight)
{
    float sum = 0;
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        const float sigma = sigmoid(gate[i]), silu = gate[i] * sigma;
        const float d = weight * dy[i], d_gate = d * up[i] * (sigma + silu * (1 - sigma));
        sum += dy[i] * silu * up[i];
        up[i] = d * silu;
        gate[i] = d_gate;
    }
    return sum;
}

/* A warp per row: dh[r, 2f] (NULL: not wanted), dweight[r] (likewise) from h[r, 2f], dy[r, f], weight[r]. */
__global__ static void __launch_bounds__(WARP *BLOCK_ROWS)
    swiglu_bwd_kernel(struct groups g, int64_t f, const bf16 *h, const bf16 *dy, const float *weight,
                      bf16 *dh, float *dweight, bool add)
{
    const int64_t row = (int64_t)blockIdx.x * BLOCK_ROWS + threadIdx.x / WARP;
    float sum = 0;
    if (row >= groups_edge(&g, g.n_experts))
        return;
    const float w = weight[row];
#pragma unroll 2
    for (int64_t i = threadIdx.x % WARP * VEC; i < f; i += WARP * VEC) {
        float gate[VEC], up[VEC], d[VEC];
        load8(gate, h + row * 2 * f + i);
        load8(up, h + row * 2 * f + f + i);
        load8(d, dy + row * f + i);
        sum += swiglu_bwd(gate, up, d, w);
        if (dh) {
            store8(dh + row * 2 * f + i, gate);
            store8(dh + row * 2 * f + f + i, up);
        }
    }
    sum = warp_sum(sum);
    if (dweight && threadIdx.x % WARP == 0)
        dweight[row] = add ? dweight[row] + sum : sum;
}

extern "C" void expert_up_bwd_cuda(const struct call *c)
{
    const struct groups g = groups_of(c);
    const int64_t d = c->dim[D], f = c->dim[F];
    bf16 *dh = c->grad[XS] || c->grad[W] ? (bf16 *)c->work : NULL;
    CHECK(!is_wide(c, XS), "the gradient of rows of experts is bfloat16");
    swiglu_bwd_kernel<<<blocks_for(g.n_rows, BLOCK_ROWS), WARP * BLOCK_ROWS, 0, stream_of(c)>>>(
        g, f, (const bf16 *)c->arg[HID], (const bf16 *)c->grad[Y], (const float *)c->arg[GATE], dh,
        (float *)c->grad[GATE], adds(c, GATE));
    LAUNCHED();
    if (c->grad[XS])
        grouped_rows(stream_of(c), &g, NO, d, 2 * f, dh, (const bf16 *)c->arg[W], adds(c, XS),
                     (bf16 *)c->grad[XS]);
    if (c->grad[W])
        grouped_gradient(stream_of(c), &g, (int64_t)c->attr[A_PARTS], 2 * f, d, dh, (const bf16 *)c->arg[XS],
                         adds(c, W), c->grad[W], is_wide(c, W));
}

/* y[r, f] from h[r, 2f] and weight[r] */
__global__ static void __launch_bounds__(WARP *BLOCK_ROWS)
    swiglu_kernel(struct groups g, int64_t f, const bf16 *h, const float *weight, bf16 *y)
{
    const int64_t row = (int64_t)blockIdx.x * BLOCK_ROWS + threadIdx.x / WARP;
    if (row >= groups_edge(&g, g.n_experts))
        return;
    const float w = weight[row];
#pragma unroll 2
    for (int64_t i = threadIdx.x % WARP * VEC; i < f; i += WARP * VEC) {
        float gate[VEC], up[VEC];
        load8(gate, h + row * 2 * f + i);
        load8(up, h + row * 2 * f + f + i);
#pragma unroll
        for (int j = 0; j < VEC; j++)
            gate[j] = swiglu(gate[j], up[j], w);
        store8(y + row * f + i, gate);
    }
}

extern "C" void expert_up_again_cuda(const struct call *c)
{
    const struct groups g = groups_of(c);
    swiglu_kernel<<<blocks_for(g.n_rows, BLOCK_ROWS), WARP * BLOCK_ROWS, 0, stream_of(c)>>>(
        g, c->dim[F], (const bf16 *)c->arg[HID], (const float *)c->arg[GATE], (bf16 *)c->arg[Y]);
    LAUNCHED();
}

extern "C" void expert_up_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(c->dim[R] * 2 * c->dim[F]) * sizeof(bf16);
}
