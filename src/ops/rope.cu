/* rope.cu - the last c entries of each head of h turn in pairs (2i, 2i+1); the others are copied. A thread takes
 * vectors of 8 entries, which lie on one side: h and c are multiples of 8. In place, the others stay unread. */
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
    struct divider vectors, heads,
        positions;             /* vectors of a head that are read, heads of a position, positions */
    uint32_t n_vectors, first; /* all that are read; entries of a head before the first of them */
    uint32_t width, plain;     /* entries of a head, those that do not turn */
    float sign;
};

struct spot {
    uint32_t head, at; /* of all heads; entry in it */
    int64_t element;
};

__device__ static inline struct spot spot_of(uint32_t i, const struct rope_shape *s)
{
    struct spot p;
    p.head = divide(i, s->vectors);
    p.at = s->first + (i - p.head * s->vectors.by) * VEC;
    p.element = (int64_t)p.head * s->width + p.at;
    return p;
}

/* The vector x at p; table [positions, width - plain]: cosines, then sines. */
__device__ static inline void turn(float x[VEC], struct spot p, const struct rope_shape *s,
                                   const float *table)
{
    const uint32_t row = divide(p.head, s->heads),
                   position = row - divide(row, s->positions) * s->positions.by, turned = s->width - s->plain;
    if (p.at >= s->plain)
        rope_turn8(x, table + (int64_t)position * turned + (p.at - s->plain) / 2, (int)turned / 2, s->sign);
}

/* x may be y. */
__global__ static void __launch_bounds__(THREADS)
    rope(bf16 *y, const bf16 *x, const float *table, const __grid_constant__ struct rope_shape s, bool add)
{
    const uint32_t first = blockIdx.x * (THREADS * EACH) + threadIdx.x;
    uint4 raw[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) /* the last again rather than a branch between loads */
        raw[k] = *(const uint4 *)(x + spot_of(min(first + k * THREADS, s.n_vectors - 1), &s).element);
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const struct spot p = spot_of(first + k * THREADS, &s);
        float v[VEC];
        if (first + k * THREADS >= s.n_vectors)
            return;
        unpack8(v, raw[k]);
        turn(v, p, &s, table);
        grad_put8(y, false, add, p.element, v);
    }
}

/* In place (y = x), only what turns is read. */
static void launch(const struct call *c, void *y, const void *x, float sign, bool add)
{
    const int64_t *d = c->dim, width = y == x ? d[C] : d[H], n = d[B] * d[S] * d[A] * width / VEC;
    struct rope_shape s;
    CHECK(d[H] % VEC == 0 && d[C] % VEC == 0, "heads of %lld entries, %lld turn: expected multiples of 8",
          (long long)d[H], (long long)d[C]);
    CHECK(n < ((int64_t)1 << 31) - THREADS * EACH, "%lld vectors in one call", (long long)n);
    s.vectors = divider_new(width / VEC), s.heads = divider_new(d[A]), s.positions = divider_new(d[S]);
    s.n_vectors = (uint32_t)n, s.first = (uint32_t)(d[H] - width);
    s.width = (uint32_t)d[H], s.plain = (uint32_t)(d[H] - d[C]);
    s.sign = sign;
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
