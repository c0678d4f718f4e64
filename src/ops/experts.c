/* experts.c - all experts of a layer: h = xs w_up^T with w_up = [gate rows, up rows], so that a row of h is [gate | up];
 * y = g silu(gate) up, where g is the weight that the router gave to the row; z = y w_down^T. Rows are sorted by
 * (expert, source), see ops/segment.h. The gradient of a weight has the shape [parts][its shape]: one part for all
 * sources, or one for each. y is never kept: backward makes it from h. */
#include "base/num.h"
#include "base/pool.h"
#include "graph/op.h"
#include "ops/fill.h"
#include "ops/segment.h"
#include "ops/vector.h"
enum { XS, GATE, END, W_UP, W_DOWN, HID, Z, R = 0, E, D, S, G, F };
enum { A_TILE, A_PARTS };
enum { WEIGHT_ROWS = 128 }; /* rows of a weight whose gradient is one task */
struct state {              /* all but c and g in the workspace; dz, dh, scratch: backward */
    const struct call *c;
    struct segments g;
    struct rows xs, dz; /* with copies of last tiles */
    float *y;           /* [R F], zero rows as padding; in backward first dy, row by row replaced by y */
    float *dh;          /* [R 2 F], zero rows as padding */
    float *scratch;     /* [panels][F] */
};

static struct segments segments_of(const struct call *c)
{
    return (struct segments){ c->arg[END], c->dim[E], c->dim[S], (int64_t)c->attr[A_TILE] };
}

static int64_t tail_elements(const struct call *c)
{
    return segments_tail_elements(c->dim[E] * c->dim[S], (int64_t)c->attr[A_TILE], c->dim[D]);
}

/* However the rows are spread over the segments. */
static int64_t most_panels(const struct call *c)
{
    const struct segments g = segments_of(c);
    return c->dim[R] / segments_panel_rows(&g) + c->dim[E] * c->dim[S];
}

static struct state state_of(const struct call *c)
{
    const int64_t tails = tail_elements(c), rf = c->dim[R] * c->dim[F];
    float *work = c->work;
    struct state s = { .c = c, .g = segments_of(c) };
    CHECK(c->dim[G] == 2, "%lld matrices in w_up", (long long)c->dim[G]);
    segments_check(&s.g, c->dim[R]);
    s.xs = (struct rows){ c->arg[XS], work, c->dim[D] };
    s.y = work + tails;
    s.dz = (struct rows){ c->grad[Z], s.y + rf, c->dim[D] };
    s.dh = s.y + rf + tails;
    s.scratch = s.dh + 2 * rf;
    return s;
}

static void work(const struct call *c, size_t bytes[2])
{
    const int64_t tails = tail_elements(c), f = c->dim[F];
    bytes[0] = (size_t)(tails + c->dim[R] * f) * sizeof(float);
    bytes[1] = (size_t)(2 * tails + (3 * c->dim[R] + most_panels(c)) * f) * sizeof(float);
}

static struct run padded(const struct state *s, struct run r)
{
    r.to = round_up(r.to, s->g.tile);
    return r;
}

/* Rows between r and the end of its last tile */
static void clear_padding(const struct state *s, struct run r, float *rows, int64_t width)
{
    memset(rows + r.to * width, 0, (size_t)((padded(s, r).to - r.to) * width) * sizeof *rows);
}

static const float *matrix(const struct call *c, int arg, int64_t expert)
{
    return (const float *)c->arg[arg] + expert * (arg == W_UP ? 2 : 1) * c->dim[F] * c->dim[D];
}

WIDE static void silu_times(float *restrict y, const float *restrict h, float g, int64_t f)
{
    for (int64_t i = 0; i < f; i++)
        y[i] = g * h[i] * vector_sigmoid(h[i]) * h[f + i];
}

static void again_panel(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const struct run r = segments_panel(&s->g, task);
    segments_times(&s->g, s->xs, r, TR, 2 * c->dim[F], matrix(c, W_UP, r.expert), 0, c->arg[HID]);
}

static void fwd_panel(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const int64_t f = c->dim[F];
    const struct run r = segments_panel(&s->g, task);
    const struct rows y = { s->y, 0, f };
    again_panel(context, task);
    for (int64_t i = r.from; i < r.to; i++)
        silu_times(s->y + i * f, (const float *)c->arg[HID] + i * 2 * f, ((const float *)c->arg[GATE])[i], f);
    clear_padding(s, r, s->y, f);
    segments_times(&s->g, y, padded(s, r), TR, c->dim[D], matrix(c, W_DOWN, r.expert), 0, c->arg[Z]);
}

static void fwd(const struct call *c)
{
    struct state s = state_of(c);
    segments_copy_tails(&s.g, s.xs);
    pool_run(segments_panels(&s.g), fwd_panel, &s);
}

/* h alone */
static void again(const struct call *c)
{
    struct state s = state_of(c);
    segments_copy_tails(&s.g, s.xs);
    pool_run(segments_panels(&s.g), again_panel, &s);
}

/* Also leaves silu(gate) up, whose product with dy is the gradient of g. */
WIDE static void silu_times_bwd(float *restrict dh, float *restrict silu_up, const float *restrict h, float g,
                                const float *restrict dy, int64_t f)
{
    for (int64_t i = 0; i < f; i++) {
        const float gate = h[i], up = h[f + i], sigma = vector_sigmoid(gate), d = g * dy[i];
        dh[i] = d * up * sigma * (1 + gate * (1 - sigma));
        dh[f + i] = d * gate * sigma;
        silu_up[i] = gate * sigma * up;
    }
}

