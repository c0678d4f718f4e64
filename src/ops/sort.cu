/* sort.cu - a counting sort in three kernels: copies of each expert in each chunk of consecutive copies,
 * where each chunk's copies of each expert begin, and every copy to its row. Integers only, so the order is
 * always that of the CPU. A capacity that is too small ends the second kernel; the third never runs then. */
#include "ops/expert.cuh"
enum { TOP, ROW, PLACE, END, N = 0, K, R, E, S };
enum { A_R, A_E, A_S, A_TILE };
enum { THREADS = 256, WARPS = THREADS / 32, EACH = 8, CHUNK = THREADS * EACH, SCAN_THREADS = 1024 };
enum { MAX_EXPERTS = 1024 }; /* shared memory of scatter_kernel: 32 KiB */

/* count[e, chunk] for the chunk of this block, and row = -1 everywhere. Shared: [n_experts]. */
static __global__ void count_kernel(int32_t *count, int32_t *row, int64_t n_rows, const int32_t *top,
                                    int64_t n_copies, int n_experts)
{
    extern __shared__ int32_t shared[];
    const int64_t from = blockIdx.x * (int64_t)CHUNK, to = min(from + CHUNK, n_copies);
    for (int e = threadIdx.x; e < n_experts; e += THREADS)
        shared[e] = 0;
    __syncthreads();
    for (int64_t i = from + threadIdx.x; i < to; i += THREADS)
        atomicAdd(shared + expert_of(top, i, n_experts), 1);
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < n_rows; i += gridDim.x * THREADS)
        row[i] = -1;
    __syncthreads();
    for (int e = threadIdx.x; e < n_experts; e += THREADS)
        count[e * (int64_t)gridDim.x + blockIdx.x] = shared[e];
}

/* Sum of x over the lanes up to this one. */
__device__ static inline int warp_scan(int x)
{
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int before = __shfl_up_sync(ALL_LANES, x, step);
        x += (int)threadIdx.x % 32 >= step ? before : 0;
    }
    return x;
}

/* at[i] = sum of the n numbers before i, by one warp; returns the sum of all. */
__device__ static inline int sums_before(int32_t *at, int n)
{
    int before = 0;
    for (int first = 0; first < n; first += 32) {
        const int i = first + threadIdx.x % 32, x = i < n ? at[i] : 0, sum = warp_scan(x);
        if (i < n)
            at[i] = before + sum - x;
        before += __shfl_sync(ALL_LANES, sum, 31);
    }
    return before;
}

/* begin[e], end[e] from the copies total[e], by one warp; returns the first row behind the last tile. */
__device__ static inline int segments(int32_t *begin, int32_t *end, const int32_t *total, int n_experts,
                                      int tile)
{
    int before = 0;
    for (int first = 0; first < n_experts; first += 32) {
        const int e = first + threadIdx.x % 32, n = e < n_experts ? total[e] : 0;
        const int rows = (int)round_up(n, tile), sum = warp_scan(rows);
        if (e < n_experts) {
            begin[e] = before + sum - rows;
            end[e] = begin[e] + n;
        }
        before += __shfl_sync(ALL_LANES, sum, 31);
    }
    return before;
}

/* One block. count[e, chunk] = copies of e in earlier chunks; where the segments begin and end. */
static __global__ void scan_kernel(int32_t *count, int32_t *begin, int32_t *end, int n_chunks, int n_experts,
                                   int tile, int64_t n_rows)
{
    __shared__ int32_t total[MAX_EXPERTS];
    for (int e = threadIdx.x / 32; e < n_experts; e += SCAN_THREADS / 32) {
        const int n = sums_before(count + e * (int64_t)n_chunks, n_chunks);
        if (threadIdx.x % 32 == 0)
            total[e] = n;
    }
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    const int last = segments(begin, end, total, n_experts, tile);
    if (threadIdx.x == 0 && last > n_rows) {
        printf("sort: %d rows needed, room for %lld\n", last, (long long)n_rows);
        __trap();
    }
}

