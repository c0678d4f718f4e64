/* segment.h - rows sorted by (expert, source): segment i = e S + s begins at the next multiple of `tile` after
 * the end of segment i-1 and ends at end[i]; one that ends before it begins is empty. Rows between segments
 * are never read as data.
 *
 * tile = 1: segments touch each other, so an expert's rows are one product.
 * tile > 1: the reproducible way. Every product is a call with exactly `tile` rows, so the bits of a row do
 * not depend on how many others there are; a segment's last tile is padded with zero rows in a copy. */
#pragma once
#include "base/blas.h"
#include "base/err.h"
#include "ops/kernel.h"
enum { PANEL_ROWS = 256 };
struct segments {
    const int32_t *end;
    int64_t n_experts, n_sources, tile;
};
/* Rows that follow each other: of one expert (tile = 1) or of one segment. */
struct run {
    int64_t index, expert, from, to;
};
/* A matrix of rows, and the padded copies of the last tiles: [runs][tile][width]; unused when tile = 1, NULL
 * where the matrix itself has zero rows as padding. */
struct rows {
    const float *at;
    float *tails;
    int64_t width;
};

static inline int64_t segments_begin(const struct segments *g, int64_t i)
{
    return i == 0 ? 0 : round_up(g->end[i - 1], g->tile);
}

static inline int64_t segments_per_run(const struct segments *g)
{
    return g->tile == 1 ? g->n_sources : 1;
}

static inline int64_t segments_runs(const struct segments *g)
{
    return g->n_experts * g->n_sources / segments_per_run(g);
}

/* The rows of n segments that touch, from number `first` on. */
static inline struct run segments_rows(const struct segments *g, int64_t index, int64_t first, int64_t n)
{
    const int64_t from = segments_begin(g, first), end = g->end[first + n - 1];
    return (struct run){ index, first / g->n_sources, from, end > from ? end : from };
}

static inline struct run segments_run(const struct segments *g, int64_t i)
{
    const int64_t each = segments_per_run(g);
    return segments_rows(g, i, i * each, each);
}

/* The ends come from another kernel; wrong ones would write anywhere. */
static inline void segments_check(const struct segments *g, int64_t n_rows)
{
    CHECK(g->tile > 0 && n_rows % g->tile == 0, "%lld rows in tiles of %lld", (long long)n_rows,
          (long long)g->tile);
    for (int64_t i = 0; i < g->n_experts * g->n_sources; i++)
        CHECK(g->end[i] >= (i ? g->end[i - 1] : 0) && g->end[i] <= n_rows,
              "segment %lld ends at %d of %lld rows", (long long)i, g->end[i], (long long)n_rows);
}

/* Rows of a panel, the share of one task. */
static inline int64_t segments_panel_rows(const struct segments *g)
{
    return g->tile < PANEL_ROWS ? PANEL_ROWS / g->tile * g->tile : g->tile;
}

static inline int64_t segments_panels(const struct segments *g)
{
    int64_t n = 0;
    for (int64_t i = 0; i < segments_runs(g); i++) {
        const struct run r = segments_run(g, i);
        n += cut_parts(r.to - r.from, segments_panel_rows(g));
    }
    return n;
}

/* Panel number `panel`, as a part of its run. */
static inline struct run segments_panel(const struct segments *g, int64_t panel)
{
    const int64_t each = segments_panel_rows(g);
    for (int64_t i = 0; i < segments_runs(g); i++) {
        struct run r = segments_run(g, i);
        const int64_t n = cut_parts(r.to - r.from, each);
        if (panel < n) {
            const struct span s = cut_span(r.to - r.from, each, panel);
            return (struct run){ i, r.expert, r.from + s.from, r.from + s.to };
        }
        panel -= n;
    }
    die("panel beyond the segments");
}

/* Elements of the copies of last tiles of a matrix. */
static inline int64_t segments_tail_elements(int64_t n_segments, int64_t tile, int64_t width)
{
    return tile == 1 ? 0 : round_up(n_segments * tile * width, 16);
}

/* Makes the copies of the last tiles. */
static inline void segments_copy_tails(const struct segments *g, struct rows m)
{
    for (int64_t i = 0; i < segments_runs(g) && g->tile > 1; i++) {
        const struct run r = segments_run(g, i);
        const int64_t n = (r.to - r.from) % g->tile;
        float *tail = m.tails + i * g->tile * m.width;
        memcpy(tail, m.at + (r.to - n) * m.width, (size_t)(n * m.width) * sizeof *tail);
        memset(tail + n * m.width, 0, (size_t)((g->tile - n) * m.width) * sizeof *tail);
    }
}

/* The `tile` rows from `row` on, padded with zeros. */
static inline const float *segments_tile(const struct segments *g, struct rows m, struct run r, int64_t row)
{
    return row + g->tile <= r.to || !m.tails ? m.at + row * m.width : m.tails + r.index * g->tile * m.width;
}

/* out[rows of r] = in[the same rows] op(w) + beta out, with out of width n. Also writes the padding rows that
 * belong to r. r must begin at a tile. */
static inline void segments_times(const struct segments *g, struct rows in, struct run r, enum trans tw,
                                  int64_t n, const float *w, float beta, float *out)
{
    const int64_t k = in.width, ldw = tw == TR ? k : n;
    if (g->tile == 1)
        gemm(NO, tw, r.to - r.from, n, k, 1, in.at + r.from * k, k, w, ldw, beta, out + r.from * n, n);
    for (int64_t i = r.from; i < r.to && g->tile > 1; i += g->tile)
        gemm(NO, tw, g->tile, n, k, 1, segments_tile(g, in, r, i), k, w, ldw, beta, out + i * n, n);
}

/* dw[columns of dy, width of x] (+)= dy^T x over the rows of r; `columns` are those of dy that make the rows of
 * dw. Tiles are added one by one in the order of rows. Returns beta for the next run of the same dw. */
static inline float segments_gradient(const struct segments *g, struct rows dy, struct rows x, struct run r,
                                      struct span columns, float beta, float *dw)
{
    const int64_t m = columns.to - columns.from, step = g->tile == 1 ? r.to - r.from : g->tile;
    for (int64_t i = r.from; i < r.to; i += step) {
        const float *a = g->tile == 1 ? dy.at + i * dy.width : segments_tile(g, dy, r, i);
        const float *b = g->tile == 1 ? x.at + i * x.width : segments_tile(g, x, r, i);
        gemm(TR, NO, m, x.width, step, 1, a + columns.from, dy.width, b, x.width, beta, dw, x.width);
        beta = 1;
    }
    return beta;
}

/* The gradient of some rows of one expert's weight in part `part` of `parts`: all sources (parts = 1) or source
 * `part`. Zeros where there is no row. */
static inline void segments_weight_gradient(const struct segments *g, struct rows dy, struct rows x,
                                            int64_t expert, int64_t part, int64_t parts, struct span columns,
                                            bool add, float *dw)
{
    float beta = add ? 1 : 0;
    const int64_t s0 = parts == 1 ? 0 : part, s1 = parts == 1 ? g->n_sources : part + 1;
    const int64_t step = g->tile == 1 ? s1 - s0 : 1;
    for (int64_t s = s0; s < s1; s += step) {
        const int64_t first = expert * g->n_sources + s, index = g->tile == 1 ? expert : first;
        beta = segments_gradient(g, dy, x, segments_rows(g, index, first, step), columns, beta, dw);
    }
    if (beta == 0)
        memset(dw, 0, (size_t)((columns.to - columns.from) * x.width) * sizeof *dw);
}
