/* latent.cu - latent by rows of norm.cuh: the team that has a row also turns its key, a vector per thread, which is
 * loaded before the row's sum and stored behind it. */
#include "ops/norm.cuh"
#include "ops/rope.cuh"
enum { X, W, TABLE, Y, K_ROPE, R, B = 0, S, C, H, T };
enum { WIDEST_KEY = 32 * VEC }; /* a team has 32 threads at least */

struct latent {
    const bf16 *w;      /* [h] */
    const float *table; /* [s, t] */
    int64_t n;          /* rows */
    uint32_t s;         /* positions */
    int h, t;
    float eps;
};

static struct latent latent_of(const struct call *c)
{
    const int64_t *d = c->dim;
    struct latent z;
    CHECK(d[C] == d[H] + d[T], "rows of %lld elements: expected %lld + %lld", (long long)d[C],
          (long long)d[H], (long long)d[T]);
    CHECK(d[T] % VEC == 0 && d[T] <= WIDEST_KEY, "keys of %lld elements, expected a multiple of 8 up to %d",
          (long long)d[T], (int)WIDEST_KEY);
    z.w = (const bf16 *)c->arg[W], z.table = (const float *)c->arg[TABLE];
    z.n = d[B] * d[S], z.s = (uint32_t)d[S], z.h = (int)d[H], z.t = (int)d[T];
    z.eps = (float)c->attr[0];
    CHECK(z.n < (int64_t)1 << 31, "%lld rows in one call", (long long)z.n);
    return z;
}

/* This thread's vector of a row's key [t], 0 where it has none. */
__device__ static inline uint4 load_key(const struct latent *z, const bf16 *key, bool live)
{
    return live && threadIdx.x < z->t / VEC ? ((const uint4 *)key)[threadIdx.x] : make_uint4(0, 0, 0, 0);
}

/* key (+)= raw, turned as in this row */
__device__ static inline void put_key(const struct latent *z, bf16 *key, uint4 raw, int64_t row, float sign,
                                      bool add)
{
    float v[VEC];
    if (row >= z->n || threadIdx.x >= z->t / VEC)
        return;
    unpack8(v, raw);
    rope_turn8(v, z->table + (int64_t)((uint32_t)row % z->s) * z->t + threadIdx.x * (VEC / 2), z->t / 2,
               sign);
    grad_put8(key, false, add, threadIdx.x * VEC, v);
}

__global__ static void __launch_bounds__(WIDEST)
    latent_fwd(bf16 *y, bf16 *k_rope, float *r, const bf16 *x, const __grid_constant__ struct latent z)
{
    __shared__ float room[WIDEST / 32];
    const int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    const bf16 *from = x + row * (z.h + z.t);
    const uint4 key = load_key(&z, from + z.h, row < z.n);
    uint4 raw[EACH];
    load_row(raw, from, row < z.n, z.h / VEC);
    const float scale = norm_of_row(raw, z.h, z.eps, room);
    if (row < z.n && threadIdx.x == 0)
        r[row] = scale;
    if (row < z.n)
        norm_scale_row(y + row * z.h, raw, z.w, scale, z.h / VEC);
    put_key(&z, k_rope + row * z.t, key, row, 1, false);
}

/* dy, dk_rope: NULL where they are zero; dx: NULL where it is not wanted; part as in norm.cuh */
__global__ static void __launch_bounds__(WIDEST)
    latent_bwd(bf16 *dx, float *part, const bf16 *dy, const bf16 *dk_rope, const bf16 *x, const float *r,
               const __grid_constant__ struct latent z, bool add)
{
    __shared__ float room[2][WIDEST / 32];
    const int64_t step = (int64_t)gridDim.x * blockDim.y, rounds = cut_parts(z.n, step);
    float dw[EACH][VEC] = {};
    for (int64_t i = 0; i < rounds; i++) {
        const int64_t row = i * step + (int64_t)blockIdx.x * blockDim.y + threadIdx.y, at = row * (z.h + z.t);
        const bool live = row < z.n;
        const uint4 key = load_key(&z, dk_rope + row * z.t, live && dk_rope);
        norm_bwd_row(dx ? dx + at : NULL, dw, dy ? dy + row * z.h : NULL, x + at, z.w, live ? r[row] : 0,
                     live, z.h, add, room[i % 2]);
        if (dx)
            put_key(&z, dx + at + z.h, key, row, -1, add);
    }
    if (part)
        store_part(part, dw, z.h);
}

extern "C" void latent_fwd_cuda(const struct call *c)
{
    const struct latent z = latent_of(c);
    const dim3 block = norm_block(z.h);
    latent_fwd<<<blocks_for(z.n, block.y), block, 0, stream_of(c)>>>(
        (bf16 *)c->arg[Y], (bf16 *)c->arg[K_ROPE], (float *)c->arg[R], (const bf16 *)c->arg[X], z);
    LAUNCHED();
}

extern "C" void latent_bwd_cuda(const struct call *c)
{
    const struct latent z = latent_of(c);
    const int64_t parts = norm_parts(z.n, z.h);
    float *part = c->grad[W] ? (float *)c->work : NULL;
    latent_bwd<<<(unsigned)parts, norm_block(z.h), 0, stream_of(c)>>>(
        (bf16 *)c->grad[X], part, (const bf16 *)c->grad[Y], (const bf16 *)c->grad[K_ROPE],
        (const bf16 *)c->arg[X], (const float *)c->arg[R], z, adds(c, X));
    LAUNCHED();
    if (part)
        norm_weight_gradient(c, W, part, parts, z.h);
}

extern "C" void latent_work_cuda(const struct call *c, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(norm_parts(c->dim[B] * c->dim[S], c->dim[H]) * c->dim[H]) * sizeof(float);
}
