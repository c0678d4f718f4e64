/* grouped.cu - the choice of the path, and the plain one: blocks of 64 x 64 of the output on the matrix units that
 * every device since compute capability 8.0 has. */
#include "cuda/grouped.cuh"
#include <mma.h>
enum { BLOCK = 64, DEPTH = 32, THREADS = 128, PAD = 8 };
/* out[m, n] (+)= op(a)[m, k] op(b)[k, n], of one expert; a, b, out as stored, rows lda, ldb, n elements apart */
struct product {
    const bf16 *a, *b;
    void *out;
    int64_t m, n, k, lda, ldb;
    bool add, wide;
};

/* Rows x columns of a matrix (those that exist; zeros otherwise) into shared memory with `line` elements per row. */
template <int ROWS, int COLUMNS>
__device__ static void stage(bf16 *to, const bf16 *from, int64_t ld, int64_t row, int64_t column,
                             int64_t n_rows, int64_t n_columns)
{
    for (int i = threadIdx.x; i < ROWS * COLUMNS / VEC; i += THREADS) {
        const int r = i / (COLUMNS / VEC), c = i % (COLUMNS / VEC) * VEC;
        const bool there = row + r < n_rows && column + c < n_columns;
        *(uint4 *)(to + r * (COLUMNS + PAD) + c) =
            there ? *(const uint4 *)(from + (row + r) * ld + column + c) : make_uint4(0, 0, 0, 0);
    }
}

template <bool TRANSPOSED> struct stored_as {
    typedef nvcuda::wmma::row_major order;
};
template <> struct stored_as<true> {
    typedef nvcuda::wmma::col_major order;
};

/* One block of the output of p, at (row, column). TA, TB: a is stored [k, m], b is stored [n, k]. */
template <bool TA, bool TB>
__device__ static void block_product(const struct product *p, int64_t row, int64_t column)
{
    using namespace nvcuda::wmma;
    enum { A_LINE = (TA ? BLOCK : DEPTH) + PAD, B_LINE = (TB ? DEPTH : BLOCK) + PAD, OUT_LINE = BLOCK + 4 };
    __shared__ __align__(32) bf16 a[(TA ? DEPTH : BLOCK) * A_LINE], b[(TB ? BLOCK : DEPTH) * B_LINE];
    __shared__ __align__(32) float out[BLOCK * OUT_LINE];
    const int warp = threadIdx.x / 32, first_row = warp / 2 * 32, first_column = warp % 2 * 32;
    fragment<accumulator, 16, 16, 16, float> sum[2][2];
    for (int i = 0; i < 4; i++)
        fill_fragment(sum[i / 2][i % 2], 0.0f);
    for (int64_t k = 0; k < p->k; k += DEPTH) {
        __syncthreads();
        if (TA)
            stage<DEPTH, BLOCK>(a, p->a, p->lda, k, row, p->k, p->m);
        else
            stage<BLOCK, DEPTH>(a, p->a, p->lda, row, k, p->m, p->k);
        if (TB)
            stage<BLOCK, DEPTH>(b, p->b, p->ldb, column, k, p->n, p->k);
        else
            stage<DEPTH, BLOCK>(b, p->b, p->ldb, k, column, p->k, p->n);
        __syncthreads();
#pragma unroll
        for (int l = 0; l < DEPTH; l += 16) {
            fragment<matrix_a, 16, 16, 16, bf16, typename stored_as<TA>::order> x[2];
            fragment<matrix_b, 16, 16, 16, bf16, typename stored_as<TB>::order> y[2];
            for (int i = 0; i < 2; i++) {
                const int r = first_row + 16 * i, c = first_column + 16 * i;
                load_matrix_sync(x[i], TA ? a + l * A_LINE + r : a + r * A_LINE + l, A_LINE);
                load_matrix_sync(y[i], TB ? b + c * B_LINE + l : b + l * B_LINE + c, B_LINE);
            }
            for (int i = 0; i < 4; i++)
                mma_sync(sum[i / 2][i % 2], x[i / 2], y[i % 2], sum[i / 2][i % 2]);
        }
    }
    for (int i = 0; i < 4; i++)
        store_matrix_sync(out + (first_row + i / 2 * 16) * OUT_LINE + first_column + i % 2 * 16,
                          sum[i / 2][i % 2], OUT_LINE, mem_row_major);
    __syncthreads();
    for (int i = threadIdx.x; i < BLOCK * BLOCK; i += THREADS) {
        const int64_t r = row + i / BLOCK, c = column + i % BLOCK;
        if (r < p->m && c < p->n)
            grad_put(p->out, p->wide, p->add, r * p->n + c, out[i / BLOCK * OUT_LINE + i % BLOCK]);
    }
}

