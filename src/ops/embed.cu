/* embed.cu - y[t] = w[token[t]], and embed_part, which has a part of the rows of w. Backward adds the rows of dy that
 * have the same token in ascending order of their positions: integer atomics count and place the positions (in any
 * order), then every position counts those before it in its list. Lists of more than HEAVY positions are added by
 * several warps, each its own share. */
#include "cuda/cuda.cuh"
enum { TOKEN, W, Y, N = 0, V, D, VOCAB = 0, FIRST };
enum {
    THREADS = 256,
    EACH = 4,   /* loads in flight per thread */
    HEAVY = 32, /* positions of a list that one thread per vector adds */
    SHARE = 16  /* warps that share a longer list */
};

struct entry { /* of the lists, one after the other in one array; position within the list ascends */
    int32_t position, row, n; /* n: length of the list in its first entry, 0 in the others */
    int32_t unused;
};
struct lists {           /* in c->work */
    int32_t *count;      /* [V] positions of each row's token */
    int32_t *counters;   /* [2] entries given out, heavy lists */
    int32_t *start;      /* [V] first entry of each row whose token occurs */
    int32_t *slot;       /* [N] -1: the row is not here */
    int32_t *list;       /* [N] positions by row, in any order */
    int32_t *heavy;      /* [N / (HEAVY + 1) + 1] first entries of the long lists, in any order */
    struct entry *entry; /* [N] */
    int64_t bytes;
};

static struct lists lists_in(void *work, int64_t n, int64_t v)
{
    char *base = (char *)work;
    const int64_t tokens = round_up(v + 2, 16) * 4, positions = round_up(n, 16) * 4;
    struct lists l;
    l.count = (int32_t *)base;
    l.counters = l.count + v;
    l.start = (int32_t *)(base + tokens);
    l.slot = (int32_t *)(base + 2 * tokens);
    l.list = (int32_t *)(base + 2 * tokens + positions);
    l.heavy = (int32_t *)(base + 2 * tokens + 2 * positions);
    l.entry = (struct entry *)(base + 2 * tokens + 3 * positions);
    l.bytes = 2 * tokens + 7 * positions;
    return l;
}

struct part { /* rows [first, first + n) of `all` */
    int64_t n, first, all;
};

/* Row of token t, -1: not here. A wrong token is a mistake of ours (readers of data check): the launch fails. */
__device__ static inline int32_t row_at(const int32_t *token, int64_t t, struct part p)
{
    const int32_t id = token[t];
    if (id < 0 || id >= p.all)
        __trap();
    return id >= p.first && id < p.first + p.n ? (int32_t)(id - p.first) : -1;
}

/* One block per row of n_vectors. */
__global__ static void __launch_bounds__(THREADS)
    embed_fwd(bf16 *y, const bf16 *w, const int32_t *token, struct part p, int64_t n_vectors)
{
    const int32_t row = row_at(token, blockIdx.x, p);
    const uint4 *from = (const uint4 *)w + (row < 0 ? 0 : row) * n_vectors;
    uint4 *to = (uint4 *)y + blockIdx.x * n_vectors, raw[EACH];
    for (int64_t i = threadIdx.x; i < n_vectors; i += EACH * blockDim.x) {
#pragma unroll
        for (int k = 0; k < EACH; k++)
            if (i + k * blockDim.x < n_vectors)
                raw[k] = row < 0 ? make_uint4(0, 0, 0, 0) : from[i + k * blockDim.x];
#pragma unroll
        for (int k = 0; k < EACH; k++)
            if (i + k * blockDim.x < n_vectors)
                to[i + k * blockDim.x] = raw[k];
    }
}

__global__ static void embed_count(struct lists l, const int32_t *token, int64_t n, struct part p)
{
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= n)
        return;
    const int32_t row = row_at(token, t, p);
    l.slot[t] = row < 0 ? -1 : atomicAdd(&l.count[row], 1);
}

__global__ static void embed_start(struct lists l, const int32_t *token, int64_t n, struct part p)
{
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= n || l.slot[t] != 0)
        return;
    const int32_t row = row_at(token, t, p);
    l.start[row] = atomicAdd(&l.counters[0], l.count[row]);
}

__global__ static void embed_place(struct lists l, const int32_t *token, int64_t n, struct part p)
{
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t < n && l.slot[t] >= 0)
        l.list[l.start[row_at(token, t, p)] + l.slot[t]] = (int32_t)t;
}

__global__ static void embed_order(struct lists l, const int32_t *token, struct part p)
{
    const int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (j >= l.counters[0])
        return;
    const int32_t position = l.list[j], row = row_at(token, position, p), start = l.start[row],
                  count = l.count[row];
    int32_t before = 0;
#pragma unroll 8
    for (int32_t i = 0; i < count; i++)
        before += l.list[start + i] < position;
    l.entry[start + before] = (struct entry){ position, row, before == 0 ? count : 0, 0 };
    if (before == 0 && count > HEAVY)
        l.heavy[atomicAdd(&l.counters[1], 1)] = start;
}

/* sum += the vectors of entries first, first + step, ... of a list of n. dy: at this thread's column. */
__device__ static inline void add_rows(float sum[VEC], const struct entry *list, int first, int step, int n,
                                       const bf16 *dy, int64_t d)
{
    for (int r = first; r < n; r += EACH * step) {
        uint4 raw[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++)
            raw[k] = r + k * step < n ? *(const uint4 *)(dy + list[r + k * step].position * d)
                                      : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            float x[VEC];
            unpack8(x, raw[k]);
#pragma unroll
            for (int j = 0; j < VEC; j++)
                sum[j] += x[j];
        }
    }
}

