/* adamw.cu - one pass over p, m, v, g (and low) in the forms of adamw.h. A warp takes blocks of 256 elements, 8 per
 * lane. With float32 or bfloat16 moments the arithmetic is that of the CPU, operation by operation; with 8-bit
 * moments, where issuing instructions is what limits, root and quotients are the fast ones (2 ulp).
 * A kernel per (master, moments): registers and loads in flight are very different. */
#include "cuda/cuda.cuh"
extern "C" {
#include "ops/adamw.h"
}
enum { P, M, V, G, CONTROL, LOW, P2, M2, V2, LOW2, X = 0, C };
enum { A_BETA1, A_BETA2, A_EPS, A_DECAY, A_MASTER, A_MOMENTS, A_FIRST };
enum { MINUS = ADAMW_MINUS, BLOCK = ADAMW_BLOCK, LANE = BLOCK / 32 };
enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    COPIES = 4,             /* of the tables of codes: fewer lanes of a warp want the same bank */
    TABLE = BLOCK * COPIES, /* floats of a table */
    MOST_BLOCKS = 4224,     /* 32 per multiprocessor of an H200 */
    BYTE_PER_SM = 4, /* 8-bit moments: only blocks that run at the same time, since each makes tables */
    BYTE_BLOCKS = 132 * BYTE_PER_SM
};
static_assert((int)LANE == (int)VEC, "a lane has 16 bytes of bfloat16");

struct adamw_call {
    const void *p, *m, *v, *g, *low;
    void *p2, *m2, *v2, *low2;
    const float *control;
    int64_t n, first;
    float keep1, new1, keep2, new2, eps;
    double decay;
    bool wide;        /* g is float32 */
    int64_t from, to; /* blocks of this launch */
};
struct rule {
    float scale, shrink, root, step;
    uint32_t at_step, seed;
};
/* 8 elements of a lane as they lie in memory. */
struct raw {
    uint32_t p[4], low[8], m[8], v[8];
};

/* The same double-precision steps as the CPU's. */
__device__ static struct rule rule_of(const struct adamw_call *c)
{
    const double rate = c->control[0];
    struct rule r;
    r.scale = c->control[1];
    r.shrink = (float)__dsub_rn(1, __dmul_rn(rate, c->decay));
    r.root = (float)sqrt((double)c->control[3]);
    r.step = (float)(rate / (double)c->control[2]);
    r.at_step = __float_as_uint(c->control[4]);
    r.seed = __float_as_uint(c->control[5]);
    return r;
}

/* Elements at, at + 1, ... at + 7 of `each` bytes; zeros from `left` on. */
__device__ static inline void get(uint32_t *w, const void *from, int64_t at, int each, int left, bool whole)
{
    const char *p = (const char *)from + at * each;
    if (whole && each == 1) {
        const uint2 a = *(const uint2 *)p;
        w[0] = a.x, w[1] = a.y;
    } else if (whole) {
        const uint4 a = *(const uint4 *)p;
        w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
        if (each == 4) {
            const uint4 b = ((const uint4 *)p)[1];
            w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
        }
    } else {
#pragma unroll
        for (int j = 0; j < LANE; j++) {
            const int word = j * each / 4, shift = j * each % 4 * 8;
            uint32_t x = 0;
            if (j < left)
                x = each == 1   ? ((const uint8_t *)p)[j]
                    : each == 2 ? ((const uint16_t *)p)[j]
                                : ((const uint32_t *)p)[j];
            w[word] = shift == 0 ? x : w[word] | x << shift;
        }
    }
}

__device__ static inline void put(void *to, int64_t at, int each, int left, bool whole, const uint32_t *w)
{
    char *p = (char *)to + at * each;
    if (whole && each == 1) {
        *(uint2 *)p = make_uint2(w[0], w[1]);
    } else if (whole) {
        *(uint4 *)p = make_uint4(w[0], w[1], w[2], w[3]);
        if (each == 4)
            ((uint4 *)p)[1] = make_uint4(w[4], w[5], w[6], w[7]);
    } else {
#pragma unroll
        for (int j = 0; j < LANE; j++) {
            const uint32_t x = w[j * each / 4] >> j * each % 4 * 8;
            if (j < left && each == 1)
                ((uint8_t *)p)[j] = (uint8_t)x;
            else if (j < left && each == 2)
                ((uint16_t *)p)[j] = (uint16_t)x;
            else if (j < left)
                ((uint32_t *)p)[j] = x;
        }
    }
}