/* Expert and first row of block `i` of the rows of all experts; false when there are fewer. */
__device__ static bool find_rows(const struct groups *g, int64_t i, int64_t *expert, int64_t *row,
                                 int64_t *end)
{
    int64_t from = 0;
    for (*expert = 0; *expert < g->n_experts; ++*expert) {
        *end = groups_edge(g, *expert + 1);
        *row = from + i * BLOCK;
        if (*row < *end)
            return true;
        i -= cut_parts(*end - from, BLOCK);
        from = *end;
    }
    return false;
}

template <bool TB>
__global__ static void __launch_bounds__(THREADS)
    rows_kernel(struct groups g, int64_t n, int64_t k, const bf16 *in, const bf16 *w, bool add, bf16 *out)
{
    int64_t expert, row, end;
    if (!find_rows(&g, blockIdx.x, &expert, &row, &end))
        return;
    const struct product p = {
        in, w + expert * n * k, out, end, n, k, k, TB ? k : n, add, false,
    };
    block_product<false, TB>(&p, row, (int64_t)blockIdx.y * BLOCK);
}

__global__ static void __launch_bounds__(THREADS)
    gradient_kernel(struct groups g, int64_t parts, int64_t m, int64_t n, const bf16 *dy, const bf16 *x,
                    bool add, void *dw, bool wide)
{
    const int64_t expert = blockIdx.z, from = groups_edge(&g, expert),
                  rows = groups_edge(&g, expert + 1) - from;
    const int64_t at = groups_plane(expert, g.n_experts, parts) * m * n * (wide ? 4 : 2);
    const struct product p = {
        dy + from * m, x + from * n, (char *)dw + at, m, n, rows, m, n, add, wide,
    };
    block_product<true, false>(&p, (int64_t)blockIdx.x * BLOCK, (int64_t)blockIdx.y * BLOCK);
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

static void check(const struct groups *g, int64_t m, int64_t n, const void *a, const void *b, const void *out)
{
    CHECK(g->tile > 0 && g->n_rows % g->tile == 0, "%lld rows in tiles of %lld", (long long)g->n_rows,
          (long long)g->tile);
    CHECK(m % VEC == 0 && n % VEC == 0, "widths %lld and %lld", (long long)m, (long long)n);
    CHECK(((uintptr_t)a | (uintptr_t)b | (uintptr_t)out) % 16 == 0, "operands at %p, %p, %p", a, b, out);
}

/* As many as there can be, however the rows are spread. */
static dim3 rows_grid(const struct groups *g, int64_t n)
{
    return dim3((unsigned)(g->n_rows / BLOCK + g->n_experts), blocks_for(n, BLOCK));
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
        rows_kernel<true><<<rows_grid(g, n), THREADS, 0, stream>>>(*g, n, k, in, w, add, out);
    else
        rows_kernel<false><<<rows_grid(g, n), THREADS, 0, stream>>>(*g, n, k, in, w, add, out);
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
    const dim3 grid(blocks_for(m, BLOCK), blocks_for(n, BLOCK), (unsigned)apart.n_experts);
    gradient_kernel<<<grid, THREADS, 0, stream>>>(apart, parts, m, n, dy, x, add, dw, wide);
    LAUNCHED();
}