/* One block per position; those of entries that begin a short list add it. */
__global__ static void __launch_bounds__(THREADS)
    embed_add_light(void *dw, bool wide, const struct entry *entry, const int32_t *n_entries, const bf16 *dy,
                    int64_t d, bool add)
{
    if (blockIdx.x >= *n_entries)
        return;
    const struct entry e = entry[blockIdx.x];
    if (e.n == 0 || e.n > HEAVY)
        return;
    for (int64_t i = threadIdx.x * VEC; i < d; i += blockDim.x * VEC) {
        float sum[VEC] = {};
        add_rows(sum, entry + blockIdx.x, 0, 1, e.n, dy + i, d);
        grad_put8(dw, wide, add, e.row * d + i, sum);
    }
}

/* x: 256 columns of dw; y: one block per long list. */
__global__ static void __launch_bounds__(32 * SHARE)
    embed_add_heavy(void *dw, bool wide, struct lists l, const bf16 *dy, int64_t d, bool add)
{
    __shared__ float room[SHARE][VEC][32];
    if (blockIdx.y >= l.counters[1])
        return;
    const struct entry *list = l.entry + l.heavy[blockIdx.y];
    const int64_t i = ((int64_t)blockIdx.x * 32 + threadIdx.x) * VEC;
    float sum[VEC] = {};
    if (i < d)
        add_rows(sum, list, threadIdx.y, SHARE, list->n, dy + i, d);
#pragma unroll
    for (int j = 0; j < VEC; j++)
        room[threadIdx.y][j][threadIdx.x] = sum[j];
    __syncthreads();
    if (threadIdx.y != 0 || i >= d)
        return;
    for (int y = 1; y < SHARE; y++)
#pragma unroll
        for (int j = 0; j < VEC; j++)
            sum[j] += room[y][j][threadIdx.x];
    grad_put8(dw, wide, add, list->row * d + i, sum);
}

/* Threads for rows of d elements. */
static unsigned threads_for(int64_t d)
{
    const int64_t threads = round_up(cut_parts(d, VEC), 32);
    return (unsigned)(threads < THREADS ? threads : (int64_t)THREADS);
}

static void forward(const struct call *c, struct part p)
{
    const int64_t n = c->dim[N], d = c->dim[D];
    embed_fwd<<<blocks_for(n, 1), threads_for(cut_parts(d, EACH)), 0, stream_of(c)>>>(
        (bf16 *)c->arg[Y], (const bf16 *)c->arg[W], (const int32_t *)c->arg[TOKEN], p, d / VEC);
    LAUNCHED();
}

static void make_lists(const struct call *c, const struct lists *l, struct part p)
{
    const int64_t n = c->dim[N];
    const int32_t *token = (const int32_t *)c->arg[TOKEN];
    const unsigned blocks = blocks_for(n, THREADS);
    const cudaStream_t stream = stream_of(c);
    CUDA_DO(cudaMemsetAsync(l->count, 0, (size_t)(p.n + 2) * sizeof(int32_t), stream));
    embed_count<<<blocks, THREADS, 0, stream>>>(*l, token, n, p);
    LAUNCHED();
    embed_start<<<blocks, THREADS, 0, stream>>>(*l, token, n, p);
    LAUNCHED();
    embed_place<<<blocks, THREADS, 0, stream>>>(*l, token, n, p);
    LAUNCHED();
    embed_order<<<blocks, THREADS, 0, stream>>>(*l, token, p);
    LAUNCHED();
}

static void backward(const struct call *c, struct part p)
{
    const int64_t n = c->dim[N], d = c->dim[D], most_heavy = n / (HEAVY + 1);
    const struct lists l = lists_in(c->work, n, p.n);
    const bf16 *dy = (const bf16 *)c->grad[Y];
    const bool wide = is_wide(c, W), add = adds(c, W);
    if (!c->grad[W])
        return;
    grad_clear(c, W, p.n * d);
    if (!dy || n == 0)
        return;
    make_lists(c, &l, p);
    embed_add_light<<<blocks_for(n, 1), threads_for(d), 0, stream_of(c)>>>(c->grad[W], wide, l.entry,
                                                                           l.counters, dy, d, add);
    LAUNCHED();
    if (most_heavy == 0)
        return;
    CHECK(most_heavy < 65536, "%lld positions in one call", (long long)n);
    embed_add_heavy<<<dim3(blocks_for(d, 32 * VEC), (unsigned)most_heavy), dim3(32, SHARE), 0,
                      stream_of(c)>>>(c->grad[W], wide, l, dy, d, add);
    LAUNCHED();
}

static struct part all_rows(const struct call *c)
{
    return (struct part){ c->dim[V], 0, c->dim[V] };
}

static struct part rows_here(const struct call *c)
{
    return (struct part){ c->dim[V], (int64_t)c->attr[FIRST], (int64_t)c->attr[VOCAB] };
}

extern "C" void embed_fwd_cuda(const struct call *c)
{
    forward(c, all_rows(c));
}

extern "C" void embed_part_fwd_cuda(const struct call *c)
{
    forward(c, rows_here(c));
}

extern "C" void embed_bwd_cuda(const struct call *c)
{
    backward(c, all_rows(c));
}

extern "C" void embed_part_bwd_cuda(const struct call *c)
{
    backward(c, rows_here(c));
}

extern "C" void embed_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)lists_in(NULL, c->dim[N], c->dim[V]).bytes;
}

extern "C" void embed_part_work_cuda(const struct call *c, size_t bytes[2])
{
    embed_work_cuda(c, bytes);
}
