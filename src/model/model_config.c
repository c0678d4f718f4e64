/* model_config.c - reading config.json strictly. */
#include "model/model_config.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/str.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Fields that cannot change what we compute: names, generation defaults, bookkeeping of the library. */
static const char *const ignored[] = {
    "architectures",
    "auto_map",
    "model_type",
    "transformers_version",
    "use_cache",
    "pad_token_id",
    "torch_dtype",
    "dtype",
    "_name_or_path",
    "ep_size",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "torchscript",
    "use_bfloat16",
    "tf_legacy_loss",
    "pruned_heads",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "is_decoder",
    "cross_attention_hidden_size",
    "add_cross_attention",
    "tie_encoder_decoder",
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "finetuning_task",
    "id2label",
    "label2id",
    "tokenizer_class",
    "prefix",
    "sep_token_id",
    "decoder_start_token_id",
    "task_specific_params",
    "problem_type",
    "attn_implementation",
    "_attn_implementation",
    "head_dim",
    "mlp_bias",
};
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
};

static bool listed(const char *const *names, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], key) == 0)
            return true;
    return false;
}

static bool is_given(jval root, const char *key)
{
    const enum json_type t = json_type(json_get(root, key));
    return t != JSON_ABSENT && t != JSON_NULL;
}

static bool check_known(const struct json *j, struct err *e)
{
    const jval root = json_root(j);
    for (int64_t i = 0; i < json_count(root); i++) {
        const char *key;
        const jval v = json_entry(root, i, &key);
        if (json_type(v) == JSON_NULL || listed(ignored, sizeof ignored / sizeof *ignored, key) ||
            listed(honoured, sizeof honoured / sizeof *honoured, key))
            continue;
        return json_err(j, root, key, e,
                        "moec does not know this field and cannot tell whether it changes the model; "
                        "remove it if it does not");
    }
    return true;
}

/* Fields that must be absent, null or hold the one value that the code implements. */
static bool check_fixed(const struct json *j, const struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    bool flag;
    double number;
    int64_t integer;
    const char *text;
    if (is_given(root, "attention_bias") &&
        (!json_want_bool(j, root, "attention_bias", &flag, e) ||
         (flag && !json_err(j, root, "attention_bias", e, "only false is supported, found true"))))
        return false;
    if (is_given(root, "attention_dropout") &&
        (!json_want_number(j, root, "attention_dropout", &number, e) ||
         (number != 0 &&
          !json_err(j, root, "attention_dropout", e, "only 0 is supported, found %g", number))))
        return false;
    if (is_given(root, "num_key_value_heads") &&
        (!json_want_int(j, root, "num_key_value_heads", 1, 1 << 20, &integer, e) ||
         (integer != m->heads && !json_err(j, root, "num_key_value_heads", e,
                                           "must equal num_attention_heads (%lld), "
                                           "found %lld",
                                           (long long)m->heads, (long long)integer))))
        return false;
    if (is_given(root, "pretraining_tp") &&
        (!json_want_int(j, root, "pretraining_tp", 1, 1 << 20, &integer, e) ||
         (integer != 1 &&
          !json_err(j, root, "pretraining_tp", e, "only 1 is supported, found %lld", (long long)integer))))
        return false;
    if (!json_want_string(j, root, "hidden_act", &text, e))
        return false;
    return strcmp(text, "silu") == 0 ||
           json_err(j, root, "hidden_act", e, "only \"silu\" is supported, found \"%s\"", text);
}

