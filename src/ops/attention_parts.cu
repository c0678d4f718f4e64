/* attention_parts.cu - what the two ways of attention without cuDNN share: addresses, and of backward what its kernels
 * need beforehand, rowsum(dO O), and the sum of k_rope's gradient over the heads, in their order. */
#include "ops/attention.cuh"
enum { THREADS = 256, TEAM = 16 };

struct attention_tensors attention_tensors_of(const struct call *c, const struct attention *z)
{
    struct attention_tensors x;
    x.z = *z;
    x.q = (const bf16 *)c->arg[QUERY], x.kv = (const bf16 *)c->arg[KV],
    x.k_rope = (const bf16 *)c->arg[K_ROPE];
    x.o = (const bf16 *)c->arg[O], x.d_o = (const bf16 *)c->grad[O];
    x.out = (bf16 *)c->arg[O], x.lse = (float *)c->arg[LSE];
    x.rope = (float *)c->work;
    x.delta = x.rope + z->b * z->a * z->s * z->r;
    x.dq = (bf16 *)c->grad[QUERY], x.dkv = (bf16 *)c->grad[KV];
    x.add_q = adds(c, QUERY), x.add_kv = adds(c, KV);
    return x;
}

void attention_parts_work(const struct attention *z, size_t bytes[2])
{
    bytes[0] = 0;
    bytes[1] = (size_t)(z->b * z->a * z->s * (z->r + 1)) * sizeof(float);
}

/* delta: TEAM lanes per row and head, in vectors where rows begin at multiples of them. */
__global__ static void delta_kernel(const __grid_constant__ struct attention_tensors x)
{
    const int64_t index = (int64_t)blockIdx.x * (THREADS / TEAM) + threadIdx.x / TEAM, row = index / x.z.a;
    const int64_t lane = threadIdx.x % TEAM, whole = x.z.v % VEC ? 0 : x.z.v;
    const bool there = index < x.z.b * x.z.s * x.z.a;
    const bf16 *o = x.o + (there ? index : 0) * x.z.v, *d_o = x.d_o + (there ? index : 0) * x.z.v;
    float sum = 0, y[VEC], dy[VEC];
    for (int64_t i = lane * VEC; i < whole; i += TEAM * VEC) {
        load8(y, o + i);
        load8(dy, d_o + i);
#pragma unroll
        for (int k = 0; k < VEC; k++)
            sum += y[k] * dy[k];
    }
    for (int64_t i = whole + lane; i < x.z.v; i += TEAM)
        sum += __bfloat162float(o[i]) * __bfloat162float(d_o[i]);
#pragma unroll
    for (int k = TEAM / 2; k > 0; k /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, k);
    if (there && lane == 0)
        x.delta[(row / x.z.s * x.z.a + index % x.z.a) * x.z.s + row % x.z.s] = sum;
}

void attention_delta(const struct call *c, const struct attention_tensors *x)
{
    const int64_t rows = x->z.b * x->z.s * x->z.a;
    delta_kernel<<<blocks_for(rows, THREADS / TEAM), THREADS, 0, stream_of(c)>>>(*x);
    LAUNCHED();
}

/* k_rope's gradient [b, s, r]: the heads in their order. */
__global__ static void rope_sum(const __grid_constant__ struct attention_tensors x, bf16 *out, bool add)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, per_head = x.z.s * x.z.r, b = i / per_head;
    float sum = 0;
    if (b >= x.z.b)
        return;
    for (int64_t a = 0; a < x.z.a; a++)
        sum += x.rope[(b * x.z.a + a) * per_head + i % per_head];
    grad_put(out, false, add, i, sum);
}

void attention_rope_sum(const struct call *c, const struct attention_tensors *x)
{
    if (!c->grad[K_ROPE])
        return;
    rope_sum<<<blocks_for(x->z.b * x->z.s * x->z.r, THREADS), THREADS, 0, stream_of(c)>>>(
        *x, (bf16 *)c->grad[K_ROPE], adds(c, K_ROPE));
    LAUNCHED();
}
