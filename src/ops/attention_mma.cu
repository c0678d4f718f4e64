/* attention_mma.cu - attention's forward on mma.m16n8k16, for every device since compute capability 8.0 (the algorithm of
 * arXiv 2307.08691). A block owns QUERIES queries of one head, a warp WARP_ROWS of them, and goes over tiles of KEYS keys.
 * Keys come two tiles ahead of their use, values while the scores are made. Scores stay in registers: they are the
 * operand of the product with the values. */
#include "ops/attention_mma.cuh"
enum {
    HALVES = 2,
    WARP_ROWS = 16 * HALVES,
    QUERIES = WARPS * WARP_ROWS,
    KEYS = 32,
    MOST_Q = 192,
    MOST_V = 128
};
/* Steps of 16 of the queries that registers hold; the others are read again for each tile of keys. */
enum { HELD = 1 };
/* A row's scores are taken relative to its largest so far only up to this many powers of two, so that sums are seldom
 * scaled: 2^8 times too large a probability is as exact. */
static const float SLACK = 8;

/* Vectors are 16 bytes, and largest scores those of the largest products. */
bool attention_mma_serves(const struct attention *z)
{
    return z->nope % VEC == 0 && z->r % VEC == 0 && z->v % VEC == 0 && z->q <= MOST_Q && z->v <= MOST_V &&
           z->s < 1 << 30 && z->a < 1 << 14 && z->b < 1 << 30 && z->scale > 0;
}

/* Of the two rows that a lane has in each of the 16 rows of a half. */
struct softmax {
    float top[HALVES][2]; /* products, before scaling */
    float sum[HALVES][2]; /* of this lane's columns */
};

/* Of the rows, as the four lanes that share one. */
__device__ static inline float four_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ static inline float four_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Keys behind a query are not seen. row: this lane's first; column: its first key. */
__device__ static inline void hide(float (&x)[HALVES][KEYS / 8][4], int row, int column)
{
#pragma unroll
    for (int m = 0; m < HALVES; m++)
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (column + 8 * j + k % 2 > row + 16 * m + k / 2 * 8)
                    x[m][j][k] = -INFINITY;
}

/* Products x become 2^(scale (x - top)); what a row's sums so far must be multiplied with goes to shrink. Returns whether
 * any row of the warp must. */
__device__ static inline bool softmax_step(struct softmax *t, float (&x)[HALVES][KEYS / 8][4],
                                           float (&shrink)[HALVES][2], float scale)
{
    bool moved = false;
#pragma unroll
    for (int m = 0; m < HALVES; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = -INFINITY, part = 0;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
                most = fmaxf(most, fmaxf(x[m][j][2 * h], x[m][j][2 * h + 1]));
            most = four_max(most); /* finite: the first tile has key 0, to which top goes from -inf */
            const float old = t->top[m][h], top = (most - old) * scale > SLACK ? most : old;
            shrink[m][h] = exp2_of((old - top) * scale);
            moved |= top != old;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int k = 2 * h; k < 2 * h + 2; k++) {
                    x[m][j][k] = exp2_of(x[m][j][k] * scale - top * scale);
                    part += x[m][j][k];
                }
            t->sum[m][h] = t->sum[m][h] * shrink[m][h] + part;
            t->top[m][h] = top;
        }
    return __any_sync(0xffffffffu, moved);
}

/* The first steps of this warp's queries into registers, of as many as there are. */
template <int Q>
__device__ static inline void hold(uint32_t (&held)[HELD][HALVES][4], const bf16 *q, int row, int lane)
{
#pragma unroll
    for (int i = 0; i < HELD && 16 * i < Q; i++)
#pragma unroll
        for (int m = 0; m < HALVES; m++)
            load_matrices<false>(held[i][m], q + rows_a(Q, row + 16 * m, 16 * i, lane));
}

/* x = this warp's queries, from `row` on, times a tile of keys */
template <int Q>
__device__ static inline void score(float (&x)[HALVES][KEYS / 8][4], const uint32_t (&held)[HELD][HALVES][4],
                                    const bf16 *q, int row, const bf16 *key, int lane)
{
#pragma unroll
    for (int m = 0; m < HALVES; m++)
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                x[m][j][k] = 0;
#pragma unroll
    for (int i = 0; i < Q / 16; i++) {
        uint32_t a[HALVES][4], b[4];
#pragma unroll
        for (int m = 0; m < HALVES && i >= HELD; m++)
            load_matrices<false>(a[m], q + rows_a(Q, row + 16 * m, 16 * i, lane));
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            load_matrices<false>(b, key + rows_b(Q, 16 * j, 16 * i, lane));
#pragma unroll
            for (int m = 0; m < HALVES; m++)
                if (i < HELD)
                    add_step<KEYS>(x[m], held[i % HELD][m], b, j);
                else
                    add_step<KEYS>(x[m], a[m], b, j);
        }
    }
}

