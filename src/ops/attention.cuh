/* attention.cuh - the ways of attention on CUDA: cuDNN on Hopper for the widths of real models, with a backward of our own on wgmma
 * for DeepSeek-V2's; mma.m16n8k16 on every device for these and most others; and plain kernels, without tensor cores, for
 * what is left. Which one serves a call is decided by its sizes (and the kind of device) alone. Forward by one and backward by
 * another go together. */
#pragma once
#include "cuda/cuda.cuh"
enum { QUERY, KV, K_ROPE, O, LSE }; /* arguments */
/* q: [b, s, a, q]; kv: [b, s, a, c], a head being [k_nope | v]; k_rope: [b, s, r]; o: [b, s, a, v];
 * lse: [b, a, s] float32 */
struct attention {
    int64_t b, s, a, q, c, r, v, nope;
    float scale;
};
struct attention attention_sizes(const struct call *c);

/* cuDNN */
bool attention_dnn_serves(const struct attention *z);
void attention_dnn_work(const struct attention *z, size_t bytes[2]);
void attention_dnn_fwd(const struct call *c, const struct attention *z);
void attention_dnn_bwd(const struct call *c, const struct attention *z);
/* k [n, s, a, q]: keys of n sequences from the first'th on */
void attention_keys(const struct call *c, const struct attention *z, int64_t first, int64_t n, bf16 *k);
/* Their gradient dk [n, s, a, q] into those of kv and k_rope, as far as these are wanted. dv: rows [n, s, a, c] with
 * the gradient of v; NULL where it is in kv's already. */
void attention_split_keys(const struct call *c, const struct attention *z, int64_t first, int64_t n,
                          const bf16 *dk, const bf16 *dv);

/* Sizes and addresses for the others, passed to kernels by value. */
struct attention_tensors {
    struct attention z;
    const bf16 *q, *kv, *k_rope, *o, *d_o;
    bf16 *out;      /* forward: o */
    float *lse;     /* [b, a, s]; forward writes it */
    float *delta;   /* [b, a, s]: rowsum(dO O) */
    float *rope;    /* [b, a, s, r]: parts of k_rope's gradient */
    bf16 *dq, *dkv; /* gradients; NULL: not wanted */
    bool add_q, add_kv;
};
struct attention_tensors attention_tensors_of(const struct call *c, const struct attention *z);
void attention_parts_work(const struct attention *z, size_t bytes[2]);
void attention_delta(const struct call *c, const struct attention_tensors *x);
/* From x->rope, if it is wanted. */
void attention_rope_sum(const struct call *c, const struct attention_tensors *x);

/* backward alone, beside cuDNN's forward; s in multiples of 128, the widths of DeepSeek-V2 */
bool attention_hopper_serves(const struct attention *z);
void attention_hopper_work(const struct attention *z, size_t bytes[2]);
void attention_hopper_bwd(const struct call *c, const struct attention *z);

/* any s, b and a; widths in multiples of 8 */
bool attention_mma_serves(const struct attention *z);
void attention_mma_fwd(const struct call *c, const struct attention *z);
void attention_mma_bwd(const struct call *c, const struct attention *z);

/* any s, b and a; widths up to 256 */
void attention_plain_fwd(const struct call *c, const struct attention *z);
void attention_plain_bwd(const struct call *c, const struct attention *z);

static const float LOG2_E = 1.44269504f;
/* 2^x, 0 for what is not normal. */
__device__ static inline float exp2_of(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* grad (+)= two neighbours */
__device__ static inline void put_pair(bf16 *at, bool add, float x, float y)
{
    __nv_bfloat162 *to = (__nv_bfloat162 *)at;
    const float2 old = add ? __bfloat1622float2(*to) : make_float2(0, 0);
    *to = __floats2bfloat162_rn(old.x + x, old.y + y);
}

/* Row t of a tensor [b, s, a, width]; rows of a head are a * width elements apart. */
__device__ static inline int64_t at_row(const struct attention *z, int64_t b, int64_t a, int64_t t,
                                        int64_t width)
{
    return ((b * z->s + t) * z->a + a) * width;
}

/* Row t of a tensor [b, a, s]. */
__device__ static inline int64_t at_number(const struct attention *z, int64_t b, int64_t a, int64_t t)
{
    return (b * z->a + a) * z->s + t;
}
