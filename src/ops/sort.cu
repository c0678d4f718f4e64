/* sort.cu - a counting sort in two kernels: copies of each expert in each chunk of consecutive copies; then every block
 * finds where its copies of each expert begin, and takes them to their rows. Integers only, so the order is always that
 * of the CPU. A capacity that is too small ends the second kernel before it writes. */
#include "ops/expert.cuh"
enum { TOP, ROW, PLACE, END, N = 0, K, R, E, S };
enum { A_R, A_E, A_S, A_TILE };
enum { THREADS = 256, WARPS = THREADS / 32, EACH = 2, PIECE = THREADS * EACH };
enum { SPANS = 4, MOST_CHUNKS = 32 * SPANS }; /* a warp reads the counts of all chunks at once */
enum { AT_ONCE = 4 };                         /* for so many experts */
enum { MAX_EXPERTS = 1024 };                  /* shared memory of scatter_kernel: 40 KiB */

struct sort_sizes {
    int64_t n_copies, n_rows;
    int n_experts, n_chunks, pieces, tile; /* a chunk is `pieces` PIECEs of copies; a block has one */
};

static struct sort_sizes sort_sizes_of(const struct call *c)
{
    struct sort_sizes s;
    s.n_copies = c->dim[N] * c->dim[K], s.n_rows = c->dim[R];
    s.n_experts = (int)c->dim[E], s.tile = (int)c->attr[A_TILE];
    s.pieces = (int)cut_parts(cut_parts(s.n_copies, PIECE), MOST_CHUNKS);
    s.n_chunks = (int)cut_parts(s.n_copies, PIECE * (int64_t)s.pieces);
    return s;
}

/* count[e, chunk] for the chunk of this block, and row = -1 everywhere. Shared: [n_experts]. */
static __global__ void count_kernel(int32_t *count, int32_t *row, const int32_t *top, struct sort_sizes s)
{
    extern __shared__ int32_t shared[];
    const int64_t from = blockIdx.x * (int64_t)PIECE * s.pieces,
                  to = min(from + (int64_t)PIECE * s.pieces, s.n_copies);
    for (int e = threadIdx.x; e < s.n_experts; e += THREADS)
        shared[e] = 0;
    __syncthreads();
    for (int64_t i = from + threadIdx.x; i < to; i += THREADS)
        atomicAdd(shared + expert_of(top, i, s.n_experts), 1);
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < s.n_rows; i += gridDim.x * THREADS)
        row[i] = -1;
    __syncthreads();
    for (int e = threadIdx.x; e < s.n_experts; e += THREADS)
        count[e * (int64_t)s.n_chunks + blockIdx.x] = shared[e];
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

/* at[e] += where segment e begins, end[e] = where it ends, from the copies total[e]; end may be NULL. By one warp; returns
 * the first row behind the last tile. */
__device__ static inline int add_begins(int32_t *at, int32_t *end, const int32_t *total, int n_experts,
                                        int tile)
{
    int before = 0;
    for (int first = 0; first < n_experts; first += 32) {
        const int e = first + threadIdx.x % 32, n = e < n_experts ? total[e] : 0;
        const int rows = (n + tile - 1) / tile * tile, sum = warp_scan(rows), begin = before + sum - rows;
        if (e < n_experts)
            at[e] += begin;
        if (e < n_experts && end)
            end[e] = begin + n;
        before += __shfl_sync(ALL_LANES, sum, 31);
    }
    return before;
}

/* total[e] = copies of e, at[e] = those in earlier chunks, by all warps. */
__device__ static inline void add_chunks(int32_t *at, int32_t *total, const int32_t *count,
                                         const struct sort_sizes &s)
{
    const int lane = threadIdx.x % 32, chunk = blockIdx.x;
    for (int first = threadIdx.x / 32; first < s.n_experts; first += WARPS * AT_ONCE) {
        int n[AT_ONCE][SPANS];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
#pragma unroll
            for (int i = 0; i < SPANS; i++) {
                const int e = first + u * WARPS, c = 32 * i + lane;
                n[u][i] = e < s.n_experts && c < s.n_chunks ? count[e * (int64_t)s.n_chunks + c] : 0;
            }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int all = 0, before = 0;
#pragma unroll
            for (int i = 0; i < SPANS; i++) {
                all += n[u][i];
                before += 32 * i + lane < chunk ? n[u][i] : 0;
            }
            all = __reduce_add_sync(ALL_LANES, all);
            before = __reduce_add_sync(ALL_LANES, before);
            if (lane == 0 && first + u * WARPS < s.n_experts) {
                total[first + u * WARPS] = all;
                at[first + u * WARPS] = before;
            }
        }
    }
}

