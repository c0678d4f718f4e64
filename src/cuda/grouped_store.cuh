/* grouped_store.cuh - how the results of a warpgroup leave: slices of 64 rows x 128 bytes (64 columns, 32 of float32) are
 * put into one of two buffers in shared memory, swizzled, and the copy engine takes them from there while the next
 * slice is filled. d is that of product_256() (cuda/hopper.cuh): 4 registers for each 8 columns. */
#pragma once
#include "cuda/grouped.cuh"
#include "cuda/hopper.cuh"
enum { WARPGROUP = 128, WARP = 32, BOX_BYTES = 8192 };
struct writer {
    uint32_t buffer, other; /* the one to fill next */
    int id;                 /* of the barrier of this warpgroup */
};

__device__ static inline bool is_leader(void)
{
    return threadIdx.x % WARPGROUP == 0;
}

/* The first of a thread's two rows of 64: product_256(). */
__device__ static inline int thread_line(void)
{
    return threadIdx.x % WARPGROUP / WARP * 16 + threadIdx.x % WARP / 4;
}

/* Until the buffer may be filled. */
__device__ static inline void slice_begin(const struct writer *w)
{
    if (is_leader())
        box_store_wait<1>();
    warpgroup_sync(w->id);
}

__device__ static inline void slice_end(struct writer *w, const CUtensorMap *to, bool add, int column,
                                        int row, int plane)
{
    const uint32_t filled = w->buffer;
    shared_written();
    warpgroup_sync(w->id);
    if (is_leader()) {
        if (add)
            box_add(to, column, row, plane, filled);
        else
            box_store(to, column, row, plane, filled);
        box_store_commit();
    }
    w->buffer = w->other;
    w->other = filled;
}

/* Zeros, and not again: slice_again() sends the same buffer to further places. */
template <int BYTES> __device__ static inline void fill_zeros(const struct writer *w)
{
#pragma unroll
    for (int i = 0; i < BYTES / WARPGROUP / 8; i++)
        shared_put_floats(w->buffer + (threadIdx.x % WARPGROUP + i * WARPGROUP) * 8, 0, 0);
}

__device__ static inline void slice_again(const struct writer *w, const CUtensorMap *to, int column, int row,
                                          int plane)
{
    if (is_leader()) {
        box_store(to, column, row, plane, w->other);
        box_store_commit();
    }
}

/* 64 columns as bfloat16: d[FIRST] and the 31 behind it. */
template <int FIRST, int N>
__device__ static inline void fill_slice(const struct writer *w, const float (&d)[N])
{
    const int lane = threadIdx.x % WARP, line = threadIdx.x % WARPGROUP / WARP * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        const float *x = &d[FIRST + 4 * i];
        shared_put_matrices(w->buffer + line * 128 + ((i + lane / 16) ^ line % 8) * 16, pack_pair(x[0], x[1]),
                            pack_pair(x[2], x[3]), pack_pair(x[4], x[5]), pack_pair(x[6], x[7]));
    }
}

/* Keeps the compiler from using x before shared_put_matrices() above. */
__device__ static inline void after_stores(uint32_t *x)
{
    asm volatile("" : "+r"(*x)::"memory");
}

/* The address that a thread of a warpgroup gives for the first 16 columns of a box (shared_put_matrices()); that of those
 * 16 i further is that ^ 32 i, as the swizzle has it. The probe checks it on the host. */
__host__ __device__ static inline uint32_t matrices_at(uint32_t box, int thread)
{
    const int lane = thread % WARP, line = thread % WARPGROUP / WARP * 16 + lane % 16;
    return box + line * 128 + (lane / 16 ^ line % 8) * 16;
}

/* 64 columns that are packed already: word[FIRST] and the 15 behind it. */
template <int FIRST>
__device__ static inline void put_words(const struct writer *w, const uint32_t (&word)[64])
{
    const uint32_t at = matrices_at(w->buffer, (int)thread_now());
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t *x = &word[FIRST + 4 * i];
        shared_put_matrices(at ^ 32 * i, x[0], x[1], x[2], x[3]);
    }
}

/* 32 columns as float32: d[FIRST] and the 15 behind it. */
template <int FIRST, int N>
__device__ static inline void fill_wide_slice(const struct writer *w, const float (&d)[N])
{
    const int lane = threadIdx.x % WARP, line = threadIdx.x % WARPGROUP / WARP * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *x = &d[FIRST + 4 * i];
        const uint32_t at = w->buffer + line * 128 + ((2 * i + lane % 4 / 2) ^ line % 8) * 16 + lane % 2 * 8;
        shared_put_floats(at, x[0], x[1]);
        shared_put_floats(at + 8 * 128, x[2], x[3]);
    }
}

__device__ static inline float rounded(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

/* 64 columns of y: from d[FIRST] and the same columns of the other half of h, rounded as h is. */
template <int FIRST>
__device__ static inline void fill_y_slice(const struct writer *w, const float (&d)[128],
                                           const float weight[2])
{
    float y[32];
#pragma unroll
    for (int i = 0; i < 32; i++)
        y[i] = swiglu(rounded(d[FIRST + i]), rounded(d[64 + FIRST + i]), weight[i / 2 % 2]);
    fill_slice<0>(w, y);
}
