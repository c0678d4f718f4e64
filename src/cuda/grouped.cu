/* grouped.cu - the choice of the path, and the one for every device since compute capability 8.0: blocks of 128 x 128 of
 * the output by mma.m16n8k16, whose operands come through shared memory, copied STAGES - 1 tiles ahead. */
#include "cuda/grouped.cuh"
#include "cuda/grouped_plan.cuh"
#include "cuda/mma.cuh"
#include "cuda/mma_tile.h"
enum { THREADS = 8 * WARP, STAGES = 3, TILE = SIDE * DEPTH };
enum { ROWS = 64, COLUMNS = 32 }; /* of the output, of a warp: 2 x 4 warps make a block */
/* out[m, n] (+)= op(a)[m, k] op(b)[k, n], of one expert; a, b, out as stored, rows lda, ldb, n elements apart */
struct product {
    const bf16 *a, *b;
    void *out;
    int m, n, k, lda, ldb;
    bool add, wide;
};

/* Copies 128 rows from `row` on and 32 steps from `step` on of an operand, zeros behind n_rows and n_steps; deep: it is
 * stored [rows, steps], otherwise [steps, rows], with lines ld elements apart. */
template <bool DEEP>
__device__ static inline void stage(bf16 *to, const bf16 *from, int ld, int row, int step, int n_rows,
                                    int n_steps)
{
    enum { PER_LINE = (DEEP ? DEPTH : SIDE) / VECTOR };
#pragma unroll
    for (int i = 0; i < TILE / VECTOR / THREADS; i++) {
        const int u = threadIdx.x + i * THREADS, line = u / PER_LINE, v = u % PER_LINE;
        const int y = (DEEP ? row : step) + line, x = (DEEP ? step : row) + v * VECTOR;
        const bool there = y < (DEEP ? n_rows : n_steps) && x < (DEEP ? n_steps : n_rows);
        copy_later(to + tile_at(DEEP, line, v), there ? from + (int64_t)y * ld + x : from, there);
    }
}

/* sum += the 64 x 32 of this warp from one tile of each operand */
template <bool A_DEEP, bool B_DEEP>
__device__ static inline void multiply_tile(float (&sum)[4][4][4], const bf16 *a, const bf16 *b, int row,
                                            int column, int lane)
{
#pragma unroll
    for (int step = 0; step < DEPTH; step += 16) {
        uint32_t x[4][4], y[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            load_matrices<!A_DEEP>(x[i], a + tile_a(A_DEEP, row + 16 * i, step, lane));
#pragma unroll
        for (int j = 0; j < 2; j++)
            load_matrices<!B_DEEP>(y[j], b + tile_b(B_DEEP, column + 16 * j, step, lane));
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                multiply_add(sum[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
    }
}

/* Two neighbours of a row; `at` is even. */
__device__ static inline void put_pair(const struct product *p, int64_t at, float x, float y)
{
    if (p->wide) {
        float2 *to = (float2 *)((float *)p->out + at), old = p->add ? *to : make_float2(0, 0);
        *to = make_float2(old.x + x, old.y + y);
    } else {
        __nv_bfloat162 *to = (__nv_bfloat162 *)((bf16 *)p->out + at);
        const float2 old = p->add ? __bfloat1622float2(*to) : make_float2(0, 0);
        *to = __floats2bfloat162_rn(old.x + x, old.y + y);
    }
}

__device__ static inline void put(const struct product *p, const float (&sum)[4][4][4], int row, int column,
                                  int lane)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = row + 16 * i + 8 * half + lane / 4;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int c = column + 8 * j + lane % 4 * 2;
                if (r < p->m && c < p->n)
                    put_pair(p, (int64_t)r * p->n + c, sum[i][j][2 * half], sum[i][j][2 * half + 1]);
            }
        }
}

/* The block of the output of p at (row, column). A_DEEP: a is stored [m, k]; B_DEEP: b is stored [n, k]. */
template <bool A_DEEP, bool B_DEEP>
__device__ static void block_product(const struct product *p, int row, int column)
{
    __shared__ __align__(128) bf16 a[STAGES][TILE], b[STAGES][TILE];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_tiles = (p->k + DEPTH - 1) / DEPTH;
    const int warp_row = warp / 4 * ROWS, warp_column = warp % 4 * COLUMNS;
    float sum[4][4][4] = {};
    for (int i = 1 - STAGES; i < n_tiles; i++) {
        const int next = i + STAGES - 1;
        if (i >= 0) {
            copies_wait<STAGES - 2>(); /* tile i is there, for this thread */
            __syncthreads();           /* for all; and nobody reads tile i - 1, whose place the next takes */
        }
        if (next < n_tiles) {
            stage<A_DEEP>(a[next % STAGES], p->a, p->lda, row, next * DEPTH, p->m, p->k);
            stage<B_DEEP>(b[next % STAGES], p->b, p->ldb, column, next * DEPTH, p->n, p->k);
        }
        copies_commit();
        if (i >= 0)
            multiply_tile<A_DEEP, B_DEEP>(sum, a[i % STAGES], b[i % STAGES], warp_row, warp_column, lane);
    }
    put(p, sum, row + warp_row, column + warp_column, lane);
}

