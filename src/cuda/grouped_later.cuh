/* grouped_later.cuh - results leave while their warpgroup multiplies the next tile. Packed as pairs of bfloat16 they take
 * 64 registers beside the sums. They leave in units, one every few steps, each between the order to multiply a step
 * and the wait for it.
 * BACK: dy is rounded to bfloat16, as grouped_back_apart() does. h comes 32 columns at a time, for each warpgroup
 * alone, into the shared memory that is for results: gate, up, and behind them room for y. The gradients take the
 * place of h. When the copy engine has fetched all three, the next columns may come. */
#pragma once
#include "cuda/grouped_put.cuh"
enum { PIECE_BYTES = 4096 }; /* BACK: 64 rows of 32 columns */
struct later {
    uint32_t word[64]; /* d of product_256(), packed: word[i] of d[2i] and d[2i + 1] */
    int unit, n_units; /* the next one to leave */
    float weight[2];   /* UP, BACK: of the thread's rows */
    float sum[2];      /* BACK */
    uint32_t parity;   /* BACK: of the phase in which the h comes that was asked for last */
};

/* Units are for slices of so many columns, so many for each. */
__host__ __device__ static constexpr int unit_columns(enum form form)
{
    return form == BACK ? 32 : 64;
}
__host__ __device__ static constexpr int units_each(enum form form)
{
    return form == UP || form == BACK ? 3 : 1;
}
__host__ __device__ static constexpr int units_most(enum form form)
{
    return (form == UP ? 128 : 256) / unit_columns(form) * units_each(form);
}
/* The step of the next tile behind which a unit leaves, or behind its last one: BACK gives the first h time to come. */
__host__ __device__ static constexpr int unit_step(enum form form, int unit)
{
    return form == BACK ? 2 + unit : form == UP ? 4 * unit : 2 * unit;
}

/* UP: y of 64 columns, from the rounded halves of h. */
template <int FIRST>
__device__ static __forceinline__ void put_y_words(const struct writer *w, const struct later *l)
{
    const uint32_t at = matrices_at(w->buffer, (int)thread_now());
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t y[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t gate = l->word[FIRST + 4 * i + k], up = l->word[32 + FIRST + 4 * i + k];
            after_stores(&gate); /* few registers are left: not everything at once */
            after_stores(&up);
            y[k] = pack_pair(swiglu(low_of(gate), low_of(up), l->weight[k % 2]),
                             swiglu(high_of(gate), high_of(up), l->weight[k % 2]));
        }
        shared_put_matrices(at ^ 32 * i, y[0], y[1], y[2], y[3]);
    }
}

/* -- BACK -- */
/* Asks for h of 32 columns. */
__device__ static inline void load_piece(const struct outputs *o, uint32_t piece, const struct place *p,
                                         int slice, uint32_t barrier)
{
    box_load(piece, o->h, p->column + 32 * slice, p->row, 0, barrier);
    box_load(piece + PIECE_BYTES, o->h, p->column + 32 * slice, p->row, 1, barrier);
}
__device__ static inline uint32_t piece_barrier(struct shared *s, const struct writer *w, int i)
{
    return shared_address(&s->hidden[w->id - 1][i]);
}
/* Of slice SLICE; LAST: those of the last tile are all there, each in its place in the ring but for the first one. */
template <int SLICE, bool LAST>
__device__ static inline uint32_t piece_at(struct shared *s, const struct writer *w)
{
    if (SLICE == 0 || !LAST)
        return shared_address(s->out[w->id - 1][0]);
    return shared_address(s->stage) + (w->id - 1) * (STAGES * STAGE_BYTES / 2) +
           (uint32_t)(SLICE - 1) * 3 * PIECE_BYTES;
}
__device__ static inline void ask_piece(struct later *l, const struct writer *w, const struct outputs *o,
                                        struct shared *s, int slice)
{
    l->parity ^= 1;
    if (is_leader()) {
        box_store_wait<0>(); /* what lies there has left */
        barrier_arrive_bytes(piece_barrier(s, w, 0), 2 * PIECE_BYTES);
        load_piece(o, piece_at<0, false>(s, w), &s->place[w->id - 1], slice, piece_barrier(s, w, 0));
    }
}

/* The unit UNIT of a slice, of 3: 16 columns; 16 more, and all 32 leave; the next ones are asked for. */
template <int SLICE, int UNIT, bool LAST>
__device__ static __forceinline__ void put_back_unit(struct later *l, const struct writer *w,
                                                     const struct outputs *o, const struct job *j,
                                                     struct shared *s)
{
    const struct place *p = &s->place[w->id - 1];
    const uint32_t piece = piece_at<SLICE, LAST>(s, w);
    if (UNIT == 0 && (SLICE == 0 || !LAST))
        barrier_wait(piece_barrier(s, w, 0), l->parity);
    if constexpr (UNIT < 2)
        back_piece<8 * SLICE + 4 * UNIT>(l->word, piece, UNIT, l->weight, l->sum);
    if (UNIT == 1) {
        if (3 * (SLICE + 1) == l->n_units) /* before the barrier: the place may change behind it */
            put_row_sums(partial_of(j, p->row, p->column) + thread_line(), l->sum);
        shared_written();
        warpgroup_sync(w->id);
        if (is_leader()) {
            const int column = p->column + 32 * SLICE;
            box_store(o->out, column, p->row, 0, piece);
            box_store(o->out, column, p->row, 1, piece + PIECE_BYTES);
            box_store(o->y, column, p->row, 0, piece + 2 * PIECE_BYTES);
            box_store_commit();
        }
    }
    if (UNIT == 2 && !LAST && 3 * (SLICE + 1) < l->n_units)
        ask_piece(l, w, o, s, SLICE + 1);
}

