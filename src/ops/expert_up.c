/* expert_up.c - first half of the experts: h = xs w^T with w = [gate rows, up rows], so that a row of h is
 * [gate | up]; y = g silu(gate) up, where g is the weight that the router gave to the row. Rows are sorted by (expert, source), see ops/segment.h. The gradient of w
 * has the shape [parts][e g f d]: one part for all sources, or one for each. */
#include "base/num.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/segment.h"
#include "ops/vector.h"
enum { XS, GATE, END, W, HID, Y, R = 0, E, D, S, G, F };
enum { A_TILE, A_PARTS };
enum { WEIGHT_ROWS = 128 }; /* rows of w whose gradient is one task */
struct state {
    const struct call *c;
    struct segments g;
    struct rows xs, dh;
};

static struct segments segments_of(const struct call *c)
{
    return (struct segments){ c->arg[END], c->dim[E], c->dim[S], (int64_t)c->attr[A_TILE] };
}

WIDE static void silu_times(float *restrict y, const float *restrict h, float g, int64_t f)
{
    for (int64_t i = 0; i < f; i++)
        y[i] = g * h[i] * vector_sigmoid(h[i]) * h[f + i];
}

static void fwd_panel(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const int64_t d = c->dim[D], f = c->dim[F], width = 2 * f;
    const struct run r = segments_panel(&s->g, task);
    float *h = c->arg[HID], *y = c->arg[Y];
    segments_times(&s->g, s->xs, r, TR, width, (const float *)c->arg[W] + r.expert * width * d, 0, h);
    for (int64_t i = r.from; i < r.to; i++)
        silu_times(y + i * f, h + i * width, ((const float *)c->arg[GATE])[i], f);
}

static void again_rows(void *context, int64_t task)
{
    const struct call *c = context;
    const int64_t f = c->dim[F];
    const struct segments g = segments_of(c);
    const struct run r = segments_panel(&g, task);
    for (int64_t i = r.from; i < r.to; i++)
        silu_times((float *)c->arg[Y] + i * f, (const float *)c->arg[HID] + i * 2 * f,
                   ((const float *)c->arg[GATE])[i], f);
}

/* y from h, without the product */
static void again(const struct call *c)
{
    const struct segments g = segments_of(c);
    pool_run(segments_panels(&g), again_rows, (void *)c);
}

static struct state state_of(const struct call *c)
{
    struct state s = { .c = c, .g = segments_of(c) };
    CHECK(c->dim[G] == 2, "%lld matrices in w", (long long)c->dim[G]);
    segments_check(&s.g, c->dim[R]);
    s.xs = (struct rows){ c->arg[XS], c->work, c->dim[D] };
    return s;
}

static int64_t tail_elements(const struct call *c)
{
    return segments_tail_elements(c->dim[E] * c->dim[S], (int64_t)c->attr[A_TILE], c->dim[D]);
}

static void fwd(const struct call *c)
{
    struct state s = state_of(c);
    segments_copy_tails(&s.g, s.xs);
    pool_run(segments_panels(&s.g), fwd_panel, &s);
}

/* Also leaves silu(gate) up, whose product with dy is the gradient of g, in y. */
WIDE static void silu_times_bwd(float *restrict dh, float *restrict y, const float *restrict h, float g,
                                const float *restrict dy, int64_t f)
{
    for (int64_t i = 0; i < f; i++) {
        const float gate = h[i], up = h[f + i], sigma = vector_sigmoid(gate), d = g * dy[i];
        dh[i] = d * up * sigma * (1 + gate * (1 - sigma));
        dh[f + i] = d * gate * sigma;
        y[i] = gate * sigma * up;
    }
}

static void gate_bwd(const struct call *c, int64_t row, const float *y)
{
    float *dgate = c->grad[GATE];
    const float d = dot((const float *)c->grad[Y] + row * c->dim[F], y, c->dim[F]);
    if (dgate)
        dgate[row] = adds(c, GATE) ? dgate[row] + d : d;
}

/* dh in c->work, with zero rows as padding, and dxs = dh w. */
static void bwd_panel(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const int64_t d = c->dim[D], f = c->dim[F], width = 2 * f;
    const struct run r = segments_panel(&s->g, task);
    const struct run padded = { r.index, r.expert, r.from, round_up(r.to, s->g.tile) };
    const float *h = c->arg[HID], *dy = c->grad[Y];
    float *dh = (float *)c->work + tail_elements(c);
    float *y = dh + c->dim[R] * width + task * f;
    for (int64_t i = r.from; i < r.to; i++) {
        silu_times_bwd(dh + i * width, y, h + i * width, ((const float *)c->arg[GATE])[i], dy + i * f, f);
        gate_bwd(c, i, y);
    }
    memset(dh + r.to * width, 0, (size_t)((padded.to - r.to) * width) * sizeof *dh);
    if (c->grad[XS])
        segments_times(&s->g, s->dh, padded, NO, d, (const float *)c->arg[W] + r.expert * width * d,
                       beta_of(c, XS), c->grad[XS]);
}

