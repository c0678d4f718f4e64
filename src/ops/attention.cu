/* attention.cu - causal attention of MLA on CUDA: which of the ways serves a call (attention.cuh). */
#include "ops/attention.cuh"
enum { B, S, A, Q, C, R, V, SCALE = 3 };

struct attention attention_sizes(const struct call *c)
{
    const int64_t *d = c->dim;
    struct attention z;
    z.b = d[B], z.s = d[S], z.a = d[A], z.q = d[Q], z.c = d[C], z.r = d[R], z.v = d[V];
    z.nope = d[C] - d[V];
    z.scale = (float)c->attr[SCALE];
    CHECK(z.nope >= 0 && z.nope + z.r == z.q, "key of %lld + %lld, query of %lld", (long long)z.nope,
          (long long)z.r, (long long)z.q);
    CHECK(c->wide == 0, "gradients of activations have the model's float");
    return z;
}

static bool on_dnn(const struct attention *z)
{
    return !cuda_portable() && attention_dnn_serves(z);
}

extern "C" void attention_fwd_cuda(const struct call *c)
{
    const struct attention z = attention_sizes(c);
    if (on_dnn(&z))
        attention_dnn_fwd(c, &z);
    else
        (attention_mma_serves(&z) ? attention_mma_fwd : attention_plain_fwd)(c, &z);
}

extern "C" void attention_bwd_cuda(const struct call *c)
{
    const struct attention z = attention_sizes(c);
    if (on_dnn(&z))
        (attention_hopper_serves(&z) ? attention_hopper_bwd : attention_dnn_bwd)(c, &z);
    else
        (attention_mma_serves(&z) ? attention_mma_bwd : attention_plain_bwd)(c, &z);
}

/* It is asked where no device is: what any of them needs. */
extern "C" void attention_work_cuda(const struct call *c, size_t bytes[2])
{
    const struct attention z = attention_sizes(c);
    size_t dnn[2] = { 0, 0 }, own[2] = { 0, 0 };
    attention_parts_work(&z, bytes);
    if (attention_dnn_serves(&z))
        attention_dnn_work(&z, dnn);
    if (attention_hopper_serves(&z))
        attention_hopper_work(&z, own);
    bytes[0] = bytes[0] > dnn[0] ? bytes[0] : dnn[0];
    bytes[1] = attention_hopper_serves(&z) ? own[1] : bytes[1] > dnn[1] ? bytes[1] : dnn[1];
}
