/* grouped_ring.cuh - the shared memory of a block of grouped_hopper.cu: the ring of stages that one warpgroup fills and two
 * read, and its barriers. */
#pragma once
#include "cuda/grouped_store.cuh"
#include "cuda/grouped_walk.cuh"
enum { LOADERS = 128, MULTIPLIERS = 256, THREADS = LOADERS + MULTIPLIERS };
enum { STAGES = 4, A_BYTES = 16384, B_BYTES = 32768, STAGE_BYTES = A_BYTES + B_BYTES };
/* Steps behind those of a tile that bring h, 64 columns each time. */
__host__ __device__ static constexpr int back_steps(enum form form)
{
    return form == BACK && !is_later(form) ? 4 : 0;
}

/* Where results of 64 rows go. */
struct place {
    int row, column, plane;
};
struct shared {
    unsigned char stage[STAGES][STAGE_BYTES]; /* A, then B; at a multiple of 1024 bytes */
    unsigned char out[2][2][BOX_BYTES];       /* two buffers of each multiplying warpgroup */
    uint64_t full[STAGES], empty[STAGES];
    uint64_t hidden[2][2]; /* BACK, later: h of each warpgroup; [1]: of all that is left at the end */
    struct place place[2]; /* later: of each warpgroup */
    struct edges edges;
};

static_assert(sizeof(struct shared) <= 227 * 1024, "a block of compute capability 9.0 has 227 KB");

/* Says that this warp has read a stage: to every block that loads into it. */
__device__ static void release(struct shared *s, uint32_t step)
{
    const uint32_t barrier = shared_address(&s->empty[step % STAGES]);
    const int lane = threadIdx.x % WARP;
    if (CLUSTER > 1 && lane < CLUSTER)
        barrier_arrive_at(barrier, lane);
    else if (CLUSTER == 1 && lane == 0)
        barrier_arrive(barrier);
}

/* Of a tile of which this warpgroup has nothing to multiply. */
static __device__ void skip(int steps, struct shared *s, uint32_t *step)
{
    for (int i = 0; i < steps; i++, (*step)++) {
        barrier_wait(shared_address(&s->full[*step % STAGES]), *step / STAGES & 1);
        __syncwarp(); /* no lane may still wait when the stage is filled again */
        release(s, *step);
    }
}
