/* swiglu.c - y = silu(gate) up, silu(g) = g sigmoid(g) (arXiv 2002.05202). */
#include "base/pool.h"
#include "graph/op.h"
#include "ops/kernel.h"
#include "ops/vector.h"
enum { GATE, UP, Y, N = 0, F };
enum { EACH = 16384 }; /* elements of a task */

WIDE static void silu_times(float *restrict y, const float *restrict gate, const float *restrict up,
                            int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = gate[i] * vector_sigmoid(gate[i]) * up[i];
}

static void fwd_part(void *context, int64_t task)
{
    const struct call *c = context;
    const struct span s = cut_span(c->dim[N] * c->dim[F], EACH, task);
    silu_times((float *)c->arg[Y] + s.from, (const float *)c->arg[GATE] + s.from,
               (const float *)c->arg[UP] + s.from, s.to - s.from);
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N] * c->dim[F], EACH), fwd_part, (void *)c);
}

WIDE static void bwd_gate(float *restrict out, const float *restrict gate, const float *restrict up,
                          const float *restrict dy, int64_t n, float keep)
{
    for (int64_t i = 0; i < n; i++) {
        const float sigma = vector_sigmoid(gate[i]);
        const float d = dy[i] * up[i] * sigma * (1 + gate[i] * (1 - sigma));
        out[i] = keep != 0 ? out[i] + d : d;
    }
}

WIDE static void bwd_up(float *restrict out, const float *restrict gate, const float *restrict dy, int64_t n,
                        float keep)
{
    for (int64_t i = 0; i < n; i++) {
        const float d = dy[i] * gate[i] * vector_sigmoid(gate[i]);
        out[i] = keep != 0 ? out[i] + d : d;
    }
}

static void bwd_part(void *context, int64_t task)
{
    const struct call *c = context;
    const struct span s = cut_span(c->dim[N] * c->dim[F], EACH, task);
    const int64_t n = s.to - s.from;
    const float *gate = (const float *)c->arg[GATE] + s.from, *up = (const float *)c->arg[UP] + s.from;
    const float *dy = (const float *)c->grad[Y] + s.from;
    if (c->grad[GATE])
        bwd_gate((float *)c->grad[GATE] + s.from, gate, up, dy, n, beta_of(c, GATE));
    if (c->grad[UP])
        bwd_up((float *)c->grad[UP] + s.from, gate, dy, n, beta_of(c, UP));
}

static void bwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N] * c->dim[F], EACH), bwd_part, (void *)c);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double n = (double)c->dim[N] * (double)c->dim[F];
    flops[0] = 20 * n;
    flops[1] = 50 * n;
    bytes[0] = 12 * n;
    bytes[1] = 20 * n;
}

CUDA_KERNELS(swiglu);
const struct op op_swiglu = {
    .name = "swiglu",
    .anno = "gate: n f, up: n f -> y: n f",
    .saved = "gate up",
    .cost = cost,
    .work = { [CUDA] = swiglu_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = swiglu_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = swiglu_bwd_cuda },
    .cases =
        (const struct op_case[]){
            { .dim = { 1, 1 } }, { .dim = { 5, 13 } }, { .dim = { 300, 70 } }, { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { .dim = { 1, 8 } },
                                            { .dim = { 5, 104 } },
                                            { .dim = { 299, 72 } },
                                            { .dim = { 3, 10944 } },
                                            { .dim = { 0 } } },
};
