/* model_config.h - config.json of a model, of any family (model.h). A field that the code does not honour is an error
 * when its value would change the result; a missing field is an error, never a default of ours. What a family does not
 * have is 0. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "base/num.h"
struct rope_scaling { /* factor 0 = none; low_factor 0: YaRN (arXiv 2309.00071), otherwise Llama 3's */
    double factor, beta_fast, beta_slow, mscale, mscale_all_dim, low_factor, high_factor;
    int64_t original_positions;
};
struct model_family;
struct model_config {
    const struct model_family *family;
    int64_t vocab, width, layers, heads; /* V D L A */
    int64_t kv_heads;                    /* Llama's; its head width is rope_width and v_width */
    int64_t q_rank, kv_rank, nope_width, rope_width, v_width; /* Rq (0 = none) Rkv Dn Dr Dv */
    int64_t dense_width, expert_width;                        /* F of the dense MLP, F of one expert */
    int64_t experts, experts_per_token, shared_experts; /* E K; shared: one MLP of shared * expert_width */
    int64_t first_dense, moe_every; /* layer L is MoE iff L >= first_dense && L % moe_every == 0 */
    int64_t groups, topk_groups;    /* 1, 1 = greedy */
    bool norm_topk, sequence_aux, tied, aux_from_file;
    double scaling, aux_alpha, norm_eps, rope_theta, initializer_range;
    int64_t max_positions;
    struct rope_scaling rope;
    int32_t bos, eos;     /* -1 = none */
    enum dtype stored;    /* torch_dtype: of files written from random initialisation */
    char fingerprint[17]; /* of the fields above */
};
bool model_config_read(const char *dir, struct model_config *m, struct err *e); /* DIR/config.json */
bool model_config_parse(const char *text, size_t bytes, const char *path, struct model_config *m,
                        struct err *e);
/* Inverse frequencies of the Dr/2 rotated pairs, and the factor on cosine and sine. */
void model_rope_frequencies(const struct model_config *m, double *inv_freq, double *multiplier);
double model_yarn_mscale(double factor, double mscale);
