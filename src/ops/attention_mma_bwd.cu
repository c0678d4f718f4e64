/* attention_mma_bwd.cu - attention's backward on mma.m16n8k16. P is made again from lse, once for dQ (a block owns queries
 * and goes over tiles of keys) and once for dK and dV (a block owns keys and goes over tiles of queries), so that every
 * sum has one owner and a fixed order. P and dS are rounded to bfloat16 for the products, from the registers in which
 * they are: scores are queries times keys for dQ, keys times queries for dK and dV. */
#include "ops/attention_mma.cuh"
enum { OWN = 16 * WARPS, OTHER = 32 }; /* rows of a block's own tile, and of those that it goes over */

/* Of a product of a query and a key. lse2: the row's lse for powers of two. */
__device__ static inline float probability(float x, float scale, float lse2, bool seen)
{
    return seen ? exp2_of(x * scale - lse2) : 0;
}

/* ---- dQ ---- */

/* What a lane knows of its two rows of queries: lse for powers of two, delta. */
struct two_rows {
    float lse2[2], delta[2];
};

/* Rows behind the end see nothing. */
__device__ static inline struct two_rows rows_of(const struct attention_tensors *x, const struct place *p,
                                                 int row)
{
    struct two_rows r;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const bool there = row + 8 * h < x->z.s;
        const int64_t at = at_number(&x->z, p->b, p->a, there ? row + 8 * h : 0);
        r.lse2[h] = there ? x->lse[at] * LOG2_E : INFINITY;
        r.delta[h] = there ? x->delta[at] : 0;
    }
    return r;
}

/* Products s and dP become dS / scale, of rows that are queries. behind: the lane's first key less its first query. */
__device__ static inline void scores_back(float (&s)[OTHER / 8][4], const float (&dp)[OTHER / 8][4],
                                          const struct two_rows *r, float scale, int behind)
{
#pragma unroll
    for (int j = 0; j < OTHER / 8; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const bool seen = behind + 8 * j + k % 2 <= k / 2 * 8;
            s[j][k] = probability(s[j][k], scale, r->lse2[k / 2], seen) * (dp[j][k] - r->delta[k / 2]);
        }
}

template <int Q>
__device__ static inline void store_dq(const struct attention_tensors *x, const struct place *p,
                                       const float (&dq)[Q / 8][4], int row, int lane)
{
    const float scale = x->z.scale;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int at = row + 8 * h;
        bf16 *to = x->dq + at_row(&x->z, p->b, p->a, at, x->z.q) + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < Q / 8; j++)
            if (at < x->z.s && 8 * j < x->z.q)
                put_pair(to + 8 * j, x->add_q, scale * dq[j][2 * h], scale * dq[j][2 * h + 1]);
    }
}

/* The rows of this warp's operand from a tile. */
template <int WIDTH>
__device__ static inline void hold(uint32_t (&held)[WIDTH / 16][4], const bf16 *tile, int row, int lane)
{
#pragma unroll
    for (int i = 0; i < WIDTH / 16; i++)
        load_matrices<false>(held[i], tile + rows_a(WIDTH, row, 16 * i, lane));
}

constexpr int dq_kernel_bytes(int q, int v)
{
    return (int)sizeof(bf16) * 2 * OTHER * (q + v);
}

