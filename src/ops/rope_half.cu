/* rope_half.cu - every head of h turns in pairs (i, i + h/2). A thread takes PAIRS pairs, 8 bytes of each half: h is a
 * multiple of 8, so that its half is one of 4. It reads both before it writes, so y may be x. */
#include "cuda/cuda.cuh"
enum { X, TABLE, Y, B = 0, S, A, H };
enum { THREADS = 256, PAIRS = 4 };

/* n: threads in all; parts: of a head */
struct halves {
    uint32_t n, parts, heads, positions, half;
    float sign;
};

__device__ static inline void load4(float x[PAIRS], const bf16 *p)
{
    const uint2 raw = *(const uint2 *)p;
    x[0] = low_of(raw.x), x[1] = high_of(raw.x);
    x[2] = low_of(raw.y), x[3] = high_of(raw.y);
}

/* p[j] = x[j], or += */
__device__ static inline void put4(bf16 *p, const float x[PAIRS], bool add)
{
    float y[PAIRS] = { 0, 0, 0, 0 };
    if (add)
        load4(y, p);
    const __nv_bfloat162 low = __floats2bfloat162_rn(y[0] + x[0], y[1] + x[1]),
                         high = __floats2bfloat162_rn(y[2] + x[2], y[3] + x[3]);
    *(uint2 *)p = make_uint2(*(const uint32_t *)&low, *(const uint32_t *)&high);
}

__global__ static void __launch_bounds__(THREADS)
    rope_half(bf16 *y, const bf16 *x, const float *table, struct halves h, bool add)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x, head = i / h.parts, at = i % h.parts * PAIRS,
                   position = head / h.heads % h.positions;
    const int64_t first = (int64_t)head * 2 * h.half + at;
    if (i >= h.n)
        return;
    const float *cosine = table + (int64_t)position * 2 * h.half + at, *sine = cosine + h.half;
    const float4 c4 = *(const float4 *)cosine, s4 = *(const float4 *)sine;
    const float c[PAIRS] = { c4.x, c4.y, c4.z, c4.w };
    const float s[PAIRS] = { h.sign * s4.x, h.sign * s4.y, h.sign * s4.z, h.sign * s4.w };
    float a[PAIRS], b[PAIRS], turned_a[PAIRS], turned_b[PAIRS];
    load4(a, x + first);
    load4(b, x + first + h.half);
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        turned_a[j] = a[j] * c[j] - b[j] * s[j];
        turned_b[j] = b[j] * c[j] + a[j] * s[j];
    }
    put4(y + first, turned_a, add);
    put4(y + first + h.half, turned_b, add);
}

static void launch(const struct call *c, void *y, const void *x, float sign, bool add)
{
    const int64_t *d = c->dim, half = d[H] / 2, n = d[B] * d[S] * d[A] * half / PAIRS;
    struct halves h;
    CHECK(d[H] % 8 == 0, "heads of %lld entries: expected a multiple of 8", (long long)d[H]);
    CHECK(n < ((int64_t)1 << 31) - THREADS, "%lld vectors in one call", (long long)n);
    h.n = (uint32_t)n, h.parts = (uint32_t)(half / PAIRS), h.heads = (uint32_t)d[A];
    h.positions = (uint32_t)d[S], h.half = (uint32_t)half;
    h.sign = sign;
    rope_half<<<blocks_for(n, THREADS), THREADS, 0, stream_of(c)>>>((bf16 *)y, (const bf16 *)x,
                                                                    (const float *)c->arg[TABLE], h, add);
    LAUNCHED();
}

extern "C" void rope_half_fwd_cuda(const struct call *c)
{
    launch(c, c->arg[Y], c->arg[X], 1, false);
}

extern "C" void rope_half_bwd_cuda(const struct call *c)
{
    if (!c->grad[Y])
        grad_clear(c, X, c->dim[B] * c->dim[S] * c->dim[A] * c->dim[H]);
    else if (c->grad[X])
        launch(c, c->grad[X], c->grad[Y], -1, adds(c, X));
}