/* Rows [row, end) of an expert: block `i` of the rows of all experts begins there; false when there are fewer. A lane
 * looks at an expert; all lanes get the same. */
struct rows {
    int64_t expert;
    int row, end;
};
__device__ static bool find_rows(const struct groups *g, int64_t i, struct rows *out)
{
    const int lane = threadIdx.x % WARP;
    for (int64_t first = 0; first < g->n_experts; first += WARP) {
        const bool there = first + lane < g->n_experts;
        const int64_t from = there ? groups_edge(g, first + lane) : 0,
                      to = there ? groups_edge(g, first + lane + 1) : 0;
        const int64_t blocks = cut_parts(to - from, SIDE);
        int64_t sum = blocks; /* of the experts up to this lane's */
#pragma unroll
        for (int step = 1; step < WARP; step *= 2) {
            const int64_t before = __shfl_up_sync(0xffffffffu, sum, step);
            sum += lane >= step ? before : 0;
        }
        const unsigned has = __ballot_sync(0xffffffffu, i < sum);
        if (has) {
            const int found = __ffs((int)has) - 1;
            out->expert = first + found;
            out->row = __shfl_sync(0xffffffffu, (int)(from + (i - (sum - blocks)) * SIDE), found);
            out->end = __shfl_sync(0xffffffffu, (int)to, found);
            return true;
        }
        i -= __shfl_sync(0xffffffffu, sum, WARP - 1);
    }
    return false;
}

template <bool W_DEEP>
__global__ static void __launch_bounds__(THREADS, 2)
    rows_kernel(struct groups g, int n, int k, const bf16 *in, const bf16 *w, bool add, bf16 *out)
{
    struct rows r;
    if (!find_rows(&g, blockIdx.y, &r))
        return;
    const struct product p = {
        in, w + r.expert * n * k, out, r.end, n, k, k, W_DEEP ? k : n, add, false,
    };
    block_product<true, W_DEEP>(&p, r.row, (int)blockIdx.x * SIDE);
}

__global__ static void __launch_bounds__(THREADS, 2)
    gradient_kernel(struct groups g, int64_t parts, int m, int n, const bf16 *dy, const bf16 *x, bool add,
                    void *dw, bool wide)
{
    const int64_t expert = blockIdx.z, from = groups_edge(&g, expert),
                  rows = groups_edge(&g, expert + 1) - from;
    const int64_t at = groups_plane(expert, g.n_experts, parts) * m * n * (wide ? 4 : 2);
    const struct product p = {
        dy + from * m, x + from * n, (char *)dw + at, m, n, (int)rows, m, n, add, wide,
    };
    block_product<false, false>(&p, (int)blockIdx.y * SIDE, (int)blockIdx.x * SIDE);
}

/* y from h, one vector per thread. */
__global__ static void swiglu_kernel(struct groups g, int64_t f, const bf16 *h, const float *weight, bf16 *y)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, each = f / VEC;
    const int64_t row = i / each, column = i % each * VEC;
    float gate[VEC], up[VEC];
    if (row >= groups_edge(&g, g.n_experts))
        return;
    load8(gate, h + row * 2 * f + column);
    load8(up, h + row * 2 * f + f + column);
    for (int k = 0; k < VEC; k++)
        gate[k] = swiglu(gate[k], up[k], weight[row]);
    store8(y + row * f + column, gate);
}

/* A warp per row: dh from h and dy, whose place y takes, and the gradient of the row's weight. */
__global__ static void __launch_bounds__(THREADS)
    swiglu_bwd_kernel(struct groups g, int64_t f, const bf16 *h, const float *weight, bf16 *dh, bf16 *y,
                      float *dweight, bool add)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    float sum = 0;
    if (row >= groups_edge(&g, g.n_experts))
        return;
    const float w = weight[row];
#pragma unroll 2
    for (int64_t i = threadIdx.x % WARP * VEC; i < f; i += WARP * VEC) {
        float gate[VEC], up[VEC], d[VEC];
        load8(gate, h + row * 2 * f + i);
        load8(up, h + row * 2 * f + f + i);
        load8(d, y + row * f + i);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            const struct swiglu_back b = swiglu_bwd(gate[k], up[k], w, d[k]);
            gate[k] = b.gate;
            up[k] = b.up;
            d[k] = b.y;
            sum += b.weight;
        }
        store8(dh + row * 2 * f + i, gate);
        store8(dh + row * 2 * f + f + i, up);
        store8(y + row * f + i, d);
    }
    sum = warp_sum(sum);
    if (dweight && threadIdx.x % WARP == 0)
        dweight[row] = add ? dweight[row] + sum : sum;
}

/* dweight[r] (+)= the sum of partial[tile][r] */
__global__ static void weight_sum_kernel(struct groups g, int64_t n_tiles, const float *partial,
                                         float *dweight, bool add)
{
    const int64_t row = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0;
    if (row >= groups_edge(&g, g.n_experts))
        return;
    for (int64_t t = 0; t < n_tiles; t++)
        sum += partial[t * g.n_rows + row];
    dweight[row] = add ? dweight[row] + sum : sum;
}

