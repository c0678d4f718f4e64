/* grouped_walk.cuh - how a block of grouped_hopper.cu walks over the tiles of all experts. */
#pragma once
#include "cuda/grouped.cuh"
#include "cuda/grouped_plan.cuh"
#include "cuda/hopper.cuh"
enum form { UP, ROWS_TR, ROWS_NO, BACK, GRADIENT, GRADIENT_WIDE };
enum { MOST_EXPERTS = 256 };
#ifndef GROUPED_CLUSTER
#define GROUPED_CLUSTER 2
#endif
enum { CLUSTER = GROUPED_CLUSTER }; /* blocks: 1 or 2 */
struct edges {                      /* in shared memory */
    int32_t edge[MOST_EXPERTS + 1]; /* rows of expert e: [edge[e], edge[e + 1]) */
    int32_t end[MOST_EXPERTS];      /* of the last segment of e: behind it, up to the edge, rows are zero */
};
struct job {
    struct groups g;
    int m, n,
        k; /* rows of a matrix (gradient), columns of the output (UP: of y), contraction (not gradient) */
    bool add;
    const float *weight; /* UP, BACK */
    float *partial;      /* BACK: [columns of tiles][n_rows] */
    int parts;           /* of the gradient: groups_plane() */
};
struct tile {
    int expert, row, column; /* of the output: rows of all experts, or of one matrix (gradient) */
    int from, steps; /* of the contraction: first element, number of steps of TILE_DEPTH, at least 1 */
    int parts;       /* how many halves of its 256 columns exist; UP has all or none */
    bool same_rows;  /* the pair shares A; else B */
};
/* Where a thread is in the list. */
struct walk {
    int unit, expert; /* the next unit, counted from the first one of expert */
};

__host__ __device__ static constexpr bool is_gradient(enum form form)
{
    return form >= GRADIENT;
}

/* Of which forms results leave while the next tile is multiplied (grouped_later.cuh): a bit for each. */
#ifndef GROUPED_LATER
/* On an H200 UP gains 3 to 8 %, GRADIENT 2 to 6 %, ROWS_TR 1 to 2 %; BACK took 0.91 instead of 0.55 ms. */
#define GROUPED_LATER (1 << UP | 1 << ROWS_TR | 1 << ROWS_NO | 1 << GRADIENT)
#endif
__host__ __device__ static constexpr bool is_later(enum form form)
{
    return form != GRADIENT_WIDE && (GROUPED_LATER >> form & 1) != 0;
}

/* Which block of the cluster this is. */
__device__ static inline int walk_rank(void)
{
    return CLUSTER > 1 ? (int)cluster_rank() : 0;
}

__device__ static struct walk walk_begin(void)
{
    const struct walk w = { (int)blockIdx.x / CLUSTER, 0 };
    return w;
}

template <enum form FORM>
__device__ static bool walk_next(struct walk *w, const struct job *j, const struct edges *s, struct tile *t)
{
    const int columns = (int)cut_parts(j->n, FORM == UP ? TILE_COLUMNS / 2 : TILE_COLUMNS);
    int rows, units;
    for (;; w->expert++, w->unit -= units) {
        if (w->expert == j->g.n_experts)
            return false;
        rows = is_gradient(FORM) ? (int)cut_parts(j->m, TILE_ROWS)
                                 : (s->edge[w->expert + 1] - s->edge[w->expert]) / TILE_ROWS;
        units = plan_units(rows, columns, CLUSTER);
        if (w->unit < units)
            break;
    }
    const struct cell c = plan_unit(w->unit, rows, columns, CLUSTER, walk_rank(), w->expert);
    const int edge = s->edge[w->expert], end = s->end[w->expert];
    t->expert = w->expert;
    t->row = c.row * TILE_ROWS + (is_gradient(FORM) ? 0 : edge);
    t->column = c.column * (FORM == UP ? TILE_COLUMNS / 2 : TILE_COLUMNS);
    t->from = is_gradient(FORM) ? edge : 0;
    t->steps = (int)cut_parts(is_gradient(FORM) ? end - edge : j->k, TILE_DEPTH);
    if (t->steps <= 0) { /* no rows: a step behind the last row, which loads zeros */
        t->from = (int)j->g.n_rows;
        t->steps = 1;
    }
    t->parts = FORM == UP ? 2 : (int)cut_parts(j->n - t->column, TILE_COLUMNS / 2);
    t->parts = t->column >= j->n ? 0 : t->parts > 2 ? 2 : t->parts;
    t->same_rows = c.same_row;
    w->unit += (int)gridDim.x / CLUSTER;
    return true;
}