/* Element j of w as float; bfloat16 unless wide. */
__device__ static inline float at(const uint32_t *w, int j, bool wide)
{
    return __uint_as_float(wide ? w[j] : j % 2 ? w[j / 2] & 0xffff0000u : w[j / 2] << 16);
}

__device__ static inline void get_floats(float x[LANE], const void *from, int64_t i, bool wide, int left,
                                         bool whole)
{
    uint32_t w[LANE];
    get(w, from, i, wide ? 4 : 2, left, whole);
#pragma unroll
    for (int j = 0; j < LANE; j++)
        x[j] = at(w, j, wide);
}

/* Philox 4x32 with 7 rounds (Salmon et al. 2011): 8 numbers of 16 bits for elements 8 i .. 8 i + 7. */
__device__ static inline uint4 random8(int64_t i, uint32_t at_step, uint32_t seed, uint32_t stream)
{
    uint32_t a = (uint32_t)i, b = (uint32_t)((uint64_t)i >> 32), c = at_step, d = stream;
    uint32_t key0 = seed, key1 = 0x61646177;
#pragma unroll
    for (int round = 0; round < 7; round++) {
        const uint64_t x = (uint64_t)a * 0xd2511f53u, y = (uint64_t)c * 0xcd9e8d57u;
        a = (uint32_t)(y >> 32) ^ b ^ key0;
        b = (uint32_t)y;
        c = (uint32_t)(x >> 32) ^ d ^ key1;
        d = (uint32_t)x;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    return make_uint4(a, b, c, d);
}

/* The same for elements index .. index + 7, where index is not a multiple of 8 (not seen in models). */
__device__ static __noinline__ uint4 random8_across(int64_t index, uint32_t at_step, uint32_t seed,
                                                    uint32_t stream)
{
    const uint4 a = random8(index / 8, at_step, seed, stream),
                b = random8(index / 8 + 1, at_step, seed, stream);
    const uint32_t word[8] = { a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w };
    uint32_t out[4] = {};
    for (int j = 0; j < LANE; j++) {
        const int from = (int)(index % 8) + j;
        out[j / 2] |= (word[from / 2] >> from % 2 * 16 & 0xffff) << j % 2 * 16;
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

__device__ static inline void random_bits(uint32_t out[4], int64_t index, const struct rule *r,
                                          uint32_t stream)
{
    const uint4 x = index % 8 == 0 ? random8(index / 8, r->at_step, r->seed, stream)
                                   : random8_across(index, r->at_step, r->seed, stream);
    out[0] = x.x, out[1] = x.y, out[2] = x.z, out[3] = x.w;
}

/* x as bfloat16, up with the probability of its rest; a NaN stays one. */
__device__ static inline uint32_t round_at_random(float x, const uint32_t random[4], int j)
{
    const uint32_t noise = j % 2 ? random[j / 2] >> 16 : random[j / 2] & 0xffff;
    return x == x ? (__float_as_uint(x) + noise) >> 16 : 0x7fc0u;
}

__device__ static inline void round8_at_random(uint32_t w[4], const float x[LANE], int64_t index,
                                               const struct rule *r, uint32_t stream)
{
    uint32_t random[4];
    random_bits(random, index, r, stream);
#pragma unroll
    for (int j = 0; j < 4; j++)
        w[j] = round_at_random(x[2 * j], random, 2 * j) | round_at_random(x[2 * j + 1], random, 2 * j + 1)
                                                              << 16;
}

template <int MASTER> __device__ static inline float master_of(const struct raw *x, int j)
{
    const float p = at(x->p, j, false);
    if (MASTER == MASTER_FLOAT)
        return __uint_as_float(x->low[j]);
    if (MASTER == MASTER_SPLIT) {
        const int low = (int)(j % 2 ? x->low[j / 2] & 0xffff0000u : x->low[j / 2] << 16) >> 16;
        return __uint_as_float(__float_as_uint(p) + (uint32_t)low);
    }
    return p;
}

/* Two new weights and what they lack. */
template <int MASTER> __device__ static inline void split2(uint32_t *p, uint32_t *low, float x, float y)
{
    if (MASTER == MASTER_SPLIT) {
        const uint32_t a = x == x ? __float_as_uint(x) : 0x7fc00000u;
        const uint32_t b = y == y ? __float_as_uint(y) : 0x7fc00000u;
        *p = (a + 0x8000) >> 16 | ((b + 0x8000) & 0xffff0000u);
        *low = (a & 0xffff) | b << 16;
    } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
        *p = *(const uint32_t *)&pair;
        low[0] = __float_as_uint(x);
        low[1] = __float_as_uint(y);
    }
}

/* The new weights into x->p and x->low. */
template <int MASTER>
__device__ static inline void store_master(struct raw *x, const float p[LANE], int64_t index,
                                           const struct rule *r)
{
    if (MASTER == MASTER_NONE)
        round8_at_random(x->p, p, index, r, 0);
#pragma unroll
    for (int j = 0; j < LANE && MASTER != MASTER_NONE; j += 2)
        split2<MASTER>(&x->p[j / 2], &x->low[MASTER == MASTER_SPLIT ? j / 2 : j], p[j], p[j + 1]);
}

/* Codes of 8 moments. Within a decade the number of the cell is linear in x, and with each decade it grows a fifth as
 * fast: it is the least of seven lines. Adding 2^23 rounds to the number and leaves it in the low bits. */
__device__ static inline float cell_of(float x, bool has_sign)
{
    const float power[7] = { 1e6f, 1e5f, 1e4f, 1e3f, 1e2f, 1e1f, 1e0f }, half = has_sign ? 0.5f : 1;
    float cell = 0;
#pragma unroll
    for (int i = 0; i < 7; i++) {
        const float span = (float)(2 << i) * half;
        const float line = __fmaf_rn(x, span / 0.9f * power[i], span * (8.f / 9) - (has_sign ? 0.5f : 1.5f));
        cell = i == 0 ? line : fminf(cell, line);
    }
    return cell;
}

__device__ static inline uint32_t code_of(float x, float inverse, bool has_sign)
{
    float cell = cell_of(fabsf(x) * inverse, has_sign);
    if (!has_sign)
        return __float_as_uint((x > 0 ? fmaxf(cell, 1) : cell) + 8388608.f) & 0xff;
    cell = fmaxf(copysignf(cell, x), -(float)MINUS);
    return __float_as_uint(cell + (8388608.f + MINUS)) & 0xff;
}

/* x, of which this lane has `left`, as codes and the float of the block: all lanes of the warp take part. */
__device__ static inline float encode(uint32_t w[2], const float x[LANE], int left, bool has_sign)
{
    float top = 0;
#pragma unroll
    for (int j = 0; j < LANE; j++)
        top = j < left ? fmaxf(top, fabsf(x[j])) : top;
    top = __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(top)));
    top = fmaxf(top, 1e-37f);                            /* so that the inverse is finite */
    const float inverse = __fdividef(1 + 0x1p-20f, top); /* a little more than 1 has the code of 1 */
    w[0] = w[1] = 0;
#pragma unroll
    for (int j = 0; j < LANE; j++)
        w[j / 4] |= code_of(x[j], inverse, has_sign) << j % 4 * 8;
    return top;
}