/* Row i, with dy in its place of s->y: dh, the gradient of its weight, and then y instead of dy. */
static void bwd_row(const struct state *s, int64_t i, float *scratch)
{
    const struct call *c = s->c;
    const int64_t f = c->dim[F];
    const float *h = (const float *)c->arg[HID] + i * 2 * f, g = ((const float *)c->arg[GATE])[i];
    float *y = s->y + i * f, *dgate = c->grad[GATE];
    silu_times_bwd(s->dh + i * 2 * f, scratch, h, g, y, f);
    const float d = dot(y, scratch, f);
    if (dgate)
        dgate[i] = adds(c, GATE) ? dgate[i] + d : d;
    silu_times(y, h, g, f);
}

static void bwd_panel(void *context, int64_t task)
{
    const struct state *s = context;
    const struct call *c = s->c;
    const int64_t f = c->dim[F];
    const struct run r = segments_panel(&s->g, task);
    const struct rows dh = { s->dh, 0, 2 * f };
    segments_times(&s->g, s->dz, r, NO, f, matrix(c, W_DOWN, r.expert), 0, s->y);
    for (int64_t i = r.from; i < r.to; i++)
        bwd_row(s, i, s->scratch + task * f);
    clear_padding(s, r, s->y, f);
    clear_padding(s, r, s->dh, 2 * f);
    if (c->grad[XS])
        segments_times(&s->g, dh, padded(s, r), NO, c->dim[D], matrix(c, W_UP, r.expert), beta_of(c, XS),
                       c->grad[XS]);
}

/* Of one weight: dw = dy^T x for all experts and parts. */
struct weight {
    const struct state *s;
    int arg;
    struct rows dy, x;
};

static int64_t weight_panels(const struct weight *w)
{
    return cut_parts(w->dy.width, WEIGHT_ROWS);
}

/* One panel of rows of one expert's dw, in one part. */
static void bwd_weight(void *context, int64_t task)
{
    const struct weight *w = context;
    const struct call *c = w->s->c;
    const int64_t panel = task % weight_panels(w), at = task / weight_panels(w); /* [parts][e] */
    const struct span columns = cut_span(w->dy.width, WEIGHT_ROWS, panel);
    segments_weight_gradient(&w->s->g, w->dy, w->x, at % c->dim[E], at / c->dim[E], (int64_t)c->attr[A_PARTS],
                             columns, adds(c, w->arg),
                             (float *)c->grad[w->arg] + (at * w->dy.width + columns.from) * w->x.width);
}

static void bwd_weights(const struct state *s, int arg, struct rows dy, struct rows x)
{
    const struct weight w = { s, arg, dy, x };
    if (s->c->grad[arg])
        pool_run((int64_t)s->c->attr[A_PARTS] * s->c->dim[E] * weight_panels(&w), bwd_weight, (void *)&w);
}

static void bwd(const struct call *c)
{
    struct state s = state_of(c);
    const int64_t parts = (int64_t)c->attr[A_PARTS];
    const struct rows y = { s.y, 0, c->dim[F] }, dh = { s.dh, 0, 2 * c->dim[F] };
    CHECK(parts == 1 || parts == c->dim[S], "%lld parts of %lld sources", (long long)parts,
          (long long)c->dim[S]);
    segments_copy_tails(&s.g, s.xs);
    segments_copy_tails(&s.g, s.dz);
    pool_run(segments_panels(&s.g), bwd_panel, &s);
    bwd_weights(&s, W_DOWN, s.dz, y);
    bwd_weights(&s, W_UP, dh, s.xs);
}

static void fill(const struct call *c, uint64_t seed)
{
    fill_end(c->arg[END], c->dim[E] * c->dim[S], c->dim[R], (int64_t)c->attr[A_TILE], seed);
}

static void cost(const struct call *c, double flops[2], double bytes[2])
{
    const double r = (double)c->dim[R], d = (double)c->dim[D], f = (double)c->dim[F], e = (double)c->dim[E];
    flops[0] = 6 * r * d * f + 20 * r * f;
    flops[1] = 12 * r * d * f + 50 * r * f;
    bytes[0] = 4 * (2 * r * d + 3 * e * f * d + 4 * r * f);
    bytes[1] = 4 * (4 * r * d + (3 + 4 * c->attr[A_PARTS]) * e * f * d + 7 * r * f);
}

CUDA_KERNELS(experts);
const struct op op_experts = {
    .name = "experts",
    .anno =
        "xs: r(e) d^, gate: r(e) @f32, end: e s^ @i32, w_up: e g^ f+ d^, w_down: e d^ f+ -> h: r(e) g^ f+, "
        "z: r(e) d^",
    .attrs = "tile parts",
    .saved = "xs gate end w_up w_down h",
    .cost = cost,
    .work = { [CPU] = work, [CUDA] = experts_work_cuda },
    .fwd = { [CPU] = fwd, [CUDA] = experts_fwd_cuda },
    .bwd = { [CPU] = bwd, [CUDA] = experts_bwd_cuda },
    .saved_again = { [CPU] = again, [CUDA] = experts_again_cuda },
    .saved_again_part = 2.0 / 3,
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
                                            { { 330, 37, 264, 1, 2, 40 }, { 1, 1 } },
                                            { { 1536, 4, 64, 1, 2, 8 }, { 256, 1 } },
                                            { { 1536, 9, 64, 1, 2, 1408 }, { 128, 1 } },
                                            { { 384, 1, 136, 1, 2, 1416 }, { 128, 1 } },
                                            { .dim = { 0 } } },
};
