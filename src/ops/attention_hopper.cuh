/* attention_hopper.cuh - what the two kernels of attention_hopper.cu and attention_hopper_dq.cu share: which head and slices a
 * block has, where dS lies, rings of stages. A slice is 64 rows of a head. */
#pragma once
#include "cuda/hopper.cuh"
#include "ops/attention.cuh"
#include "ops/attention_tile.h"
enum { WARP = 32, LOADERS = 128, OWNERS = 2, WARPGROUP = 128, THREADS = LOADERS + OWNERS * WARPGROUP };
enum { SLICE = 64, BOX = 8192, WIDE = 3, NARROW = 2 }; /* boxes of q or k, of dO or v */
enum { Q = WIDE * 64, V = NARROW * 64, NOPE = 128, ROPE = 64 };
struct maps {
    CUtensorMap q, kv, rope, d_o, lse, delta;
};
struct job {
    struct attention_tensors x;
    int64_t first; /* head of the part, b a + its number */
    /* [heads of the part] triangles of boxes, of query slice i and key slice k <= i at i (i + 1) / 2 + k: lines are
     * keys, swizzled. NULL: not wanted. */
    unsigned char *ds;
};

/* The head of a block, and which of its blocks it is: of so many slices each. */
struct spot {
    int b, a, turn;
    int64_t head; /* of the part */
};

__host__ __device__ static inline int64_t turns_of(const struct attention *z, int slices)
{
    return cut_parts(z->s, slices * SLICE);
}

__device__ static inline struct spot spot_of(const struct job *j, int slices, bool last_first)
{
    const int64_t turns = turns_of(&j->x.z, slices);
    const struct attention_part at = attention_part(blockIdx.x, j->first, gridDim.x / turns, turns, j->x.z.a);
    const struct spot p = { (int)at.b, (int)at.a, (int)(last_first ? turns - 1 - at.turn : at.turn),
                            at.head };
    return p;
}

__device__ static inline unsigned char *ds_box(const struct job *j, const struct spot *p, int query, int key)
{
    const int64_t n = j->x.z.s / SLICE;
    return j->ds + (p->head * (n * (n + 1) / 2) + query * (query + 1) / 2 + key) * BOX;
}

/* What a thread of a warpgroup is: its first row of the 64 (the other one 8 below), its first column of 8. */
struct lane {
    int row, column;
};
__device__ static inline struct lane lane_of(void)
{
    const int t = threadIdx.x % WARPGROUP;
    const struct lane l = { t / WARP * 16 + t % WARP / 4, t % 4 * 2 };
    return l;
}
__device__ static inline int which_owner(void)
{
    return threadIdx.x / WARPGROUP - LOADERS / WARPGROUP;
}

/* By all lanes of a warp, which have read what may be filled again, or wait for no barrier any more. */
__device__ static inline void release(uint64_t *empty)
{
    __syncwarp();
    if (threadIdx.x % WARP == 0)
        barrier_arrive(shared_address(empty));
}

/* full: one arrival, with the bytes; empty: of every warp that multiplies. */
__device__ static inline void ring_begin(uint64_t *full, uint64_t *empty, int n)
{
    for (int i = 0; i < n; i++) {
        barrier_init(shared_address(&full[i]), 1);
        barrier_init(shared_address(&empty[i]), OWNERS * WARPGROUP / WARP);
    }
    barrier_init_done();
}

typedef void back_kernel(struct maps, struct job);

static inline void launch(back_kernel *f, int bytes, cudaStream_t stream, int64_t blocks,
                          const struct maps *m, const struct job *j)
{
    CUDA_DO(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    f<<<blocks_for(blocks, 1), THREADS, (size_t)bytes, stream>>>(*m, *j);
    LAUNCHED();
}

/* dQ = dS K, of so many heads from j->first on. */
void attention_hopper_dq(cudaStream_t stream, int64_t heads, const struct maps *m, const struct job *j);
