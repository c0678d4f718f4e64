/* attention_plain.cu - attention for sizes that nothing faster serves, without tensor cores: float32 products of bfloat16
 * tiles in shared memory. A block has one tile of TILE queries (forward, dQ) or keys (dK and dV) of one head, and goes over
 * the tiles of the other side that it sees. GROUP threads share a row of the tile: of its scores each has COLUMNS, of
 * its results (up to WIDTH numbers) each has every GROUP'th vector of VEC. Backward makes P again from lse, and
 * computes it for dQ and for dK and dV apart, so that every sum has one owner and a fixed order. */
#include "ops/attention.cuh"
enum { TILE = 32, GROUP = 8, THREADS = TILE * GROUP, COLUMNS = TILE / GROUP, WIDTH = 256 };
enum { VECTORS = WIDTH / VEC / GROUP, P_STRIDE = TILE + 1 };

/* Elements between rows of a tile, zeros behind the first `width`. An odd number of vectors: eight rows lie in different banks.
 */
__host__ __device__ static inline int tile_stride(int64_t width)
{
    return (int)(cut_parts(width, VEC) | 1) * VEC;
}

__host__ __device__ static inline int q_stride(const struct attention_tensors *x)
{
    return tile_stride(x->z.q);
}

__host__ __device__ static inline int v_stride(const struct attention_tensors *x)
{
    return tile_stride(x->z.v);
}

/* The head and the first row of this block's tile. */
struct place {
    int64_t b, a, first;
};

__device__ static inline struct place place_of(const struct attention *z, bool longest_last)
{
    const int64_t heads = z->b * z->a, head = blockIdx.x % heads, tiles = cut_parts(z->s, TILE);
    int64_t tile = blockIdx.x / heads;
    if (longest_last)
        tile = tiles - 1 - tile;
    const struct place p = { head / z->a, head % z->a, tile * TILE };
    return p;
}

/* Columns [column, column + width) of a tile: rows of `from`, zeros behind the first n. */
__device__ static void load_tile(bf16 *tile, int stride, int column, const bf16 *from, int64_t from_stride,
                                 int64_t n, int width)
{
    for (int row = threadIdx.x / 32; row < TILE; row += THREADS / 32)
        for (int i = threadIdx.x % 32; i < width; i += 32)
            tile[row * stride + column + i] = row < n ? from[row * from_stride + i] : __float2bfloat16_rn(0);
}

__device__ static void load_q(const struct attention_tensors *x, const struct place *p, int64_t first,
                              bf16 *tile)
{
    load_tile(tile, q_stride(x), 0, x->q + at_row(&x->z, p->b, p->a, first, x->z.q), x->z.a * x->z.q,
              x->z.s - first, (int)x->z.q);
}

__device__ static void load_do(const struct attention_tensors *x, const struct place *p, int64_t first,
                               bf16 *tile)
{
    load_tile(tile, v_stride(x), 0, x->d_o + at_row(&x->z, p->b, p->a, first, x->z.v), x->z.a * x->z.v,
              x->z.s - first, (int)x->z.v);
}

/* Keys [k_nope | k_rope] and values. */
__device__ static void load_kv(const struct attention_tensors *x, const struct place *p, int64_t first,
                               bf16 *key, bf16 *value)
{
    const int64_t n = x->z.s - first, stride = x->z.a * x->z.c;
    const bf16 *kv = x->kv + at_row(&x->z, p->b, p->a, first, x->z.c);
    load_tile(key, q_stride(x), 0, kv, stride, n, (int)x->z.nope);
    load_tile(key, q_stride(x), (int)x->z.nope, x->k_rope + (p->b * x->z.s + first) * x->z.r, x->z.r, n,
              (int)x->z.r);
    load_tile(value, v_stride(x), 0, kv + x->z.nope, stride, n, (int)x->z.v);
}