static int64_t weight_panels(const struct call *c)
{
    return cut_parts(2 * c->dim[F], WEIGHT_ROWS);
}

/* One panel of rows of one expert's dw, in one part. */
static void bwd_weight(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const int64_t d = c->dim[D], width = 2 * c->dim[F], panel = task % weight_panels(c);
    const int64_t matrix = task / weight_panels(c); /* [parts][e] */
    const struct span columns = cut_span(width, WEIGHT_ROWS, panel);
    segments_weight_gradient(&s->g, s->dh, s->xs, matrix % c->dim[E], matrix / c->dim[E],
                             (int64_t)c->attr[A_PARTS], columns, adds(c, W),
                             (float *)c->grad[W] + (matrix * width + columns.from) * d);
}

static void bwd(const struct call *c)
{
    struct state s = state_of(c);
    const int64_t parts = (int64_t)c->attr[A_PARTS];
    const float *dh = (const float *)c->work + tail_elements(c);
    CHECK(parts == 1 || parts == c->dim[S], "%lld parts of %lld sources", (long long)parts,
          (long long)c->dim[S]);
    s.dh = (struct rows){ dh, 0, 2 * c->dim[F] };
    pool_run(segments_panels(&s.g), bwd_panel, &s);
    if (!c->grad[W])
        return;
    segments_copy_tails(&s.g, s.xs);
    pool_run(parts * c->dim[E] * weight_panels(c), bwd_weight, &s);
}

/* However the rows are spread over the segments. */
static int64_t most_panels(const struct call *c)
{
    const struct segments g = segments_of(c);
    return c->dim[R] / segments_panel_rows(&g) + c->dim[E] * c->dim[S];
}

static void work(const struct call *c, size_t bytes[2])
{
    bytes[0] = (size_t)tail_elements(c) * sizeof(float);
    bytes[1] = bytes[0] + (size_t)((c->dim[R] * 2 + most_panels(c)) * c->dim[F]) * sizeof(float);
}

static void fill(const struct call *c, uint64_t seed)
{
    fill_end(c->arg[END], c->dim[E] * c->dim[S], c->dim[R], (int64_t)c->attr[A_TILE], seed);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double r = (double)c->dim[R], d = (double)c->dim[D], f = (double)c->dim[F], e = (double)c->dim[E];
    flops[0] = 4 * r * d * f + 20 * r * f;
    flops[1] = 8 * r * d * f + 50 * r * f;
    bytes[0] = 4 * (r * d + 2 * e * f * d + 3 * r * f);
    bytes[1] = 4 * (2 * r * d + (2 + 2 * c->attr[A_PARTS]) * e * f * d + 5 * r * f);
}

CUDA_KERNELS(expert_up);
const struct op op_expert_up = {
    .name = "expert_up",
    .anno = "xs: r(e) d^, gate: r(e) @f32, end: e s^ @i32, w: e g^ f d^ -> h: r(e) g^ f, y: r(e) f",
    .attrs = "tile parts",
    .saved = "xs gate end w h",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = expert_up_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = expert_up_fwd_cuda },
    .again = { [CPU] = again, [CUDA] = expert_up_again_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = expert_up_bwd_cuda },
    .fill = fill,
    .cases = (const struct op_case[]){ { { 1, 1, 1, 1, 2, 1 }, { 1, 1 } },
                                       { { 40, 5, 9, 1, 2, 7 }, { 1, 1 } },
                                       { { 700, 4, 24, 2, 2, 70 }, { 1, 1 } },
                                       { { 60, 3, 9, 2, 2, 6 }, { 1, 2 } },
                                       { { 96, 4, 17, 1, 2, 6 }, { 8, 1 } },
                                       { { 120, 3, 10, 3, 2, 5 }, { 4, 3 } },
                                       { { 120, 3, 10, 3, 2, 5 }, { 4, 1 } },
                                       { .dim = { 0 } } },
    .cuda_cases = (const struct op_case[]){ { { 8, 1, 8, 1, 2, 8 }, { 1, 1 } },
                                            { { 40, 5, 16, 1, 2, 24 }, { 1, 1 } },
                                            { { 700, 4, 72, 2, 2, 136 }, { 1, 1 } },
                                            { { 200, 4, 24, 1, 2, 16 }, { 8, 1 } },
                                            { { 240, 3, 40, 3, 2, 8 }, { 8, 1 } },
                                            { { 1024, 5, 256, 1, 2, 192 }, { 128, 1 } },
                                            { { 640, 3, 136, 1, 2, 328 }, { 128, 1 } },
                                            { { 512, 1, 72, 1, 2, 136 }, { 128, 1 } },
                                            { { 1152, 2, 8, 3, 2, 40 }, { 128, 1 } },
                                            { { 1152, 2, 8, 3, 2, 40 }, { 128, 3 } },
                                            { { 1536, 3, 136, 2, 2, 264 }, { 128, 2 } },
                                            { { 240, 3, 40, 3, 2, 24 }, { 8, 3 } },
                                            { { 1536, 4, 64, 1, 2, 8 }, { 256, 1 } },
                                            { .dim = { 0 } } },
};