/* acc += p times a tile of values */
template <int V>
__device__ static inline void weigh(float (&acc)[HALVES][V / 8][4], const float (&p)[HALVES][KEYS / 8][4],
                                    const bf16 *value, int lane)
{
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++) {
        uint32_t a[HALVES][4], b[4];
#pragma unroll
        for (int m = 0; m < HALVES; m++)
            operand_of_sums(a[m], p[m][2 * i], p[m][2 * i + 1]);
#pragma unroll
        for (int j = 0; j < V / 16; j++) {
            load_matrices<true>(b, value + rows_b_turned(V, 16 * i, 16 * j, lane));
#pragma unroll
            for (int m = 0; m < HALVES; m++)
                add_step<V>(acc[m], a[m], b, j);
        }
    }
}

template <int V>
__device__ static inline void shrink_sums(float (&acc)[HALVES][V / 8][4], const float (&shrink)[HALVES][2])
{
#pragma unroll
    for (int m = 0; m < HALVES; m++)
#pragma unroll
        for (int j = 0; j < V / 8; j++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                acc[m][j][k] *= shrink[m][k / 2];
}

/* row: this lane's first */
template <int V>
__device__ static inline void store(const struct attention_tensors *x, const struct place *p,
                                    const float (&acc)[HALVES][V / 8][4], const struct softmax *t, int row,
                                    int lane)
{
#pragma unroll
    for (int m = 0; m < HALVES; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int at = row + 16 * m + 8 * h;
            const float sum = four_sum(t->sum[m][h]), factor = 1 / sum;
            bf16 *out = x->out + at_row(&x->z, p->b, p->a, at, x->z.v);
            if (at >= x->z.s)
                continue;
            if (lane % 4 == 0)
                x->lse[at_number(&x->z, p->b, p->a, at)] = t->top[m][h] * x->z.scale + logf(sum);
#pragma unroll
            for (int j = 0; j < V / 8; j++)
                if (8 * j < x->z.v)
                    *(uint32_t *)(out + 8 * j + lane % 4 * 2) =
                        pack_pair(acc[m][j][2 * h] * factor, acc[m][j][2 * h + 1] * factor);
        }
}

constexpr int fwd_kernel_bytes(int q, int v)
{
    return (int)sizeof(bf16) * (QUERIES * q + 2 * KEYS * q + KEYS * v);
}

template <int Q, int V>
__global__ static void __launch_bounds__(THREADS, 2)
    fwd_kernel(const __grid_constant__ struct attention_tensors x)
{
    extern __shared__ __align__(128) unsigned char shared[];
    const struct place p = place_of<QUERIES>(&x.z, true);
    const int lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP * WARP_ROWS,
              tiles = (min(p.first + QUERIES, (int)x.z.s) + KEYS - 1) / KEYS;
    const float scale = x.z.scale * LOG2_E;
    bf16 *q = (bf16 *)shared, *key = q + QUERIES * Q, *value = key + 2 * KEYS * Q;
    float acc[HALVES][V / 8][4] = {}, weights[HALVES][KEYS / 8][4], shrink[HALVES][2];
    uint32_t held[HELD][HALVES][4];
    struct softmax t = { { { -INFINITY, -INFINITY }, { -INFINITY, -INFINITY } }, {} };
    load_q<Q, QUERIES>(&x, &p, p.first, q);
    load_keys<Q, KEYS>(&x, &p, 0, key);
    copies_commit();
    for (int i = 0; i < tiles; i++) {
        const int first = i * KEYS,
                  unseen = first - p.first - warp_row; /* keys from the warp's first query on */
        copies_wait<0>();
        __syncthreads(); /* keys i are there; nobody reads values i - 1 and keys i - 1 */
        load_values<V, KEYS>(&x, &p, first, value);
        copies_commit();
        if (i + 1 < tiles)
            load_keys<Q, KEYS>(&x, &p, first + KEYS, key + (i + 1) % 2 * KEYS * Q);
        copies_commit();
        if (i == 0)
            hold<Q>(held, q, warp_row, lane);
        if (unseen < WARP_ROWS) {
            score<Q>(weights, held, q, warp_row, key + i % 2 * KEYS * Q, lane);
            if (unseen + KEYS > 1)
                hide(weights, lane / 4, unseen + lane % 4 * 2);
            if (softmax_step(&t, weights, shrink, scale))
                shrink_sums<V>(acc, shrink);
        }
        copies_wait<1>();
        __syncthreads(); /* values i are there */
        if (unseen < WARP_ROWS)
            weigh<V>(acc, weights, value, lane);
    }
    store<V>(&x, &p, acc, &t, p.first + warp_row + lane / 4, lane);
}

void attention_mma_fwd(const struct call *c, const struct attention *z)
{
    const struct attention_tensors x = attention_tensors_of(c, z);
    ATTENTION_LAUNCH(fwd_kernel, c, &x, QUERIES);
}
