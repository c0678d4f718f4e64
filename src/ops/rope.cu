/* rope.cu - the last c entries of each head of h turn in pairs (2i, 2i+1); the others are copied. A thread takes
 * vectors of 8 entries, which lie on one side: h and c are multiples of 8. */
#include "ops/rope.cuh"
enum { X, TABLE, Y, B = 0, S, A, H, C };
enum { THREADS = 256, EACH = 4 }; /* vectors per thread, a block apart */

/* n / by for n < 2^31, as a product and a shift (Granlund and Montgomery 1994). */
struct divider {
    uint32_t by, factor;
    int shift;
};

static struct divider divider_new(int64_t by)
{
    int log = 0;
    CHECK(by > 0 && by < (int64_t)1 << 31, "division by %lld", (long long)by);
    while ((int64_t)1 << log < by)
        log++;
    const uint64_t power = (uint64_t)1 << (31 + log);
    return (struct divider){ (uint32_t)by, (uint32_t)((power + (uint64_t)by - 1) / (uint64_t)by), 31 + log };
}

__device__ static inline uint32_t divide(uint32_t n, struct divider d)
{
    return (uint32_t)((uint64_t)n * d.factor >> d.shift);
}

struct rope_shape {
    struct divider vectors, heads, positions; /* vectors of a head, heads of a position, positions */
    uint32_t n_vectors, plain, turned;        /* entries of a head that are copied, that turn */
    float sign;
};

/* Vector i of x, in place; table [positions, turned]: cosines, then sines. */
__device__ static inline void turn(float x[VEC], uint32_t i, const struct rope_shape *s, const float *table)
{
    const uint32_t head = divide(i, s->vectors), at = (i - head * s->vectors.by) * VEC;
    const uint32_t row = divide(head, s->heads), position = row - divide(row, s->positions) * s->positions.by;
    if (at < s->plain)
        return;
    rope_turn8(x, table + (int64_t)position * s->turned + (at - s->plain) / 2, s->turned / 2, s->sign);
}

__global__ static void __launch_bounds__(THREADS)
    rope(bf16 *y, const bf16 *x, const float *table, struct rope_shape s, bool add)
{
    const uint32_t first = blockIdx.x * (THREADS * EACH) + threadIdx.x;
    uint4 raw[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (first + k * THREADS < s.n_vectors)
            raw[k] = ((const uint4 *)x)[first + k * THREADS];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const uint32_t i = first + k * THREADS;
        float v[VEC];
        if (i >= s.n_vectors)
            return;
        unpack8(v, raw[k]);
        turn(v, i, &s, table);
        grad_put8(y, false, add, (int64_t)i * VEC, v);
    }
}

static void launch(const struct call *c, void *y, const void *x, float sign, bool add)
{
    const int64_t *d = c->dim, n = d[B] * d[S] * d[A] * d[H] / VEC;
    CHECK(d[H] % VEC == 0 && d[C] % VEC == 0, "heads of %lld entries, %lld turn: expected multiples of 8",
          (long long)d[H], (long long)d[C]);
    CHECK(n < ((int64_t)1 << 31) - THREADS * EACH, "%lld vectors in one call", (long long)n);
    const struct rope_shape s = { divider_new(d[H] / VEC),
                                  divider_new(d[A]),
                                  divider_new(d[S]),
                                  (uint32_t)n,
                                  (uint32_t)(d[H] - d[C]),
                                  (uint32_t)d[C],
                                  sign };
    rope<<<blocks_for(n, THREADS * EACH), THREADS, 0, stream_of(c)>>>((bf16 *)y, (const bf16 *)x,
                                                                      (const float *)c->arg[TABLE], s, add);
    LAUNCHED();
}

extern "C" void rope_fwd_cuda(const struct call *c)
{
    launch(c, c->arg[Y], c->arg[X], 1, false);
}

extern "C" void rope_bwd_cuda(const struct call *c)
{
    if (!c->grad[Y])
        grad_clear(c, X, c->dim[B] * c->dim[S] * c->dim[A] * c->dim[H]);
    else if (c->grad[X])
        launch(c, c->grad[X], c->grad[Y], -1, adds(c, X));
}