/* Queries and dO stay in registers; they come through the memory of both tiles of keys and values. */
template <int Q, int V>
__global__ static void __launch_bounds__(THREADS, 2)
    dq_kernel(const __grid_constant__ struct attention_tensors x)
{
    extern __shared__ __align__(128) unsigned char shared[];
    static_assert(OWN <= 2 * OTHER, "queries and dO in the place of two tiles");
    const struct place p = place_of<OWN>(&x.z, true);
    const int lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP * 16,
              tiles = (min(p.first + OWN, (int)x.z.s) + OTHER - 1) / OTHER;
    const struct two_rows rows = rows_of(&x, &p, p.first + warp_row + lane / 4);
    bf16 *key = (bf16 *)shared, *value = key + 2 * OTHER * Q;
    uint32_t q[Q / 16][4], d_o[V / 16][4], ds[OTHER / 16][4];
    float dq[Q / 8][4] = {};
    load_q<Q, OWN>(&x, &p, p.first, key);
    load_do<V, OWN>(&x, &p, p.first, value);
    copies_commit();
    copies_wait<0>();
    __syncthreads();
    hold<Q>(q, key, warp_row, lane);
    hold<V>(d_o, value, warp_row, lane);
    __syncthreads();
    load_keys<Q, OTHER>(&x, &p, 0, key);
    load_values<V, OTHER>(&x, &p, 0, value);
    copies_commit();
    for (int i = 0; i < tiles; i++) {
        const int first = i * OTHER, behind = first - p.first - warp_row, now = i % 2, next = 1 - now;
        copies_wait<0>();
        __syncthreads(); /* tile i is there; nobody reads tile i - 1 */
        if (i + 1 < tiles) {
            load_keys<Q, OTHER>(&x, &p, first + OTHER, key + next * OTHER * Q);
            load_values<V, OTHER>(&x, &p, first + OTHER, value + next * OTHER * V);
        }
        copies_commit();
        if (behind >= 16)
            continue;
        float s[OTHER / 8][4] = {}, dp[OTHER / 8][4] = {};
        add_held_scores<Q, OTHER>(s, q, key + now * OTHER * Q, lane);
        add_held_scores<V, OTHER>(dp, d_o, value + now * OTHER * V, lane);
        scores_back(s, dp, &rows, x.z.scale * LOG2_E, behind + lane % 4 * 2 - lane / 4);
        operands_of_sums<OTHER>(ds, s);
        add_weighted<Q, OTHER>(dq, ds, key + now * OTHER * Q, lane);
    }
    store_dq<Q>(&x, &p, dq, p.first + warp_row + lane / 4, lane);
}

/* ---- dK and dV ---- */

/* Numbers of the queries of a tile: lse, delta; zeros behind the end, where dO is zero too. */
__device__ static inline void load_numbers(const struct attention_tensors *x, const struct place *p,
                                           int first, float *numbers)
{
    const int i = threadIdx.x % OTHER;
    const float *from = threadIdx.x < OTHER ? x->lse : x->delta;
    const bool there = first + i < x->z.s;
    if (threadIdx.x < 2 * OTHER)
        copy_float_later(numbers + threadIdx.x, from + at_number(&x->z, p->b, p->a, there ? first + i : 0),
                         there);
}

/* Products s and dP become P and dS / scale, of columns that are queries; numbers: of the lane's first query. behind: the
 * lane's first key less its first query. */
__device__ static inline void turned_scores_back(float (&s)[OTHER / 8][4], float (&dp)[OTHER / 8][4],
                                                 const float *numbers, float scale, int behind)
{
#pragma unroll
    for (int j = 0; j < OTHER / 8; j++) {
        const float2 lse = *(const float2 *)(numbers + 8 * j),
                     delta = *(const float2 *)(numbers + OTHER + 8 * j);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const bool seen = behind + k / 2 * 8 <= 8 * j + k % 2;
            s[j][k] = probability(s[j][k], scale, (k % 2 ? lse.y : lse.x) * LOG2_E, seen);
            dp[j][k] = s[j][k] * (dp[j][k] - (k % 2 ? delta.y : delta.x));
        }
    }
}

/* dK of a row: k_nope's part to kv's gradient, k_rope's to its part; dV. */
template <int Q, int V>
__device__ static inline void store_dkv(const struct attention_tensors *x, const struct place *p,
                                        const float (&dk)[Q / 8][4], const float (&dv)[V / 8][4], int row,
                                        int lane)
{
    const float scale = x->z.scale;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int at = row + 8 * h;
        bf16 *kv = x->dkv + at_row(&x->z, p->b, p->a, at, x->z.c) + lane % 4 * 2;
        float *rope = x->rope + at_number(&x->z, p->b, p->a, at) * x->z.r - x->z.nope + lane % 4 * 2;
        if (at >= x->z.s)
            continue;
#pragma unroll
        for (int j = 0; j < Q / 8; j++) {
            const float left = scale * dk[j][2 * h], right = scale * dk[j][2 * h + 1];
            if (x->dkv && 8 * j < x->z.nope)
                put_pair(kv + 8 * j, x->add_kv, left, right);
            if (8 * j >= x->z.nope && 8 * j < x->z.q)
                *(float2 *)(rope + 8 * j) = make_float2(left, right);
        }
#pragma unroll
        for (int j = 0; j < V / 8; j++)
            if (x->dkv && 8 * j < x->z.v)
                put_pair(kv + x->z.nope + 8 * j, x->add_kv, dv[j][2 * h], dv[j][2 * h + 1]);
    }
}

