/* embed.c - y[t] = w[token[t]]. */
#include "ops/embed.h"
#include "graph/op.h"
#include "ops/fill.h"
enum { TOKEN, N = 0, V, D };

static struct embed_part whole(const struct call *c)
{
    return (struct embed_part){ c, c->dim[V], 0, c->dim[V], c->dim[N], c->dim[D] };
}

static void fwd(const struct call *c)
{
    embed_forward(whole(c));
}

static void bwd(const struct call *c)
{
    embed_backward(whole(c));
}

static void fill(const struct call *c, uint64_t seed)
{
    int32_t *token = c->arg[TOKEN];
    for (int64_t t = 0; t < c->dim[N]; t++)
        token[t] = (int32_t)fill_below(c->dim[V], seed, t);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double moved = (double)c->dim[N] * (double)c->dim[D] * 4;
    flops[0] = 0;
    flops[1] = moved / 4;
    bytes[0] = 2 * moved;
    bytes[1] = 3 * moved + (double)c->dim[V] * (double)c->dim[D] * 4;
}

CUDA_KERNELS(embed);
const struct op op_embed = {
    .name = "embed",
    .anno = "token: n @i32, w: v^ d -> y: n d",
    .saved = "token",
    .cost = cost,
    .work = { [CUDA] = embed_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = embed_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = embed_bwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { .dim = { 1, 1, 1 } },
                                       { .dim = { 37, 11, 70 } },
                                       { .dim = { 300, 50, 130 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { .dim = { 1, 1, 8 } },
                                            { .dim = { 37, 11, 72 } },
                                            { .dim = { 2500, 30, 520 } },
                                            { .dim = { 100, 1, 2048 } },
                                            { .dim = { 300, 102400, 8 } },
                                            { .dim = { 0 } } },
};
