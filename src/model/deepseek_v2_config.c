/* deepseek_v2_config.c - config.json of DeepSeek-V2, and what follows from it without a graph. */
#include "base/hash.h"
#include "base/str.h"
#include "model/config_read.h"
#include "model/deepseek_v2.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const honoured[] = {
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "moe_layer_freq",
    "n_group",
    "topk_group",
    "topk_method",
    "scoring_func",
    "norm_topk_prob",
    "routed_scaling_factor",
    "aux_loss_alpha",
    "seq_aux",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "attention_dropout",
    "tie_word_embeddings",
    "initializer_range",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pretraining_tp",
    "head_dim",
    "mlp_bias",
};

static bool check_fixed(const struct json *j, const struct model_config *m, struct err *e)
{
    char heads[80];
    snprintf(heads, sizeof heads, "must equal num_attention_heads (%lld)", (long long)m->heads);
    return config_only_false(j, "attention_bias", e) && config_no_dropout(j, e) &&
           config_only_int(j, "num_key_value_heads", m->heads, heads, e) &&
           config_only_int(j, "pretraining_tp", 1, "only 1 is supported", e) && config_only_silu(j, e);
}

static bool read_rope(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    jval r;
    const char *type = "";
    const double top = 1e9;
    if (!config_read_theta(j, root, m, e))
        return false;
    if (!config_is_given(root, "rope_scaling"))
        return true;
    if (!json_want_object(j, root, "rope_scaling", &r, e) ||
        !json_want_string(j, r, json_get(r, "rope_type") ? "rope_type" : "type", &type, e))
        return false;
    if (strcmp(type, "yarn") != 0)
        return json_err(j, root, "rope_scaling", e, "only type \"yarn\" (or null) is supported, found \"%s\"",
                        type);
    static const char *const keys[] = {
        "type",   "rope_type",      "factor",    "original_max_position_embeddings", "beta_fast", "beta_slow",
        "mscale", "mscale_all_dim", "rope_theta"
    };
    for (int64_t i = 0; i < json_count(r); i++) {
        const char *key;
        json_entry(r, i, &key);
        if (!config_listed(keys, sizeof keys / sizeof *keys, key))
            return json_err(j, r, key, e, "unknown field of rope_scaling");
    }
    m->rope =
        (struct rope_scaling){ .beta_fast = 32, .beta_slow = 1, .mscale = 1, .original_positions = 4096 };
    if (!json_want_number(j, r, "factor", &m->rope.factor, e) ||
        (json_get(r, "beta_fast") && !json_want_number(j, r, "beta_fast", &m->rope.beta_fast, e)) ||
        (json_get(r, "beta_slow") && !json_want_number(j, r, "beta_slow", &m->rope.beta_slow, e)) ||
        (json_get(r, "mscale") && !json_want_number(j, r, "mscale", &m->rope.mscale, e)) ||
        (json_get(r, "mscale_all_dim") &&
         !json_want_number(j, r, "mscale_all_dim", &m->rope.mscale_all_dim, e)) ||
        (json_get(r, "original_max_position_embeddings") &&
         !json_want_int(j, r, "original_max_position_embeddings", 1, (int64_t)top,
                        &m->rope.original_positions, e)))
        return false;
    if (!(m->rope.factor >= 1 && m->rope.factor < top))
        return json_err(j, r, "factor", e, "expected a number of at least 1, found %g", m->rope.factor);
    if (!(m->rope.beta_slow > 0 && m->rope.beta_fast >= m->rope.beta_slow && m->rope.beta_fast < top))
        return json_err(j, r, "beta_fast", e, "expected beta_fast >= beta_slow > 0");
    return (fabs(m->rope.mscale) < 1e3 && fabs(m->rope.mscale_all_dim) < 1e3) ||
           json_err(j, r, "mscale", e, "expected a number below 1000");
}

static bool read_moe(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    const char *method, *scoring;
    m->groups = m->topk_groups = 1;
    if (!json_want_int(j, root, "moe_intermediate_size", 1, 1 << 24, &m->expert_width, e) ||
        !json_want_int(j, root, "num_experts_per_tok", 1, m->experts, &m->experts_per_token, e) ||
        !json_want_int(j, root, "moe_layer_freq", 1, 1 << 20, &m->moe_every, e) ||
        !json_want_bool(j, root, "norm_topk_prob", &m->norm_topk, e) ||
        !json_want_number(j, root, "routed_scaling_factor", &m->scaling, e) ||
        !json_want_string(j, root, "topk_method", &method, e) ||
        !json_want_string(j, root, "scoring_func", &scoring, e))
        return false;
    if (config_is_given(root, "n_shared_experts") &&
        !json_want_int(j, root, "n_shared_experts", 0, 1 << 16, &m->shared_experts, e))
        return false;
    if (!config_is_given(root, "aux_loss_alpha"))
        return json_err(j, root, "aux_loss_alpha", e,
                        "missing: the balancing loss would silently be off; add the value "
                        "of the model's training (DeepSeek-V2 used 0.001), or 0");
    if (!json_want_number(j, root, "aux_loss_alpha", &m->aux_alpha, e) ||
        !json_want_bool(j, root, "seq_aux", &m->sequence_aux, e))
        return false;
    if (!(m->aux_alpha >= 0 && m->aux_alpha < 1e3) || !isfinite(m->scaling))
        return json_err(j, root, "aux_loss_alpha", e, "expected a number in [0, 1000)");
    if (strcmp(scoring, "softmax") != 0)
        return json_err(j, root, "scoring_func", e, "only \"softmax\" is supported, found \"%s\"", scoring);
    if (strcmp(method, "greedy") == 0 ||
        strcmp(method, "gready") == 0) /* both spellings are in public files */
        return true;
    if (strcmp(method, "group_limited_greedy") != 0)
        return json_err(j, root, "topk_method", e, "supported: greedy, group_limited_greedy; found \"%s\"",
                        method);
    if (!json_want_int(j, root, "n_group", 1, m->experts, &m->groups, e) ||
        !json_want_int(j, root, "topk_group", 1, m->groups, &m->topk_groups, e))
        return false;
    if (m->experts % m->groups)
        return json_err(j, root, "n_group", e, "must divide n_routed_experts (%lld)", (long long)m->experts);
    return m->topk_groups * (m->experts / m->groups) >= m->experts_per_token ||
           json_err(j, root, "topk_group", e, "the kept groups hold fewer experts than num_experts_per_tok");
}

