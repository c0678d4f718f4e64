/* grouped_put.cuh - results leave at once, before their warpgroup multiplies again. */
#pragma once
#include "cuda/grouped_back.cuh"
#include "cuda/grouped_ring.cuh"
#ifndef GROUPED_STAGGER
#define GROUPED_STAGGER 0
#endif
/* Cycles by which the second warpgroup begins later than the first, and stays behind: results of one then leave while
 * the other multiplies. */
enum { STAGGER = GROUPED_STAGGER };

struct outputs {
    const CUtensorMap
        *out; /* UP, BACK: h or dh, its halves are planes; else the rows, or a plane per expert (gradient) */
    const CUtensorMap *y; /* UP, BACK */
    const CUtensorMap *h; /* BACK, later */
};

template <int SLICE>
__device__ static inline void put_up(struct writer *w, const float (&d)[128], const struct outputs *o,
                                     int row, int column, const float weight[2])
{
    slice_begin(w);
    fill_slice<32 * SLICE>(w, d);
    slice_end(w, o->out, false, column + 64 * SLICE, row, 0);
    slice_begin(w);
    fill_slice<64 + 32 * SLICE>(w, d);
    slice_end(w, o->out, false, column + 64 * SLICE, row, 1);
    slice_begin(w);
    fill_y_slice<32 * SLICE>(w, d, weight);
    slice_end(w, o->y, false, column + 64 * SLICE, row, 0);
}

/* BACK: the sums of a tile's rows, from `row` on. */
__device__ static inline float *partial_of(const struct job *j, int row, int column)
{
    return j->partial + (int64_t)(column / TILE_COLUMNS) * j->g.n_rows + row;
}

/* All slices from SLICE on that have columns below `columns`. */
template <enum form FORM, int SLICE>
__device__ static inline void put(struct writer *w, const float (&d)[128], const struct outputs *o,
                                  const struct job *j, int row, int column, int plane, const float weight[2])
{
    constexpr int each = FORM == GRADIENT_WIDE ? 32 : 64, n_slices = (FORM == UP ? 128 : 256) / each;
    if constexpr (SLICE < n_slices) {
        if (column + each * SLICE >= j->n)
            return;
        if constexpr (FORM == UP) {
            put_up<SLICE>(w, d, o, row, column, weight);
        } else {
            slice_begin(w);
            if constexpr (FORM == GRADIENT_WIDE)
                fill_wide_slice<16 * SLICE>(w, d);
            else
                fill_slice<32 * SLICE>(w, d);
            slice_end(w, o->out, j->add, column + each * SLICE, row, plane);
        }
        put<FORM, SLICE + 1>(w, d, o, j, row, column, plane, weight);
    }
}

/* BACK, by the first thread of a warpgroup: when the copy engine has read all that it was given, the step that brought h
 * may be loaded again. */
__device__ static inline void release_hidden(struct shared *s, uint32_t step)
{
    const uint32_t barrier = shared_address(&s->empty[step % STAGES]);
    box_store_wait<0>();
    for (int i = 0; i < CLUSTER; i++)
        barrier_arrive_for(barrier, i, WARPGROUP / WARP);
}

/* BACK: all slices from SLICE on; the step of the last one is not yet released. Before the barrier of a slice the
 * stores of the one before it have been read, so that its buffer is free for the one after it. */
template <int SLICE>
__device__ static inline void put_back(struct writer *w, const float (&d)[128], const struct outputs *o,
                                       const struct job *j, struct shared *s, uint32_t *step, int row,
                                       int column, const float weight[2], float sum[2])
{
    if constexpr (SLICE < back_steps(BACK)) {
        const uint32_t at = *step % STAGES, box = shared_address(s->stage[at]) + (w->id - 1) * 2 * BOX_BYTES;
        const uint32_t y = w->buffer;
        const int c = column + 64 * SLICE;
        if (c >= j->n) {
            skip(back_steps(BACK) - SLICE, s, step);
            return;
        }
        barrier_wait(shared_address(&s->full[at]), *step / STAGES & 1);
        back_slice<32 * SLICE>(d, box, y, weight, sum);
        shared_written();
        if (SLICE > 0 && is_leader())
            release_hidden(s, *step - 1);
        warpgroup_sync(w->id);
        if (is_leader()) {
            box_store(o->out, c, row, 0, box);
            box_store(o->out, c, row, 1, box + BOX_BYTES);
            box_store(o->y, c, row, 0, y);
            box_store_commit();
        }
        w->buffer = w->other;
        w->other = y;
        ++*step;
        put_back<SLICE + 1>(w, d, o, j, s, step, row, column, weight, sum);
    }
}

/* Columns of a box of the output. */
__host__ __device__ static constexpr int box_columns(enum form form)
{
    return form == GRADIENT_WIDE || (form == BACK && is_later(form)) ? 32 : 64;
}

/* Rows of padding. */
template <enum form FORM>
__device__ static void put_zeros(struct writer *w, const struct outputs *o, const struct job *j, int row,
                                 int column)
{
    const int end = column + (FORM == UP ? 128 : 256);
    slice_begin(w);
    fill_zeros<(FORM == BACK && is_later(BACK) ? BOX_BYTES / 2 : BOX_BYTES)>(w);
    slice_end(w, o->out, false, column, row, 0);
    for (int c = column; c < end && c < j->n; c += box_columns(FORM)) {
        if (c > column)
            slice_again(w, o->out, c, row, 0);
        if (FORM == UP || FORM == BACK) {
            slice_again(w, o->out, c, row, 1);
            slice_again(w, o->y, c, row, 0);
        }
    }
    if (FORM == BACK && threadIdx.x % WARPGROUP < 64)
        partial_of(j, row, column)[threadIdx.x % WARPGROUP] = 0;
    if (is_leader())
        box_store_wait<0>(); /* slice_begin() counts on one store per buffer */
}
