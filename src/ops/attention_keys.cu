/* attention_keys.cu - keys of attention as one tensor [b, s, a, q] from kv and k_rope, and its gradient back to theirs.
 * cuDNN takes no keys in two parts. Its gradient of v goes where it lies in kv's; that of the keys would overlap it
 * there, so it is moved: as many bytes as moving v's instead. */
#include "ops/attention.cuh"
enum { THREADS = 128, EACH = 8 }; /* 16-byte loads in flight per thread */

/* Where one vector of every row is read and where it goes. Blocks of rows are moved by threads that each keep their
 * column: what a column needs is divided out once, and the loads of EACH rows are under way before the first is used.
 */
struct column {
    const uint4 *from;
    uint4 *to;
    int64_t from_row, to_row; /* vectors from row to row */
};

/* The rows and the column of this thread, of n columns in all; false: there is none. */
__device__ static inline bool take_column(unsigned block, int n, int64_t *row, int *column)
{
    const unsigned across = (unsigned)cut_parts(n, THREADS), down = block / across;
    *row = (int64_t)down * EACH;
    *column = (int)((block - down * across) * THREADS + threadIdx.x);
    return *column < n;
}

static int64_t column_blocks(int64_t rows, int64_t n)
{
    return cut_parts(rows, EACH) * cut_parts(n, THREADS);
}

/* Rows from the first'th on, EACH at most. Behind the last, it is read again rather than a branch between loads. */
__device__ static inline void move_column(struct column c, int64_t first, int64_t rows, bool add)
{
    const int n = (int)(rows - first < EACH ? rows - first : EACH);
    uint4 raw[EACH];
    float x[VEC];
    c.from += first * c.from_row;
    c.to += first * c.to_row;
#pragma unroll
    for (int k = 0; k < EACH; k++)
        raw[k] = c.from[(k < n ? k : n - 1) * c.from_row];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        uint4 *to = c.to + k * c.to_row;
        if (k >= n)
            return;
        if (add) {
            unpack8(x, raw[k]);
            grad_put8(to, false, true, 0, x);
        } else {
            *to = raw[k];
        }
    }
}

/* Widths in vectors of VEC. */
struct widths {
    int a, q, c, nope, r;
};

static struct widths widths_of(const struct attention *z)
{
    const struct widths w = { (int)z->a, (int)(z->q / VEC), (int)(z->c / VEC), (int)(z->nope / VEC),
                              (int)(z->r / VEC) };
    return w;
}

/* k [rows, a, q]: [k_nope | k_rope] of every head */
__global__ static void __launch_bounds__(THREADS)
    assemble(uint4 *k, const uint4 *kv, const uint4 *k_rope, struct widths w, int64_t rows)
{
    struct column c = { kv, k, w.a * w.c, w.a * w.q };
    int64_t row;
    int i;
    if (!take_column(blockIdx.x, w.a * w.q, &row, &i))
        return;
    const int head = i / w.q, j = i - head * w.q;
    c.to += i;
    if (j < w.nope) {
        c.from += head * w.c + j;
    } else {
        c.from = k_rope + j - w.nope;
        c.from_row = w.r;
    }
    move_column(c, row, rows, false);
}

/* Where the gradients of some rows lie. */
struct split {
    const uint4 *dk;    /* [rows, a, q] */
    const uint4 *dv;    /* in the v of [rows, a, c], or NULL: it is in its place */
    uint4 *kv, *k_rope; /* gradients [rows, a, c], [rows, r]; blocks for those that are wanted */
    struct widths w;
    int64_t rows;
    unsigned rope_blocks; /* the first of the grid sum k_rope's gradient */
    bool add_kv, add_rope;
};

/* A thread sums one vector of one row over the heads, in their order. */
__device__ static inline void sum_rope(const struct split *s)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x, row = i / (uint32_t)s->w.r;
    const uint4 *from = s->dk + (int64_t)row * s->w.a * s->w.q + s->w.nope + (i - row * (uint32_t)s->w.r);
    float sum[VEC] = { 0 }, x[VEC];
    if (row >= s->rows)
        return;
    for (int head = 0; head < s->w.a; head += EACH, from += EACH * s->w.q) {
        uint4 raw[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++)
            raw[k] = from[min(k, s->w.a - 1 - head) * s->w.q];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            unpack8(x, head + k < s->w.a ? raw[k] : make_uint4(0, 0, 0, 0));
#pragma unroll
            for (int j = 0; j < VEC; j++)
                sum[j] += x[j];
        }
    }
    grad_put8(s->k_rope + i, false, s->add_rope, 0, sum);
}

/* dk -> k_nope's part of kv's gradient, and the sum over heads to k_rope's; dv, where there is one, to v's part. */
__global__ static void __launch_bounds__(THREADS) split_keys(const __grid_constant__ struct split s)
{
    const int width = s.dv ? s.w.c : s.w.nope;
    struct column c = { s.dk, s.kv, s.w.a * s.w.q, s.w.a * s.w.c };
    int64_t row;
    int i;
    if (blockIdx.x < s.rope_blocks) {
        sum_rope(&s);
        return;
    }
    if (!take_column(blockIdx.x - s.rope_blocks, s.w.a * width, &row, &i))
        return;
    const int head = i / width, j = i - head * width;
    c.to += head * s.w.c + j;
    if (j < s.w.nope) {
        c.from += head * s.w.q + j;
    } else {
        c.from = s.dv + head * s.w.c + j;
        c.from_row = c.to_row;
    }
    move_column(c, row, s.rows, s.add_kv);
}

void attention_keys(const struct call *c, const struct attention *z, int64_t first, int64_t n, bf16 *k)
{
    const int64_t row = first * z->s, rows = n * z->s;
    const struct widths w = widths_of(z);
    assemble<<<blocks_for(column_blocks(rows, w.a * w.q), 1), THREADS, 0, stream_of(c)>>>(
        (uint4 *)k, (const uint4 *)c->arg[KV] + row * w.a * w.c, (const uint4 *)c->arg[K_ROPE] + row * w.r, w,
        rows);
    LAUNCHED();
}

void attention_split_keys(const struct call *c, const struct attention *z, int64_t first, int64_t n,
                          const bf16 *dk, const bf16 *dv)
{
    const struct widths w = widths_of(z);
    const int64_t row = first * z->s, rows = n * z->s,
                  rope_blocks = c->grad[K_ROPE] ? cut_parts(rows * w.r, THREADS) : 0,
                  blocks = rope_blocks + (c->grad[KV] ? column_blocks(rows, w.a * (dv ? w.c : w.nope)) : 0);
    struct split s;
    CHECK(rows * w.r < (int64_t)1 << 31, "%lld vectors in one call", (long long)(rows * w.r));
    if (blocks == 0)
        return;
    s.dk = (const uint4 *)dk, s.dv = (const uint4 *)dv;
    s.kv = (uint4 *)c->grad[KV] + row * w.a * w.c;
    s.k_rope = (uint4 *)c->grad[K_ROPE] + row * w.r;
    s.w = w, s.rows = rows, s.rope_blocks = (unsigned)rope_blocks;
    s.add_kv = adds(c, KV), s.add_rope = adds(c, K_ROPE);
    split_keys<<<blocks_for(blocks, 1), THREADS, 0, stream_of(c)>>>(s);
    LAUNCHED();
}
