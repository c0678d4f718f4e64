/* attention.cuh - the two ways of attention on CUDA: cuDNN on tensor cores for the widths of real models, and plain
 * kernels for all others. Which one serves a call is decided by its sizes (and the kind of device) alone. */
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

/* any s, b and a; widths up to 256 */
void attention_plain_work(const struct attention *z, size_t bytes[2]);
void attention_plain_fwd(const struct call *c, const struct attention *z);
void attention_plain_bwd(const struct call *c, const struct attention *z);
