/* expert_down.c - second half of the experts: z = y w^T, rows sorted by (expert, source), see ops/segment.h.
 * The gradient of w has the shape [parts][e d f]: one part for all sources, or one for each. */
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/segment.h"
enum { Y, END, W, Z, R = 0, E, F, S, D };
enum { A_TILE, A_PARTS };
enum { WEIGHT_ROWS = 128 }; /* rows of w whose gradient is one task */
struct state {
    const struct call *c;
    struct segments g;
    struct rows y, dz;
};

static int64_t tail_elements(const struct call *c, int64_t width)
{
    return segments_tail_elements(c->dim[E] * c->dim[S], (int64_t)c->attr[A_TILE], width);
}

static struct state state_of(const struct call *c)
{
    float *tails = c->work;
    struct state s = { .c = c, .g = { c->arg[END], c->dim[E], c->dim[S], (int64_t)c->attr[A_TILE] } };
    segments_check(&s.g, c->dim[R]);
    s.y = (struct rows){ c->arg[Y], tails, c->dim[F] };
    s.dz = (struct rows){ c->grad[Z], tails + tail_elements(c, c->dim[F]), c->dim[D] };
    return s;
}

static void fwd_panel(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const struct run r = segments_panel(&s->g, task);
    const float *w = (const float *)c->arg[W] + r.expert * c->dim[D] * c->dim[F];
    segments_times(&s->g, s->y, r, TR, c->dim[D], w, 0, c->arg[Z]);
}

static void fwd(const struct call *c)
{
    struct state s = state_of(c);
    segments_copy_tails(&s.g, s.y);
    pool_run(segments_panels(&s.g), fwd_panel, &s);
}

static void bwd_panel(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const struct run r = segments_panel(&s->g, task);
    const float *w = (const float *)c->arg[W] + r.expert * c->dim[D] * c->dim[F];
    segments_times(&s->g, s->dz, r, NO, c->dim[F], w, beta_of(c, Y), c->grad[Y]);
}

static int64_t weight_panels(const struct call *c)
{
    return cut_parts(c->dim[D], WEIGHT_ROWS);
}

/* One panel of rows of one expert's dw, in one part. */
static void bwd_weight(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const int64_t panel = task % weight_panels(c), matrix = task / weight_panels(c); /* [parts][e] */
    const struct span columns = cut_span(c->dim[D], WEIGHT_ROWS, panel);
    segments_weight_gradient(&s->g, s->dz, s->y, matrix % c->dim[E], matrix / c->dim[E],
                             (int64_t)c->attr[A_PARTS], columns, adds(c, W),
                             (float *)c->grad[W] + (matrix * c->dim[D] + columns.from) * c->dim[F]);
}

static void bwd(const struct call *c)
{
    struct state s = state_of(c);
    const int64_t parts = (int64_t)c->attr[A_PARTS];
    CHECK(parts == 1 || parts == c->dim[S], "%lld parts of %lld sources", (long long)parts,
          (long long)c->dim[S]);
    segments_copy_tails(&s.g, s.y);
    segments_copy_tails(&s.g, s.dz);
    if (c->grad[Y])
        pool_run(segments_panels(&s.g), bwd_panel, &s);
    if (c->grad[W])
        pool_run(parts * c->dim[E] * weight_panels(c), bwd_weight, &s);
}

static void work(const struct call *c, size_t bytes[2])
{
    bytes[0] = (size_t)tail_elements(c, c->dim[F]) * sizeof(float);
    bytes[1] = bytes[0] + (size_t)tail_elements(c, c->dim[D]) * sizeof(float);
}

static void fill(const struct call *c, uint64_t seed)
{
    fill_end(c->arg[END], c->dim[E] * c->dim[S], c->dim[R], (int64_t)c->attr[A_TILE], seed);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double r = (double)c->dim[R], d = (double)c->dim[D], f = (double)c->dim[F], e = (double)c->dim[E];
    flops[0] = 2 * r * d * f;
    flops[1] = 4 * r * d * f;
    bytes[0] = 4 * (r * d + e * f * d + r * f);
    bytes[1] = 4 * (2 * r * d + (1 + 2 * c->attr[A_PARTS]) * e * f * d + 2 * r * f);
}

CUDA_KERNELS(expert_down);
const struct op op_expert_down = {
    .name = "expert_down",
    .anno = "y: r(e) f+, end: e s^ @i32, w: e d^ f+ -> z: r(e) d^",
    .attrs = "tile parts",
    .saved = "y end w",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = expert_down_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = expert_down_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = expert_down_bwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { { 1, 1, 1, 1, 1 }, { 1, 1 } },
                                       { { 40, 5, 9, 1, 7 }, { 1, 1 } },
                                       { { 700, 4, 70, 2, 24 }, { 1, 1 } },
                                       { { 60, 3, 9, 2, 6 }, { 1, 2 } },
                                       { { 96, 4, 17, 1, 6 }, { 8, 1 } },
                                       { { 120, 3, 10, 3, 5 }, { 4, 3 } },
                                       { { 120, 3, 10, 3, 5 }, { 4, 1 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 8, 1, 8, 1, 8 }, { 1, 1 } },
                                            { { 40, 5, 24, 1, 16 }, { 1, 1 } },
                                            { { 700, 4, 136, 2, 72 }, { 1, 1 } },
                                            { { 330, 37, 40, 1, 264 }, { 1, 1 } },
                                            { { 200, 4, 16, 1, 24 }, { 8, 1 } },
                                            { { 240, 3, 8, 3, 40 }, { 8, 1 } },
                                            { { 1024, 5, 192, 1, 256 }, { 128, 1 } },
                                            { { 640, 3, 328, 1, 136 }, { 128, 1 } },
                                            { { 512, 1, 136, 1, 520 }, { 128, 1 } },
                                            { { 1152, 2, 40, 3, 8 }, { 128, 1 } },
                                            { { 1152, 2, 40, 3, 8 }, { 128, 3 } },
                                            { { 1536, 3, 264, 2, 136 }, { 128, 2 } },
                                            { { 240, 3, 24, 3, 40 }, { 8, 3 } },
                                            { { 1536, 4, 8, 1, 64 }, { 256, 1 } },
                                            { .dim = { 0 } } },
};
