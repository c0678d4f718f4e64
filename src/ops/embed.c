/* embed.c - y[t] = w[token[t]]. */
#include "base/err.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { TOKEN, W, Y, N = 0, V, D };
enum { COLUMNS = 64 };

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int32_t *token = c->arg[TOKEN];
    const float *w = c->arg[W];
    float *y = c->arg[Y];
    const int64_t d = c->dim[D];
    const struct span s = cut_span(c->dim[N], cut_rows(d), task);
    for (int64_t t = s.from; t < s.to; t++) {
        CHECK(token[t] >= 0 && token[t] < c->dim[V], "token %d of %lld", token[t], (long long)c->dim[V]);
        memcpy(y + t * d, w + token[t] * d, (size_t)d * sizeof *y);
    }
}

static void fwd(const struct call *c)
{
    pool_run(cut_parts(c->dim[N], cut_rows(c->dim[D])), fwd_rows, (void *)c);
}

/* One task owns some columns of all rows of dw and adds the tokens in their order. */
static void bwd_columns(void *context, int64_t task)
{
    const struct call *c = context;
    const int32_t *token = c->arg[TOKEN];
    const float *dy = c->grad[Y];
    float *dw = c->grad[W];
    const int64_t d = c->dim[D];
    const struct span s = cut_span(d, COLUMNS, task);
    for (int64_t v = 0; v < c->dim[V] && !adds(c, W); v++)
        memset(dw + v * d + s.from, 0, (size_t)(s.to - s.from) * sizeof *dw);
    for (int64_t t = 0; t < c->dim[N]; t++) {
        float *to = dw + token[t] * d;
        for (int64_t i = s.from; i < s.to; i++)
            to[i] += dy[t * d + i];
    }
}

static void bwd(const struct call *c)
{
    if (c->grad[W])
        pool_run(cut_parts(c->dim[D], COLUMNS), bwd_columns, (void *)c);
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
