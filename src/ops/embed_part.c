/* embed_part.c - of y[t] = w[token[t]] the rows of w from `first` on: zero where the token has another row, so that the
 * sum over all parts of the vocabulary is y. */
#include "graph/op.h"
#include "ops/embed.h"
#include "ops/fill.h"
enum { TOKEN, N = 0, V, D, VOCAB = 0, FIRST };

static struct embed_part here(const struct call *c)
{
    return (struct embed_part){ c,         c->dim[V], (int64_t)c->attr[FIRST], (int64_t)c->attr[VOCAB],
                                c->dim[N], c->dim[D] };
}

static void fwd(const struct call *c)
{
    embed_forward(here(c));
}

static void bwd(const struct call *c)
{
    embed_backward(here(c));
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