/* The padding of rows stays zero: loads do not touch it. */
__device__ static void clear(bf16 *shared, int n)
{
    for (int i = threadIdx.x; i < n; i += THREADS)
        shared[i] = __float2bfloat16_rn(0);
    __syncthreads();
}

/* out[i] = own row of x times row group + GROUP i of y */
__device__ static inline void products(float out[COLUMNS], const bf16 *x, const bf16 *y, int stride,
                                       int64_t width)
{
    const int row = threadIdx.x / GROUP, group = threadIdx.x % GROUP;
    float u[VEC], w[VEC];
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
        out[i] = 0;
    for (int j = 0; j < width; j += VEC) {
        load8(u, x + row * stride + j);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            load8(w, y + (group + GROUP * i) * stride + j);
#pragma unroll
            for (int k = 0; k < VEC; k++)
                out[i] += u[k] * w[k];
        }
    }
}

/* sum += own row of p times the rows of y */
__device__ static inline void accumulate(float sum[VECTORS][VEC], const float *p, const bf16 *y, int stride,
                                         int64_t width)
{
    const int row = threadIdx.x / GROUP, group = threadIdx.x % GROUP;
    float w[VEC];
    for (int j = 0; j < TILE; j++) {
        const float weight = p[row * P_STRIDE + j];
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            const int at = (group + GROUP * i) * VEC;
            if (at >= width)
                continue;
            load8(w, y + j * stride + at);
#pragma unroll
            for (int k = 0; k < VEC; k++)
                sum[i][k] += weight * w[k];
        }
    }
}

/* Own row of p: read by the threads of the row, which are of one warp. */
__device__ static inline void keep_row(float *p, const float x[COLUMNS])
{
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
        p[threadIdx.x / GROUP * P_STRIDE + threadIdx.x % GROUP + GROUP * i] = x[i];
}