static bool read_rope(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    jval r;
    const char *type = "";
    const double top = 1e9;
    if (!json_want_number(j, root, "rope_theta", &m->rope_theta, e))
        return false;
    if (!(m->rope_theta > 1 && m->rope_theta < 1e12))
        return json_err(j, root, "rope_theta", e, "expected a number in (1, 1e12), found %g", m->rope_theta);
    if (!is_given(root, "rope_scaling"))
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
        if (!listed(keys, sizeof keys / sizeof *keys, key))
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
    if (is_given(root, "n_shared_experts") &&
        !json_want_int(j, root, "n_shared_experts", 0, 1 << 16, &m->shared_experts, e))
        return false;
    if (!is_given(root, "aux_loss_alpha"))
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

static bool read_sizes(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    const int64_t top = 1 << 24;
    return json_want_int(j, root, "vocab_size", 2, INT32_MAX, &m->vocab, e) &&
           json_want_int(j, root, "hidden_size", 1, top, &m->width, e) &&
           json_want_int(j, root, "num_hidden_layers", 1, 10000, &m->layers, e) &&
           json_want_int(j, root, "num_attention_heads", 1, 1 << 16, &m->heads, e) &&
           json_want_int(j, root, "intermediate_size", 1, top, &m->dense_width, e) &&
           (!is_given(root, "q_lora_rank") || json_want_int(j, root, "q_lora_rank", 1, top, &m->q_rank, e)) &&
           json_want_int(j, root, "kv_lora_rank", 1, top, &m->kv_rank, e) &&
           json_want_int(j, root, "qk_nope_head_dim", 1, 1 << 16, &m->nope_width, e) &&
           json_want_int(j, root, "qk_rope_head_dim", 2, 1 << 16, &m->rope_width, e) &&
           (m->rope_width % 2 == 0 || json_err(j, root, "qk_rope_head_dim", e, "must be even")) &&
           json_want_int(j, root, "v_head_dim", 1, 1 << 16, &m->v_width, e) &&
           json_want_int(j, root, "max_position_embeddings", 1, INT32_MAX, &m->max_positions, e) &&
           json_want_int(j, root, "first_k_dense_replace", 0, 10000, &m->first_dense, e) &&
           json_want_number(j, root, "rms_norm_eps", &m->norm_eps, e) &&
           (m->norm_eps > 0 || json_err(j, root, "rms_norm_eps", e, "expected a positive number")) &&
           json_want_number(j, root, "initializer_range", &m->initializer_range, e) &&
           json_want_bool(j, root, "tie_word_embeddings", &m->tied, e);
}

static bool read_ids(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    int64_t id;
    m->bos = m->eos = -1;
    if (json_type(json_get(root, "bos_token_id")) == JSON_INT) {
        if (!json_want_int(j, root, "bos_token_id", 0, m->vocab - 1, &id, e))
            return false;
        m->bos = (int32_t)id;
    }
    if (json_type(json_get(root, "eos_token_id")) == JSON_INT) {
        if (!json_want_int(j, root, "eos_token_id", 0, m->vocab - 1, &id, e))
            return false;
        m->eos = (int32_t)id;
    }
    const char *key = is_given(root, "torch_dtype") ? "torch_dtype" : "dtype", *text = "float32";
    if (is_given(root, key) && !json_want_string(j, root, key, &text, e))
        return false;
    m->stored = strcmp(text, "bfloat16") == 0 ? BF16 : strcmp(text, "float16") == 0 ? F16 : F32;
    return m->stored != F32 || strcmp(text, "float32") == 0 ||
           json_err(j, root, key, e, "supported: float32, bfloat16, float16; found \"%s\"", text);
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

static bool read_root(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    const char *type;
    if (json_type(root) != JSON_OBJECT)
        return json_err(j, root, "", e, "expected an object, found %s", json_type_name(json_type(root)));
    if (!json_want_string(j, root, "model_type", &type, e))
        return false;
    if (strcmp(type, "deepseek_v2") != 0)
        return json_err(j, root, "model_type", e, "only \"deepseek_v2\" is supported, found \"%s\"", type);
    if (!check_known(j, e) || !read_sizes(j, m, e) || !check_fixed(j, m, e) || !read_rope(j, m, e) ||
        !read_ids(j, m, e))
        return false;
    m->scaling = 1;
    m->moe_every = 1;
    const bool any_moe = m->first_dense < m->layers && is_given(root, "n_routed_experts");
    if (any_moe &&
        (!json_want_int(j, root, "n_routed_experts", 1, 1 << 16, &m->experts, e) || !read_moe(j, m, e)))
        return false;
    fingerprint(m);
    return true;
}

bool model_config_parse(const char *text, size_t bytes, const char *path, struct model_config *m,
                        struct err *e)
{
    struct json *j = json_parse(text, bytes, path, e);
    if (!j)
        return false;
    *m = (struct model_config){ 0 };
    const bool ok = read_root(j, m, e);
    json_free(j);
    return ok;
}

bool model_config_read(const char *dir, struct model_config *m, struct err *e)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path)
        return err_set(e, "%s: path too long", dir);
    struct json *j = json_read(path, 16u << 20, e);
    if (!j)
        return false;
    *m = (struct model_config){ 0 };
    const bool ok = read_root(j, m, e);
    json_free(j);
    return ok;
}

