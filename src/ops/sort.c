/* sort.c - the n*k copies of tokens, sorted by (expert, token): segment e begins at the next multiple of
 * `tile` after segment e-1. row[i] is the copy t*k+j in row i, or -1 where there is none, or -2 behind the last tile;
 * place is its inverse; end[e] is the end of segment e without padding. */
#include "base/err.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/kernel.h"
enum { TOP, ROW, PLACE, END, N = 0, K, R, E, S };
enum { A_R, A_E, A_S, A_TILE };

/* end[e] = where segment e begins; returns the first row behind the last tile */
static int64_t begins(const struct call *c, int32_t *end)
{
    const int64_t copies = c->dim[N] * c->dim[K], e = c->dim[E], tile = (int64_t)c->attr[A_TILE];
    const int32_t *top = c->arg[TOP];
    int64_t at = 0, last = 0;
    memset(end, 0, (size_t)e * sizeof *end);
    for (int64_t i = 0; i < copies; i++) {
        CHECK(top[i] >= 0 && top[i] < e, "expert %d of %lld", top[i], (long long)e);
        end[top[i]]++;
    }
    for (int64_t i = 0; i < e; i++) {
        const int64_t n = end[i];
        end[i] = (int32_t)(at = round_up(last, tile));
        last = at + n;
    }
    return round_up(last, tile);
}

static void fwd(const struct call *c)
{
    const int64_t copies = c->dim[N] * c->dim[K];
    const int32_t *top = c->arg[TOP];
    int32_t *row = c->arg[ROW], *place = c->arg[PLACE], *end = c->arg[END];
    CHECK(c->dim[S] == 1, "%lld sources; copies are sorted where they are made", (long long)c->dim[S]);
    const int64_t last = begins(c, end);
    CHECK(last <= c->dim[R], "%lld rows needed, room for %lld", (long long)last, (long long)c->dim[R]);
    for (int64_t i = 0; i < c->dim[R]; i++)
        row[i] = i < last ? -1 : -2;
    for (int64_t i = 0; i < copies; i++) {
        place[i] = end[top[i]]++;
        row[place[i]] = (int32_t)i;
    }
}

static void fill(const struct call *c, uint64_t seed)
{
    fill_top(c->arg[TOP], c->dim[N], c->dim[K], c->dim[E], seed);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    flops[0] = flops[1] = bytes[1] = 0;
    bytes[0] = 4.0 * (double)(5 * c->dim[N] * c->dim[K] + c->dim[R]);
}

CUDA_KERNELS(sort);
const struct op op_sort = {
    .name = "sort",
    .anno = "top: n k^ @i32 -> row: r(n) @i32, place: n k^ @i32, end: e^ s^ @i32",
    .attrs = "r e s tile",
    .cost = cost,
    .work = { [CUDA] = sort_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = sort_fwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { { 1, 1, 1, 1, 1 }, { 1, 1, 1, 1 } },
                                       { { 40, 3, 120, 5, 1 }, { 120, 5, 1, 1 } },
                                       { { 40, 3, 176, 7, 1 }, { 176, 7, 1, 8 } },
                                       { { 9, 2, 100, 16, 1 }, { 100, 16, 1, 4 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 1, 1, 1, 1, 1 }, { 1, 1, 1, 1 } },
                                            { { 40, 3, 120, 5, 1 }, { 120, 5, 1, 1 } },
                                            { { 1, 6, 48, 64, 1 }, { 48, 64, 1, 8 } },
                                            { { 1001, 6, 14208, 64, 1 }, { 14208, 64, 1, 128 } },
                                            { { 523, 6, 5552, 160, 1 }, { 5552, 160, 1, 16 } },
                                            { { 300, 8, 5984, 512, 1 }, { 5984, 512, 1, 8 } },
                                            { { 700, 2, 1400, 2, 1 }, { 1400, 2, 1, 1 } },
                                            { { 5000, 1, 5120, 1, 1 }, { 5120, 1, 1, 128 } },
                                            { { 16385, 6, 106496, 64, 1 }, { 106496, 64, 1, 128 } },
                                            { .dim = { 0 } } },
};
