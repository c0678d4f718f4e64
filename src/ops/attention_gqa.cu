/* attention_gqa.cu - attention of grouped queries on CUDA, by the kernels of attention.cu: keys and values are repeated
 * for each head of queries as kv [b, s, g m, 2 h], a head being [k | v], with no key that all heads share; their
 * gradients come back in the same form and are summed over the heads of a group, in their order. */
#include "cuda/cuda.cuh"
#include "ops/group_spot.h"
enum { QUERY, KEY, VALUE, O, LSE, B = 0, S, G, X, H, M, SCALE = 3 };
enum { THREADS = 256 };
/* Of attention.c, whose arguments are q kv k_rope o lse and whose letters b s a q c r v; attr: q c v scale. */
enum { INNER_KV = 1, INNER_O = 3, INNER_LSE };
extern "C" void attention_fwd_cuda(const struct call *c);
extern "C" void attention_bwd_cuda(const struct call *c);
extern "C" void attention_work_cuda(const struct call *c, size_t bytes[2]);

/* Sizes and attributes of the call of attention.c; its pointers are the caller's. */
static struct call inner_call(const struct call *c)
{
    const int64_t *d = c->dim, h = d[H];
    const int64_t dims[] = { d[B], d[S], d[G] * d[M], h, 2 * h, 0, h };
    struct call inner = {};
    CHECK(d[X] == d[M] * h && h % VEC == 0, "groups of %lld: expected %lld heads of a multiple of 8",
          (long long)d[X], (long long)d[M]);
    CHECK(c->wide == 0, "gradients of activations have the model's float");
    for (int i = 0; i < 7; i++)
        inner.dim[i] = dims[i];
    inner.attr[0] = inner.attr[2] = (double)h;
    inner.attr[1] = (double)(2 * h);
    inner.attr[3] = c->attr[SCALE];
    inner.stream = c->stream;
    return inner;
}

/* Bytes of kv, and of its gradient */
static size_t kv_bytes(const struct call *c)
{
    const int64_t *d = c->dim;
    return (size_t)round_up(d[B] * d[S] * d[G] * d[M] * 2 * d[H] * (int64_t)sizeof(bf16), 256);
}

static struct groups groups_of(const struct call *c)
{
    const int64_t *d = c->dim, n = d[B] * d[S] * d[G] * 2 * d[H] / VEC;
    CHECK(n < ((int64_t)1 << 31) - THREADS, "%lld vectors in one call", (long long)n);
    const struct groups g = { (uint32_t)n, (uint32_t)(d[H] / VEC), (uint32_t)d[M] };
    return g;
}

__global__ static void __launch_bounds__(THREADS)
    repeat(uint4 *kv, const uint4 *k, const uint4 *v, struct groups g)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= g.n)
        return;
    const struct group_spot at = group_spot(i, &g);
    const uint4 x = (at.value ? v : k)[at.key];
    for (uint32_t j = 0; j < g.m; j++)
        kv[at.repeated + (int64_t)j * 2 * g.h] = x;
}

/* dk or dv may be NULL. */
__global__ static void __launch_bounds__(THREADS)
    sum(const bf16 *dkv, bf16 *dk, bf16 *dv, struct groups g, bool add_k, bool add_v)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    float total[VEC] = { 0 }, x[VEC];
    if (i >= g.n)
        return;
    const struct group_spot at = group_spot(i, &g);
    bf16 *to = at.value ? dv : dk;
    if (!to)
        return;
    for (uint32_t j = 0; j < g.m; j++) {
        load8(x, dkv + (at.repeated + (int64_t)j * 2 * g.h) * VEC);
#pragma unroll
        for (int k = 0; k < VEC; k++)
            total[k] += x[k];
    }
    grad_put8(to, false, at.value ? add_v : add_k, at.key * VEC, total);
}

/* The call of attention.c with kv at the start of c->work, and its own workspace `after` bytes from there. */
static struct call prepare(const struct call *c, size_t after)
{
    const struct groups g = groups_of(c);
    struct call inner = inner_call(c);
    repeat<<<blocks_for(g.n, THREADS), THREADS, 0, stream_of(c)>>>(
        (uint4 *)c->work, (const uint4 *)c->arg[KEY], (const uint4 *)c->arg[VALUE], g);
    LAUNCHED();
    inner.arg[QUERY] = c->arg[QUERY], inner.arg[INNER_KV] = c->work;
    inner.arg[INNER_O] = c->arg[O], inner.arg[INNER_LSE] = c->arg[LSE];
    inner.work = (char *)c->work + after;
    return inner;
}

extern "C" void attention_gqa_fwd_cuda(const struct call *c)
{
    const struct call inner = prepare(c, kv_bytes(c));
    attention_fwd_cuda(&inner);
}

extern "C" void attention_gqa_bwd_cuda(const struct call *c)
{
    const struct groups g = groups_of(c);
    struct call inner = prepare(c, 2 * kv_bytes(c));
    const bool keys = c->grad[KEY] || c->grad[VALUE];
    bf16 *dkv = (bf16 *)((char *)c->work + kv_bytes(c));
    inner.grad[INNER_O] = c->grad[O];
    inner.grad[QUERY] = c->grad[QUERY];
    inner.grad[INNER_KV] = keys ? dkv : NULL;
    inner.add = adds(c, QUERY) ? 1u << QUERY : 0;
    attention_bwd_cuda(&inner);
    if (!keys)
        return;
    sum<<<blocks_for(g.n, THREADS), THREADS, 0, stream_of(c)>>>(
        dkv, (bf16 *)c->grad[KEY], (bf16 *)c->grad[VALUE], g, adds(c, KEY), adds(c, VALUE));
    LAUNCHED();
}

extern "C" void attention_gqa_work_cuda(const struct call *c, size_t bytes[2])
{
    const struct call inner = inner_call(c);
    attention_work_cuda(&inner, bytes);
    bytes[0] += kv_bytes(c);
    bytes[1] += 2 * kv_bytes(c);
}