/* at[e] = the row of this block's first copy of e, and row = -2 behind the last tile; false where rows do not suffice. Shared: at, total [n_experts]. */
__device__ static inline bool find_rows(int32_t *row, int32_t *at, int32_t *total, int32_t *end,
                                        const int32_t *count, const struct sort_sizes &s)
{
    __shared__ int last;
    add_chunks(at, total, count, s);
    __syncthreads();
    if (threadIdx.x < 32) {
        const int rows = add_begins(at, blockIdx.x == 0 ? end : NULL, total, s.n_experts, s.tile);
        if (threadIdx.x == 0)
            last = rows;
    }
    __syncthreads();
    if (last > s.n_rows && blockIdx.x == 0 && threadIdx.x == 0) {
        printf("sort: %d rows needed, room for %lld\n", last, (long long)s.n_rows);
        __trap();
    }
    for (int64_t i = last + blockIdx.x * (int64_t)THREADS + threadIdx.x; i < s.n_rows;
         i += gridDim.x * THREADS)
        row[i] = -2;
    return last <= s.n_rows;
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

/* PIECE copies from `first` on; every warp has 32 EACH consecutive ones. Shared: at, and counted [WARPS, n_experts]: the
 * copies a warp has of an expert, then the row of the first of them. */
__device__ static inline void scatter_piece(int32_t *row, int32_t *place, const int32_t *top, int64_t first,
                                            int32_t *at, int32_t *counted, const struct sort_sizes &s)
{
    const int64_t mine = first + threadIdx.x / 32 * 32 * EACH + threadIdx.x % 32;
    int32_t *of_warp = counted + threadIdx.x / 32 * s.n_experts;
    int expert[EACH], rank[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++)
        expert[i] = mine + 32 * i < s.n_copies ? top[mine + 32 * i] : -1;
    for (int i = threadIdx.x; i < WARPS * s.n_experts; i += THREADS)
        counted[i] = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++)
        rank[i] = take_rank(of_warp, expert[i]);
    __syncthreads();
    for (int e = threadIdx.x; e < s.n_experts; e += THREADS) {
        int to = at[e];
        for (int w = 0; w < WARPS; w++) {
            const int n = counted[w * s.n_experts + e];
            counted[w * s.n_experts + e] = to;
            to += n;
        }
        at[e] = to;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (expert[i] >= 0) {
            const int to = of_warp[expert[i]] + rank[i];
            place[mine + 32 * i] = to;
            row[to] = (int32_t)(mine + 32 * i);
        }
    __syncthreads();
}

/* Shared: at, total [n_experts], counted [WARPS, n_experts] */
static __global__ void __launch_bounds__(THREADS, 4)
    scatter_kernel(int32_t *row, int32_t *place, int32_t *end, const int32_t *top, const int32_t *count,
                   struct sort_sizes s)
{
    extern __shared__ int32_t shared[];
    int32_t *at = shared, *total = at + s.n_experts, *counted = total + s.n_experts;
    if (!find_rows(row, at, total, end, count, s))
        return;
    for (int p = 0; p < s.pieces; p++)
        scatter_piece(row, place, top, (blockIdx.x * (int64_t)s.pieces + p) * PIECE, at, counted, s);
}

extern "C" void sort_fwd_cuda(const struct call *c)
{
    const struct sort_sizes s = sort_sizes_of(c);
    const size_t each = (size_t)s.n_experts * sizeof(int32_t);
    const int32_t *top = (const int32_t *)c->arg[TOP];
    int32_t *row = (int32_t *)c->arg[ROW], *count = (int32_t *)c->work;
    CHECK(c->dim[S] == 1, "%lld sources; copies are sorted where they are made", (long long)c->dim[S]);
    CHECK(c->dim[E] <= MAX_EXPERTS && s.n_copies + c->dim[E] * s.tile < INT32_MAX,
          "%lld copies to %lld experts", (long long)s.n_copies, (long long)c->dim[E]);
    count_kernel<<<blocks_for(s.n_chunks, 1), THREADS, each, stream_of(c)>>>(count, row, top, s);
    LAUNCHED();
    scatter_kernel<<<blocks_for(s.n_chunks, 1), THREADS, (2 + WARPS) * each, stream_of(c)>>>(
        row, (int32_t *)c->arg[PLACE], (int32_t *)c->arg[END], top, count, s);
    LAUNCHED();
}

/* count [experts, chunks] */
extern "C" void sort_work_cuda(const struct call *c, size_t bytes[2])
{
    const struct sort_sizes s = sort_sizes_of(c);
    bytes[0] = (size_t)s.n_experts * (size_t)s.n_chunks * sizeof(int32_t);
    bytes[1] = 0;
}