__device__ static inline float decode(const uint32_t w[2], int j, float top, const float *table, int lane)
{
    return table[(w[j / 4] >> j % 4 * 8 & 0xff) * COPIES + lane % COPIES] * top;
}

__device__ static inline float fast_root(float x)
{
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* One element. */
template <bool EXACT>
__device__ static inline void step(float *p, float *m, float *v, float g, const struct adamw_call *c,
                                   const struct rule *r)
{
    if (EXACT) {
        const float gi = __fmul_rn(g, r->scale);
        *m = __fadd_rn(__fmul_rn(c->keep1, *m), __fmul_rn(c->new1, gi));
        *v = __fadd_rn(__fmul_rn(c->keep2, *v), __fmul_rn(__fmul_rn(c->new2, gi), gi));
        const float spread = __fadd_rn(__fdiv_rn(__fsqrt_rn(*v), r->root), c->eps);
        const float shrunk = __fmul_rn(*p, r->shrink), update = __fmul_rn(r->step, __fdiv_rn(*m, spread));
        *p = update == 0 ? shrunk : __fsub_rn(shrunk, update); /* without a change -0 stays -0 */
    } else {                                                   /* r->root is its inverse */
        const float gi = g * r->scale;
        *m = c->keep1 * *m + c->new1 * gi;
        *v = c->keep2 * *v + c->new2 * gi * gi;
        const float update = r->step * __fdividef(*m, fast_root(*v) * r->root + c->eps);
        *p = update == 0 ? *p * r->shrink : *p * r->shrink - update;
    }
}

/* What a lane has of a block of 256 elements. */
struct place {
    int64_t block, i, scales; /* i: first element; scales: where the float of the first block is, in floats */
    int lane, left;           /* elements of this lane */
    bool whole;
};

template <int MASTER, int MOMENTS> struct forms {
    static constexpr bool bytes = MOMENTS == MOMENTS_BYTE;
    static constexpr int moment_bytes = MOMENTS == MOMENTS_FLOAT ? 4 : MOMENTS == MOMENTS_BF16 ? 2 : 1;
    static constexpr int low_bytes = MASTER == MASTER_FLOAT ? 4 : 2;
};

template <bool WHOLE>
__device__ static inline struct place place_of(const struct adamw_call *c, int64_t block)
{
    struct place o;
    o.block = block;
    o.lane = threadIdx.x % 32;
    o.i = block * BLOCK + o.lane * LANE;
    o.scales = adamw_scales_at(c->n) / (int64_t)sizeof(float);
    o.left = WHOLE || c->n - o.i >= LANE ? LANE : o.i >= c->n ? 0 : (int)(c->n - o.i);
    o.whole = WHOLE;
    return o;
}

/* All loads, then the numbers; g comes last, because its two forms part ways at once. */
template <int MASTER, int MOMENTS>
__device__ static inline void load_block(const struct adamw_call *c, const float *table,
                                         const struct place *o, float *p, float *m, float *v, float *g)
{
    typedef struct forms<MASTER, MOMENTS> form;
    float top_m = 0, top_v = 0;
    struct raw x;
    get(x.m, c->m, o->i, form::moment_bytes, o->left, o->whole);
    get(x.v, c->v, o->i, form::moment_bytes, o->left, o->whole);
    get(x.p, c->p, o->i, 2, o->left, o->whole);
    if (MASTER != MASTER_NONE)
        get(x.low, c->low, o->i, form::low_bytes, o->left, o->whole);
    if (form::bytes) {
        top_m = ((const float *)c->m)[o->scales + o->block];
        top_v = ((const float *)c->v)[o->scales + o->block];
    }
    if (c->wide)
        get_floats(g, c->g, o->i, true, o->left, o->whole);
    else
        get_floats(g, c->g, o->i, false, o->left, o->whole);
#pragma unroll
    for (int j = 0; j < LANE; j++) {
        p[j] = master_of<MASTER>(&x, j);
        m[j] = form::bytes ? decode(x.m, j, top_m, table, o->lane) : at(x.m, j, MOMENTS == MOMENTS_FLOAT);
        v[j] = form::bytes ? decode(x.v, j, top_v, table + TABLE, o->lane)
                           : at(x.v, j, MOMENTS == MOMENTS_FLOAT);
    }
}

/* stream: 1 for m, 2 for v */
template <int MOMENTS>
__device__ static inline void store_moments(void *to, const float x[LANE], const struct adamw_call *c,
                                            const struct rule *r, const struct place *o, uint32_t stream)
{
    uint32_t w[LANE];
    if (MOMENTS == MOMENTS_BYTE) {
        const float top = encode(w, x, o->left, stream == 1);
        if (o->lane == 0)
            ((float *)to)[o->scales + o->block] = top;
    } else if (MOMENTS == MOMENTS_BF16) {
        round8_at_random(w, x, c->first + o->i, r, stream);
    } else {
#pragma unroll
        for (int j = 0; j < LANE; j++)
            w[j] = __float_as_uint(x[j]);
    }
    put(to, o->i, forms<0, MOMENTS>::moment_bytes, o->left, o->whole, w);
}

template <int MASTER, int MOMENTS, bool WHOLE>
__device__ static inline void update_block(const struct adamw_call *c, const struct rule *r,
                                           const float *table, int64_t block)
{
    const struct place o = place_of<WHOLE>(c, block);
    float p[LANE], m[LANE], v[LANE], g[LANE];
    struct raw x;
    load_block<MASTER, MOMENTS>(c, table, &o, p, m, v, g);
#pragma unroll
    for (int j = 0; j < LANE; j++)
        step<MOMENTS != MOMENTS_BYTE>(&p[j], &m[j], &v[j], g[j], c, r);
    store_master<MASTER>(&x, p, c->first + o.i, r);
    put(c->p2, o.i, 2, o.left, o.whole, x.p);
    if (MASTER != MASTER_NONE)
        put(c->low2, o.i, forms<MASTER, MOMENTS>::low_bytes, o.left, o.whole, x.low);
    store_moments<MOMENTS>(c->m2, m, c, r, &o, 1);
    store_moments<MOMENTS>(c->v2, v, c, r, &o, 2);
}

__device__ static void make_tables(float *table)
{
    for (int code = threadIdx.x; code < BLOCK; code += THREADS)
        for (int copy = 0; copy < COPIES; copy++) {
            table[code * COPIES + copy] = adamw_code_value(true, code);
            table[TABLE + code * COPIES + copy] = adamw_code_value(false, code);
        }
}

/* WHOLE: of blocks with 256 elements and aligned addresses; without tests for their end a tenth of the instructions
 * goes. */
template <int MASTER, int MOMENTS, bool WHOLE>
__global__ static void __launch_bounds__(THREADS, MOMENTS == MOMENTS_BYTE ? BYTE_PER_SM : 1)
    adamw(const struct adamw_call c)
{
    __shared__ struct rule shared_rule;
    __shared__ float table[MOMENTS == MOMENTS_BYTE ? 2 * TABLE : 1];
    if (threadIdx.x == 0)
        shared_rule = rule_of(&c);
    if (MOMENTS == MOMENTS_BYTE)
        make_tables(table);
    __syncthreads();
    struct rule r = shared_rule;
    if (MOMENTS == MOMENTS_BYTE)
        r.root = 1 / r.root;
    for (int64_t block = c.from + (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; block < c.to;
         block += (int64_t)gridDim.x * WARPS)
        update_block<MASTER, MOMENTS, WHOLE>(&c, &r, table, block);
}

typedef void kernel_type(const struct adamw_call c);
#define FORMS(whole)                                                                                         \
    {                                                                                                        \
        { adamw<0, 0, whole>, adamw<0, 1, whole>, adamw<0, 2, whole> },                                      \
            { adamw<1, 0, whole>, adamw<1, 1, whole>, adamw<1, 2, whole> },                                  \
            { adamw<2, 0, whole>, adamw<2, 1, whole>, adamw<2, 2, whole> },                                  \
    }
static kernel_type *const kernels[2][3][3] = { FORMS(false), FORMS(true) };

/* Blocks [from, to) of the call, by one kernel. */
static void launch(const struct call *c, struct adamw_call k, bool whole, int64_t from, int64_t to)
{
    const int master = (int)c->attr[A_MASTER], moments = (int)c->attr[A_MOMENTS];
    const int64_t blocks = cut_parts(to - from, WARPS),
                  most = moments == MOMENTS_BYTE ? BYTE_BLOCKS : MOST_BLOCKS;
    if (from >= to)
        return;
    k.from = from, k.to = to;
    kernels[whole][master][moments]<<<(unsigned)(blocks < most ? blocks : most), THREADS, 0, stream_of(c)>>>(
        k);
    LAUNCHED();
}

/* All addresses, for 8 elements at a time. */
static bool aligned(const struct adamw_call *k, int master, int moments)
{
    const uintptr_t low = master == MASTER_NONE ? 0 : (uintptr_t)k->low | (uintptr_t)k->low2;
    const uintptr_t values = (uintptr_t)k->p | (uintptr_t)k->p2 | (uintptr_t)k->g | low;
    const uintptr_t of_moments = (uintptr_t)k->m | (uintptr_t)k->v | (uintptr_t)k->m2 | (uintptr_t)k->v2;
    CHECK(moments != MOMENTS_BYTE || of_moments % 4 == 0, "8-bit moments begin at multiples of 4 bytes");
    return values % 16 == 0 && of_moments % (moments == MOMENTS_BYTE ? 8 : 16) == 0;
}

extern "C" void adamw_fwd_cuda(const struct call *c)
{
    const double *attr = c->attr;
    const int master = (int)attr[A_MASTER], moments = (int)attr[A_MOMENTS];
    struct adamw_call k;
    CHECK(c->dim[C] == 6 && master >= 0 && master < 3 && moments >= 0 && moments < 3, "adamw %d %d", master,
          moments);
    if (c->dim[X] == 0)
        return;
    k.p = c->arg[P], k.m = c->arg[M], k.v = c->arg[V], k.g = c->arg[G], k.low = c->arg[LOW];
    k.p2 = c->arg[P2], k.m2 = c->arg[M2], k.v2 = c->arg[V2], k.low2 = c->arg[LOW2];
    k.control = (const float *)c->arg[CONTROL];
    k.n = c->dim[X];
    k.first = (int64_t)attr[A_FIRST];
    k.keep1 = (float)attr[A_BETA1];
    k.new1 = (float)(1 - attr[A_BETA1]);
    k.keep2 = (float)attr[A_BETA2];
    k.new2 = (float)(1 - attr[A_BETA2]);
    k.eps = (float)attr[A_EPS];
    k.decay = attr[A_DECAY];
    k.wide = is_wide(c, G);
    const int64_t whole = aligned(&k, master, moments) ? k.n / BLOCK : 0;
    launch(c, k, true, 0, whole);
    launch(c, k, false, whole, cut_parts(k.n, BLOCK));
}