/* How many copies in lower lanes, and counted before, have this expert; counts them all. -1: no copy. */
__device__ static inline int take_rank(int32_t *counted, int expert)
{
    const unsigned same = __match_any_sync(ALL_LANES, expert);
    const int lower = __popc(same & ((1u << threadIdx.x % 32) - 1));
    const int rank = expert < 0 ? 0 : counted[expert] + lower;
    __syncwarp();
    if (lower == 0 && expert >= 0)
        counted[expert] += __popc(same);
    __syncwarp();
    return rank;
}

/* Every warp has 32 EACH consecutive copies. Shared: [WARPS, n_experts], the copies a warp has of an expert,
 * then the row of the first of them. */
static __global__ void scatter_kernel(int32_t *row, int32_t *place, const int32_t *top, const int32_t *count,
                                      const int32_t *begin, int64_t n_copies, int n_experts)
{
    extern __shared__ int32_t shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t first = blockIdx.x * (int64_t)CHUNK + warp * 32 * EACH + lane;
    int32_t *mine = shared + warp * n_experts;
    int expert[EACH], rank[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++)
        expert[i] = first + 32 * i < n_copies ? top[first + 32 * i] : -1;
    for (int i = threadIdx.x; i < WARPS * n_experts; i += THREADS)
        shared[i] = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++)
        rank[i] = take_rank(mine, expert[i]);
    __syncthreads();
    for (int e = threadIdx.x; e < n_experts; e += THREADS) {
        int at = begin[e] + count[e * (int64_t)gridDim.x + blockIdx.x];
        for (int w = 0; w < WARPS; w++) {
            const int n = shared[w * n_experts + e];
            shared[w * n_experts + e] = at;
            at += n;
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (expert[i] >= 0) {
            const int at = mine[expert[i]] + rank[i];
            place[first + 32 * i] = at;
            row[at] = (int32_t)(first + 32 * i);
        }
}

extern "C" void sort_fwd_cuda(const struct call *c)
{
    const int64_t copies = c->dim[N] * c->dim[K], e = c->dim[E], tile = (int64_t)c->attr[A_TILE];
    const unsigned chunks = blocks_for(copies, CHUNK);
    const int32_t *top = (const int32_t *)c->arg[TOP];
    int32_t *row = (int32_t *)c->arg[ROW], *place = (int32_t *)c->arg[PLACE], *end = (int32_t *)c->arg[END];
    int32_t *count = (int32_t *)c->work, *begin = count + e * chunks;
    CHECK(c->dim[S] == 1, "%lld sources; copies are sorted where they are made", (long long)c->dim[S]);
    CHECK(e <= MAX_EXPERTS && copies + e * tile < INT32_MAX, "%lld copies to %lld experts", (long long)copies,
          (long long)e);
    count_kernel<<<chunks, THREADS, e * sizeof(int32_t), stream_of(c)>>>(count, row, c->dim[R], top, copies,
                                                                         (int)e);
    LAUNCHED();
    scan_kernel<<<1, SCAN_THREADS, 0, stream_of(c)>>>(count, begin, end, (int)chunks, (int)e, (int)tile,
                                                      c->dim[R]);
    LAUNCHED();
    scatter_kernel<<<chunks, THREADS, WARPS * e * sizeof(int32_t), stream_of(c)>>>(row, place, top, count,
                                                                                   begin, copies, (int)e);
    LAUNCHED();
}

/* count [experts, chunks], begin [experts] */
extern "C" void sort_work_cuda(const struct call *c, size_t bytes[2])
{
    const int64_t chunks = blocks_for(c->dim[N] * c->dim[K], CHUNK);
    bytes[0] = (size_t)(c->dim[E] * (chunks + 1)) * sizeof(int32_t);
    bytes[1] = 0;
}