constexpr int dkv_kernel_bytes(int q, int v)
{
    return (int)sizeof(bf16) * (OWN + 2 * OTHER) * (q + v) + (int)sizeof(float) * 2 * 2 * OTHER;
}

/* A tile of queries has these, dO, lse and delta. */
template <int Q, int V>
__global__ static void __launch_bounds__(THREADS, 2)
    dkv_kernel(const __grid_constant__ struct attention_tensors x)
{
    enum { ONE_TILE = OTHER * (Q + V) + 2 * OTHER * sizeof(float) / sizeof(bf16) };
    extern __shared__ __align__(128) unsigned char shared[];
    const struct place p = place_of<OWN>(&x.z, false);
    const int lane = threadIdx.x % WARP, warp_row = threadIdx.x / WARP * 16,
              tiles = ((int)x.z.s - p.first + OTHER - 1) / OTHER;
    bf16 *key = (bf16 *)shared, *value = key + OWN * Q, *tile = value + OWN * V;
    float dk[Q / 8][4] = {}, dv[V / 8][4] = {};
    load_keys<Q, OWN>(&x, &p, p.first, key);
    load_values<V, OWN>(&x, &p, p.first, value);
    for (int i = -1; i < tiles; i++) {
        const int first = p.first + i * OTHER, behind = p.first + warp_row - first;
        const bf16 *q = tile + (i & 1) * ONE_TILE, *d_o = q + OTHER * Q;
        if (i >= 0) {
            copies_wait<0>();
            __syncthreads(); /* tile i is there; nobody reads tile i - 1 */
        }
        if (i + 1 < tiles) {
            bf16 *next = tile + (i + 1 & 1) * ONE_TILE;
            load_q<Q, OTHER>(&x, &p, first + OTHER, next);
            load_do<V, OTHER>(&x, &p, first + OTHER, next + OTHER * Q);
            load_numbers(&x, &p, first + OTHER, (float *)(next + OTHER * (Q + V)));
        }
        copies_commit();
        if (i < 0 || behind >= OTHER)
            continue;
        float s[OTHER / 8][4] = {}, dp[OTHER / 8][4] = {};
        uint32_t weight[OTHER / 16][4];
        add_scores<Q, OTHER>(s, key, warp_row, q, lane);
        add_scores<V, OTHER>(dp, value, warp_row, d_o, lane);
        turned_scores_back(s, dp, (const float *)(q + OTHER * (Q + V)) + lane % 4 * 2, x.z.scale * LOG2_E,
                           behind + lane / 4 - lane % 4 * 2);
        operands_of_sums<OTHER>(weight, s);
        add_weighted<V, OTHER>(dv, weight, d_o, lane);
        operands_of_sums<OTHER>(weight, dp);
        add_weighted<Q, OTHER>(dk, weight, q, lane);
    }
    store_dkv<Q, V>(&x, &p, dk, dv, p.first + warp_row + lane / 4, lane);
}

void attention_mma_bwd(const struct call *c, const struct attention *z)
{
    const struct attention_tensors x = attention_tensors_of(c, z);
    attention_delta(c, &x);
    if (x.dq)
        ATTENTION_LAUNCH(dq_kernel, c, &x, OWN);
    if (!x.dkv && !c->grad[K_ROPE])
        return;
    ATTENTION_LAUNCH(dkv_kernel, c, &x, OWN);
    attention_rope_sum(c, &x);
}