static void check(const struct groups *g, int64_t m, int64_t n, const void *a, const void *b, const void *out)
{
    CHECK(g->tile > 0 && g->n_rows % g->tile == 0, "%lld rows in tiles of %lld", (long long)g->n_rows,
          (long long)g->tile);
    CHECK(m % VEC == 0 && n % VEC == 0 && m < 1 << 30 && n < 1 << 30 && g->n_rows < 1 << 30,
          "widths %lld and %lld, %lld rows", (long long)m, (long long)n, (long long)g->n_rows);
    CHECK(((uintptr_t)a | (uintptr_t)b | (uintptr_t)out) % 16 == 0, "operands at %p, %p, %p", a, b, out);
}

/* Of y and z. */
static unsigned few_blocks(int64_t n)
{
    CHECK(n < 65536, "%lld blocks", (long long)n);
    return (unsigned)(n > 0 ? n : 1);
}

/* As many as there can be, however the rows are spread. The columns of a block of rows come together: it stays in the
 * L2 cache for them. */
static dim3 rows_grid(const struct groups *g, int64_t n)
{
    return dim3(blocks_for(n, SIDE), few_blocks(g->n_rows / SIDE + g->n_experts));
}

void grouped_rows(cudaStream_t stream, const struct groups *g, enum trans tw, int64_t n, int64_t k,
                  const bf16 *in, const bf16 *w, bool add, bf16 *out)
{
    check(g, n, k, in, w, out);
    if (grouped_hopper_takes(g)) {
        grouped_hopper_rows(stream, g, tw, n, k, in, w, add, out);
        return;
    }
    if (tw == TR)
        rows_kernel<true><<<rows_grid(g, n), THREADS, 0, stream>>>(*g, (int)n, (int)k, in, w, add, out);
    else
        rows_kernel<false><<<rows_grid(g, n), THREADS, 0, stream>>>(*g, (int)n, (int)k, in, w, add, out);
    LAUNCHED();
}

void grouped_up(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f, const bf16 *x,
                const float *weight, const bf16 *w, bf16 *h, bf16 *y)
{
    check(g, d, f, x, w, h);
    check(g, d, f, x, w, y);
    if (grouped_hopper_takes(g)) {
        grouped_hopper_up(stream, g, d, f, x, weight, w, h, y);
        return;
    }
    grouped_rows(stream, g, TR, 2 * f, d, x, w, false, h);
    swiglu_kernel<<<blocks_for(g->n_rows * f / VEC, 256), 256, 0, stream>>>(*g, f, h, weight, y);
    LAUNCHED();
}

int64_t grouped_back_partials(int64_t n_rows, int64_t f)
{
    return n_rows * cut_parts(f, TILE_COLUMNS);
}

void grouped_back_apart(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f,
                        const struct grouped_back *b)
{
    check(g, d, f, b->h, b->dh, b->y);
    grouped_rows(stream, g, NO, f, d, b->dz, b->w, false, b->y);
    swiglu_bwd_kernel<<<blocks_for(g->n_rows, THREADS / WARP), THREADS, 0, stream>>>(
        *g, f, b->h, b->weight, b->dh, b->y, b->dweight, b->add);
    LAUNCHED();
}

void grouped_back(cudaStream_t stream, const struct groups *g, int64_t d, int64_t f,
                  const struct grouped_back *b)
{
    if (!grouped_hopper_takes(g)) {
        grouped_back_apart(stream, g, d, f, b);
        return;
    }
    check(g, d, f, b->dz, b->w, b->h);
    check(g, d, f, b->dh, b->y, b->partial);
    grouped_hopper_back(stream, g, d, f, b);
    if (!b->dweight)
        return;
    weight_sum_kernel<<<blocks_for(g->n_rows, 256), 256, 0, stream>>>(*g, cut_parts(f, TILE_COLUMNS),
                                                                      b->partial, b->dweight, b->add);
    LAUNCHED();
}

void grouped_gradient(cudaStream_t stream, const struct groups *g, int64_t parts, int64_t m, int64_t n,
                      const bf16 *dy, const bf16 *x, bool add, void *dw, bool wide)
{
    struct groups apart = *g;
    check(g, m, n, dy, x, dw);
    CHECK(parts == 1 || parts == g->n_sources, "%lld parts of %lld sources", (long long)parts,
          (long long)g->n_sources);
    if (parts > 1) {
        apart.n_experts *= parts;
        apart.n_sources = 1;
    }
    if (grouped_hopper_takes(&apart)) {
        grouped_hopper_gradient(stream, &apart, parts, m, n, dy, x, add, dw, wide);
        return;
    }
    const dim3 grid(blocks_for(n, SIDE), few_blocks(cut_parts(m, SIDE)), few_blocks(apart.n_experts));
    gradient_kernel<<<grid, THREADS, 0, stream>>>(apart, parts, (int)m, (int)n, dy, x, add, dw, wide);
    LAUNCHED();
}