static bool read_widths(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    const int64_t top = 1 << 24;
    return (!config_is_given(root, "q_lora_rank") ||
            json_want_int(j, root, "q_lora_rank", 1, top, &m->q_rank, e)) &&
           json_want_int(j, root, "kv_lora_rank", 1, top, &m->kv_rank, e) &&
           json_want_int(j, root, "qk_nope_head_dim", 1, 1 << 16, &m->nope_width, e) &&
           json_want_int(j, root, "qk_rope_head_dim", 2, 1 << 16, &m->rope_width, e) &&
           (m->rope_width % 2 == 0 || json_err(j, root, "qk_rope_head_dim", e, "must be even")) &&
           json_want_int(j, root, "v_head_dim", 1, 1 << 16, &m->v_width, e) &&
           json_want_int(j, root, "first_k_dense_replace", 0, 10000, &m->first_dense, e);
}

static void fingerprint(struct model_config *m)
{
    char text[1024];
    const int n = snprintf(
        text, sizeof text,
        "%lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld %d %d %d "
        "%.17g %.17g %.17g %.17g %.17g %.17g %.17g %.17g %.17g %lld",
        (long long)m->vocab, (long long)m->width, (long long)m->layers, (long long)m->heads,
        (long long)m->q_rank, (long long)m->kv_rank, (long long)m->nope_width, (long long)m->rope_width,
        (long long)m->v_width, (long long)m->dense_width, (long long)m->expert_width, (long long)m->experts,
        (long long)m->experts_per_token, (long long)m->shared_experts, (long long)m->first_dense,
        (long long)m->moe_every, (long long)m->groups, (long long)m->topk_groups, m->norm_topk,
        m->sequence_aux, m->tied, m->scaling, m->aux_alpha, m->norm_eps, m->rope_theta, m->rope.factor,
        m->rope.beta_fast, m->rope.beta_slow, m->rope.mscale, m->rope.mscale_all_dim,
        (long long)m->rope.original_positions);
    hash_hex(hash_bytes(text, (size_t)n), m->fingerprint);
}

bool deepseek_v2_read(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    if (!config_check_known(j, honoured, sizeof honoured / sizeof *honoured, e) ||
        !config_read_sizes(j, m, e) || !read_widths(j, m, e) || !check_fixed(j, m, e) ||
        !read_rope(j, m, e) || !config_read_ids(j, m, e))
        return false;
    m->scaling = 1;
    m->moe_every = 1;
    const bool any_moe = m->first_dense < m->layers && config_is_given(root, "n_routed_experts");
    if (any_moe &&
        (!json_want_int(j, root, "n_routed_experts", 1, 1 << 16, &m->experts, e) || !read_moe(j, m, e)))
        return false;
    fingerprint(m);
    return true;
}

bool model_is_moe(const struct model_config *m, int64_t layer)
{
    return m->experts > 0 && layer >= m->first_dense && layer % m->moe_every == 0;
}

double model_softmax_scale(const struct model_config *m)
{
    const double scale = 1 / sqrt((double)(m->nope_width + m->rope_width));
    if (m->rope.factor == 0 || m->rope.mscale_all_dim == 0)
        return scale;
    const double mscale = model_yarn_mscale(m->rope.factor, m->rope.mscale_all_dim);
    return scale * mscale * mscale;
}

double deepseek_v2_active(const struct model_config *m, int64_t layer)
{
    const double D = (double)m->width, A = (double)m->heads, qk = (double)(m->nope_width + m->rope_width);
    const double q = m->q_rank ? D * (double)m->q_rank + (double)m->q_rank * A * qk : D * A * qk;
    const double attention = q + D * (double)(m->kv_rank + m->rope_width) +
                             (double)m->kv_rank * A * (double)(m->nope_width + m->v_width) +
                             A * (double)m->v_width * D;
    return attention + (model_is_moe(m, layer)
                            ? D * (double)m->experts + 3 * D * (double)m->expert_width *
                                                           (double)(m->experts_per_token + m->shared_experts)
                            : 3 * D * (double)m->dense_width);
}

void deepseek_v2_describe(const struct model_config *m, struct str *out)
{
    str_addf(
        out,
        "  DeepSeek-V2: %lld layers, width %lld, %lld heads of %lld+%lld/%lld, query rank %lld, key rank "
        "%lld, vocabulary %lld, softmax scale %.7f\n",
        (long long)m->layers, (long long)m->width, (long long)m->heads, (long long)m->nope_width,
        (long long)m->rope_width, (long long)m->v_width, (long long)m->q_rank, (long long)m->kv_rank,
        (long long)m->vocab, model_softmax_scale(m));
    if (m->experts)
        str_addf(out, "  %lld experts of %lld, %lld per token, %lld shared; aux loss alpha %g %s\n",
                 (long long)m->experts, (long long)m->expert_width, (long long)m->experts_per_token,
                 (long long)m->shared_experts, m->aux_alpha, m->sequence_aux ? "per sequence" : "per batch");
}