__device__ static inline float group_sum(float x)
{
#pragma unroll
    for (int step = GROUP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ static inline float group_max(float x)
{
#pragma unroll
    for (int step = GROUP / 2; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

/* One tile of keys from the first'th on: x becomes exp(scale x - top), sum and top those of all keys so far. Returns
 * what the results so far must be multiplied with. */
__device__ static inline float softmax_step(float x[COLUMNS], float scale, int64_t row, int64_t first,
                                            float *top, float *sum)
{
    float most = *top, part = 0;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        x[i] = first + threadIdx.x % GROUP + GROUP * i <= row ? scale * x[i] : -INFINITY;
        most = fmaxf(most, x[i]);
    }
    most = group_max(most); /* finite: the first tile has key 0 */
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        x[i] = expf(x[i] - most);
        part += x[i];
    }
    const float shrink = expf(*top - most);
    *sum = *sum * shrink + group_sum(part);
    *top = most;
    return shrink;
}

__global__ static void __launch_bounds__(THREADS)
    fwd_kernel(const __grid_constant__ struct attention_tensors x)
{
    extern __shared__ __align__(16) unsigned char shared[];
    const struct place p = place_of(&x.z, true);
    const int64_t row = p.first + threadIdx.x / GROUP;
    bf16 *q = (bf16 *)shared, *key = q + TILE * q_stride(&x), *value = key + TILE * q_stride(&x);
    float *weights = (float *)(value + TILE * v_stride(&x));
    float acc[VECTORS][VEC] = { { 0 } }, s[COLUMNS], top = -INFINITY, sum = 0;
    clear(q, TILE * (2 * q_stride(&x) + v_stride(&x)));
    load_q(&x, &p, p.first, q);
    for (int64_t first = 0; first <= p.first; first += TILE) {
        __syncthreads();
        load_kv(&x, &p, first, key, value);
        __syncthreads();
        products(s, q, key, q_stride(&x), x.z.q);
        const float shrink = softmax_step(s, x.z.scale, row, first, &top, &sum);
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            for (int k = 0; k < VEC; k++)
                acc[i][k] *= shrink;
        keep_row(weights, s);
        __syncwarp();
        accumulate(acc, weights, value, v_stride(&x), x.z.v);
    }
    if (row >= x.z.s)
        return;
    if (threadIdx.x % GROUP == 0)
        x.lse[at_number(&x.z, p.b, p.a, row)] = top + logf(sum);
    bf16 *out = x.out + at_row(&x.z, p.b, p.a, row, x.z.v);
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        for (int k = 0; k < VEC; k++) {
            const int at = (threadIdx.x % GROUP + GROUP * i) * VEC + k;
            if (at < x.z.v)
                out[at] = __float2bfloat16_rn(acc[i][k] / sum);
        }
}

__global__ static void __launch_bounds__(THREADS)
    dq_kernel(const __grid_constant__ struct attention_tensors x)
{
    extern __shared__ __align__(16) unsigned char shared[];
    const struct place p = place_of(&x.z, true);
    const int64_t row = p.first + threadIdx.x / GROUP, at_lse = at_number(&x.z, p.b, p.a, row);
    const float lse = row < x.z.s ? x.lse[at_lse] : INFINITY, delta = row < x.z.s ? x.delta[at_lse] : 0;
    bf16 *q = (bf16 *)shared, *key = q + TILE * q_stride(&x), *value = key + TILE * q_stride(&x),
         *d_o = value + TILE * v_stride(&x);
    float *ds = (float *)(d_o + TILE * v_stride(&x));
    float acc[VECTORS][VEC] = { { 0 } }, s[COLUMNS], dp[COLUMNS];
    clear(q, 2 * TILE * (q_stride(&x) + v_stride(&x)));
    load_q(&x, &p, p.first, q);
    load_do(&x, &p, p.first, d_o);
    for (int64_t first = 0; first <= p.first; first += TILE) {
        __syncthreads();
        load_kv(&x, &p, first, key, value);
        __syncthreads();
        products(s, q, key, q_stride(&x), x.z.q);
        products(dp, d_o, value, v_stride(&x), x.z.v);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            const bool seen = first + threadIdx.x % GROUP + GROUP * i <= row;
            s[i] = seen ? x.z.scale * expf(x.z.scale * s[i] - lse) * (dp[i] - delta) : 0;
        }
        keep_row(ds, s);
        __syncwarp();
        accumulate(acc, ds, key, q_stride(&x), x.z.q);
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        for (int k = 0; k < VEC; k++) {
            const int at = (threadIdx.x % GROUP + GROUP * i) * VEC + k;
            if (at < x.z.q && row < x.z.s)
                grad_put(x.dq, false, x.add_q, at_row(&x.z, p.b, p.a, row, x.z.q) + at, acc[i][k]);
        }
}

/* dK of a row: k_nope's part to kv's gradient, k_rope's to its part; dV. */
__device__ static void store_dkv(const struct attention_tensors *x, const struct place *p, int64_t row,
                                 const float dk[VECTORS][VEC], const float dv[VECTORS][VEC])
{
    const int64_t at_kv = at_row(&x->z, p->b, p->a, row, x->z.c),
                  at_rope = at_number(&x->z, p->b, p->a, row) * x->z.r;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        for (int k = 0; k < VEC; k++) {
            const int at = (threadIdx.x % GROUP + GROUP * i) * VEC + k;
            if (x->dkv && at < x->z.nope)
                grad_put(x->dkv, false, x->add_kv, at_kv + at, dk[i][k]);
            if (at >= x->z.nope && at < x->z.q)
                x->rope[at_rope + at - x->z.nope] = dk[i][k];
            if (x->dkv && at < x->z.v)
                grad_put(x->dkv, false, x->add_kv, at_kv + x->z.nope + at, dv[i][k]);
        }
}

/* A tile's lse and delta, for scores whose columns are queries: those behind the end see nothing. */
__device__ static inline void load_rows(const struct attention_tensors *x, const struct place *p,
                                        int64_t first, float *lse, float *delta)
{
    const int64_t t = first + threadIdx.x, at = at_number(&x->z, p->b, p->a, t);
    if (threadIdx.x >= TILE)
        return;
    lse[threadIdx.x] = t < x->z.s ? x->lse[at] : INFINITY;
    delta[threadIdx.x] = t < x->z.s ? x->delta[at] : 0;
}

__global__ static void __launch_bounds__(THREADS)
    dkv_kernel(const __grid_constant__ struct attention_tensors x)
{
    extern __shared__ __align__(16) unsigned char shared[];
    const struct place p = place_of(&x.z, false);
    const int64_t row = p.first + threadIdx.x / GROUP;
    bf16 *q = (bf16 *)shared, *key = q + TILE * q_stride(&x), *value = key + TILE * q_stride(&x),
         *d_o = value + TILE * v_stride(&x);
    float *weights = (float *)(d_o + TILE * v_stride(&x)), *ds = weights + TILE * P_STRIDE,
          *lse = ds + TILE * P_STRIDE, *delta = lse + TILE;
    float dk[VECTORS][VEC] = { { 0 } }, dv[VECTORS][VEC] = { { 0 } }, s[COLUMNS], dp[COLUMNS];
    clear(q, 2 * TILE * (q_stride(&x) + v_stride(&x)));
    load_kv(&x, &p, p.first, key, value);
    for (int64_t first = p.first; first < x.z.s; first += TILE) {
        __syncthreads();
        load_q(&x, &p, first, q);
        load_do(&x, &p, first, d_o);
        load_rows(&x, &p, first, lse, delta);
        __syncthreads();
        products(s, key, q, q_stride(&x), x.z.q);
        products(dp, value, d_o, v_stride(&x), x.z.v);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            const int column = threadIdx.x % GROUP + GROUP * i;
            s[i] = first + column >= row ? expf(x.z.scale * s[i] - lse[column]) : 0;
            dp[i] = x.z.scale * s[i] * (dp[i] - delta[column]);
        }
        keep_row(weights, s);
        keep_row(ds, dp);
        __syncwarp();
        accumulate(dv, weights, d_o, v_stride(&x), x.z.v);
        accumulate(dk, ds, q, q_stride(&x), x.z.q);
    }
    if (row < x.z.s)
        store_dkv(&x, &p, row, dk, dv);
}

/* n_v: tiles as wide as v, besides two as wide as q; n_p: tiles of scores; and two numbers per row. */
static void launch(void (*kernel)(struct attention_tensors), const struct call *c,
                   const struct attention_tensors *x, int n_v, int n_p)
{
    const size_t bytes = TILE * ((size_t)(2 * q_stride(x) + n_v * v_stride(x)) * sizeof(bf16) +
                                 ((size_t)n_p * P_STRIDE + 2) * sizeof(float));
    const unsigned blocks = blocks_for(x->z.b * x->z.a * cut_parts(x->z.s, TILE), 1);
    CUDA_DO(
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    kernel<<<blocks, THREADS, bytes, stream_of(c)>>>(*x);
    LAUNCHED();
}

static struct attention_tensors tensors_of(const struct call *c, const struct attention *z)
{
    CHECK(z->q <= WIDTH && z->v <= WIDTH, "heads of width %lld and %lld, at most %d", (long long)z->q,
          (long long)z->v, WIDTH);
    return attention_tensors_of(c, z);
}

void attention_plain_fwd(const struct call *c, const struct attention *z)
{
    const struct attention_tensors x = tensors_of(c, z);
    launch(fwd_kernel, c, &x, 1, 1);
}

void attention_plain_bwd(const struct call *c, const struct attention *z)
{
    const struct attention_tensors x = tensors_of(c, z);
    attention_delta(c, &x);
    if (x.dq)
        launch(dq_kernel, c, &x, 2, 1);
    if (!x.dkv && !c->grad[K_ROPE])
        return;
    launch(dkv_kernel, c, &x, 2, 2);
    attention_rope_sum(c, &x);
}