bool model_is_moe(const struct model_config *m, int64_t layer)
{
    return m->experts > 0 && layer >= m->first_dense && layer % m->moe_every == 0;
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

double model_softmax_scale(const struct model_config *m)
{
    const double scale = 1 / sqrt((double)(m->nope_width + m->rope_width));
    if (m->rope.factor == 0 || m->rope.mscale_all_dim == 0)
        return scale;
    const double mscale = yarn_mscale(m->rope.factor, m->rope.mscale_all_dim);
    return scale * mscale * mscale;
}

/* Dimension whose wavelength fits `rotations` times into the original context. */
static double yarn_dim(const struct model_config *m, double rotations)
{
    const double two_pi = 6.283185307179586476925286766559;
    return (double)m->rope_width * log((double)m->rope.original_positions / (rotations * two_pi)) /
           (2 * log(m->rope_theta));
}

void model_rope_frequencies(const struct model_config *m, double *inv_freq, double *multiplier)
{
    const int64_t half = m->rope_width / 2;
    *multiplier = 1;
    for (int64_t i = 0; i < half; i++)
        inv_freq[i] = pow(m->rope_theta, -2.0 * (double)i / (double)m->rope_width);
    if (m->rope.factor == 0)
        return;
    *multiplier =
        yarn_mscale(m->rope.factor, m->rope.mscale) / yarn_mscale(m->rope.factor, m->rope.mscale_all_dim);
    const double low = fmax(floor(yarn_dim(m, m->rope.beta_fast)), 0);
    double high = fmin(ceil(yarn_dim(m, m->rope.beta_slow)), (double)m->rope_width - 1);
    if (low == high)
        high += 0.001;
    for (int64_t i = 0; i < half; i++) {
        const double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
        inv_freq[i] *= (1 - ramp) + ramp / m->rope.factor;
    }
}

void model_flops_per_token(const struct model_config *m, int64_t sequence, double *honest, double *example)
{
    const double D = (double)m->width, A = (double)m->heads, qk = (double)(m->nope_width + m->rope_width);
    const double q = m->q_rank ? D * (double)m->q_rank + (double)m->q_rank * A * qk : D * A * qk;
    const double attention = q + D * (double)(m->kv_rank + m->rope_width) +
                             (double)m->kv_rank * A * (double)(m->nope_width + m->v_width) +
                             A * (double)m->v_width * D;
    double active = (double)m->vocab * D;
    for (int64_t i = 0; i < m->layers; i++) {
        active += attention;
        active += model_is_moe(m, i)
                      ? D * (double)m->experts + 3 * D * (double)m->expert_width *
                                                     (double)(m->experts_per_token + m->shared_experts)
                      : 3 * D * (double)m->dense_width;
    }
    const double core =
        (double)m->layers * A * (qk + (double)m->v_width) * (double)sequence; /* causal: half of 2 x 2 S */
    *honest = 6 * active + 3 * core;
    *example = 6 * (active + (double)m->vocab * D);
}