/* -- all forms -- */
template <enum form FORM, int UNIT, bool LAST>
__device__ static __forceinline__ void put_unit(struct later *l, struct writer *w, const struct outputs *o,
                                                const struct job *j, struct shared *s)
{
    constexpr int slice = UNIT / units_each(FORM), kind = UNIT % units_each(FORM);
    if constexpr (FORM == BACK) {
        put_back_unit<slice, kind, LAST>(l, w, o, j, s);
    } else {
        const struct place *p = &s->place[w->id - 1];
        slice_begin(w);
        if constexpr (kind == 2)
            put_y_words<16 * slice>(w, l);
        else
            put_words<16 * slice + 32 * kind>(w, l->word);
        slice_end(w, kind == 2 ? o->y : o->out, j->add, p->column + 64 * slice, p->row,
                  FORM == UP ? kind % 2 : p->plane);
    }
}

/* The next unit leaves: it is UNIT or one behind it. Registers have no index, so that each has code of its own. */
template <enum form FORM, int UNIT>
__device__ static __forceinline__ void put_from(struct later *l, struct writer *w, const struct outputs *o,
                                                const struct job *j, struct shared *s)
{
    if constexpr (UNIT < units_most(FORM)) {
        if (l->unit == UNIT)
            put_unit<FORM, UNIT, false>(l, w, o, j, s);
        else
            put_from<FORM, UNIT + 1>(l, w, o, j, s);
    }
}
template <enum form FORM>
__device__ static __forceinline__ void put_next(struct later *l, struct writer *w, const struct outputs *o,
                                                const struct job *j, struct shared *s)
{
    put_from<FORM, 0>(l, w, o, j, s);
    l->unit++;
}

/* All units from UNIT on, behind the last tile. */
template <enum form FORM, int UNIT>
__device__ static __forceinline__ void put_last(struct later *l, struct writer *w, const struct outputs *o,
                                                const struct job *j, struct shared *s)
{
    if constexpr (UNIT < units_most(FORM)) {
        if (UNIT >= l->n_units)
            return;
        put_unit<FORM, UNIT, true>(l, w, o, j, s);
        put_last<FORM, UNIT + 1>(l, w, o, j, s);
    }
}

/* BACK, behind the last tile: nobody loads into the ring any more, h of all further slices comes there at once. */
__device__ static inline void ask_rest(const struct later *l, const struct writer *w, const struct outputs *o,
                                       struct shared *s)
{
    const uint32_t to = piece_at<1, true>(s, w), barrier = piece_barrier(s, w, 1);
    const int n_slices = l->n_units / units_each(BACK);
    multipliers_sync(3); /* the other warpgroup has read the ring as well */
    if (n_slices < 2)
        return;
    if (is_leader()) {
        barrier_arrive_bytes(barrier, (n_slices - 1) * 2 * PIECE_BYTES);
        for (int i = 1; i < n_slices; i++)
            load_piece(o, to + (i - 1) * 3 * PIECE_BYTES, &s->place[w->id - 1], i, barrier);
    }
    barrier_wait(barrier, 0);
}

/* Takes the results of a tile; there is nothing left of the one before. */
template <enum form FORM>
__device__ static __forceinline__ void take(struct later *l, const float (&d)[128], const struct writer *w,
                                            const struct outputs *o, const struct job *j, struct shared *s,
                                            const struct tile *t, int row)
{
    const int slices = (int)cut_parts(j->n - t->column, unit_columns(FORM)) * units_each(FORM);
    if (is_leader()) {
        const int plane = is_gradient(FORM) ? (int)groups_plane(t->expert, j->g.n_experts, j->parts) : 0;
        s->place[w->id - 1] = { row, t->column, plane };
    }
    l->unit = 0;
    l->n_units = slices < units_most(FORM) ? slices : units_most(FORM);
    if (FORM == BACK)
        ask_piece(l, w, o, s, 0);
    if (FORM == UP || FORM == BACK) {
        l->weight[0] = j->weight[row + thread_line()];
        l->weight[1] = j->weight[row + thread_line() + 8];
        l->sum[0] = l->sum[1] = 0;
    }
#pragma unroll
    for (int i = 0; i < 64; i++)
        l->word[i] = pack_pair(d[2 * i], d[2 * i + 1]);
}
