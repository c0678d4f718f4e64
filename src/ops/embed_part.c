/* embed_part.c - of y[t] = w[token[t]] the rows of w from `first` on: zero where the token has another row, so that the
 * sum over all parts of the vocabulary is y. */
#include "base/err.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { TOKEN, W, Y, N = 0, V, D, VOCAB = 0, FIRST };
enum { COLUMNS = 64 };

/* Row of w that token t has; -1: none here. */
static int64_t row_of(const struct call *c, int64_t t)
{
    const int64_t token = ((const int32_t *)c->arg[TOKEN])[t], row = token - (int64_t)c->attr[FIRST];
    CHECK(token >= 0 && token < (int64_t)c->attr[VOCAB], "token %lld of %.0f", (long long)token,
          c->attr[VOCAB]);
    return row >= 0 && row < c->dim[V] ? row : -1;
}

static void fwd_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const float *w = c->arg[W];
    float *y = c->arg[Y];
    const int64_t d = c->dim[D];
    const struct span s = cut_span(c->dim[N], cut_rows(d), task);
    for (int64_t t = s.from; t < s.to; t++) {
        const int64_t row = row_of(c, t);
        if (row < 0)
            memset(y + t * d, 0, (size_t)d * sizeof *y);
        else
            memcpy(y + t * d, w + row * d, (size_t)d * sizeof *y);
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
    const float *dy = c->grad[Y];
    float *dw = c->grad[W];
    const int64_t d = c->dim[D];
    const struct span s = cut_span(d, COLUMNS, task);
    for (int64_t v = 0; v < c->dim[V] && !adds(c, W); v++)
        memset(dw + v * d + s.from, 0, (size_t)(s.to - s.from) * sizeof *dw);
    for (int64_t t = 0; t < c->dim[N]; t++) {
        const int64_t row = row_of(c, t);
        for (int64_t i = s.from; i < s.to && row >= 0; i++)
            dw[row * d + i] += dy[t * d + i];
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
        token[t] = (int32_t)fill_below((int64_t)c->attr[VOCAB], seed, t);
}

/* Tokens are taken to be spread evenly. */
static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double moved = (double)c->dim[N] * (double)c->dim[D] * 4,
                 here = moved * (double)c->dim[V] / c->attr[VOCAB];
    flops[0] = 0;
    flops[1] = here / 4;
    bytes[0] = moved + here;
    bytes[1] = 3 * here + (double)c->dim[V] * (double)c->dim[D] * 4;
}

CUDA_KERNELS(embed_part);
const struct op op_embed_part = {
    .name = "embed_part",
    .anno = "token: n @i32, w: v+ d -> y: n d",
    .attrs = "vocab first",
    .saved = "token",
    .cost = cost,
    .work = { [CUDA] = embed_part_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = embed_part_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = embed_part_bwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { { 1, 1, 1 }, { 1, 0 } },
                                       { { 37, 11, 70 }, { 33, 11 } },
                                       { { 300, 50, 130 }, { 50, 0 } },
                                       { { 90, 7, 9 }, { 400, 393 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 8 }, { 1, 0 } },
                                            { { 37, 11, 72 }, { 33, 11 } },
                                            { { 37, 11, 72 }, { 40, 0 } },
                                            { { 2500, 10, 520 }, { 30, 20 } }, /* long lists */
                                            { { 100, 1, 2048 }, { 1, 0 } },
                                            { { 5, 3, 16 }, { 100000, 99997 } }, /* often no token at all */
                                            { { 300, 25600, 8 }, { 102400, 51200 } },
                                            { .dim = { 0 } } },
};
