/* model_config.c - reading config.json strictly: what does not depend on the family. */
#include "base/json.h"
#include "model/config_read.h"
#include "model/model.h"
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
};

bool config_listed(const char *const *names, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], key) == 0)
            return true;
    return false;
}

bool config_is_given(jval object, const char *key)
{
    const enum json_type t = json_type(json_get(object, key));
    return t != JSON_ABSENT && t != JSON_NULL;
}

bool config_check_known(const struct json *j, const char *const *honoured, size_t n, struct err *e)
{
    const jval root = json_root(j);
    for (int64_t i = 0; i < json_count(root); i++) {
        const char *key;
        const jval v = json_entry(root, i, &key);
        if (json_type(v) == JSON_NULL || config_listed(ignored, sizeof ignored / sizeof *ignored, key) ||
            config_listed(honoured, n, key))
            continue;
        return json_err(j, root, key, e,
                        "moec does not know this field and cannot tell whether it changes the model; "
                        "remove it if it does not");
    }
    return true;
}

bool config_only_false(const struct json *j, const char *key, struct err *e)
{
    const jval root = json_root(j);
    bool flag;
    if (!config_is_given(root, key))
        return true;
    return json_want_bool(j, root, key, &flag, e) &&
           (!flag || json_err(j, root, key, e, "only false is supported, found true"));
}

bool config_only_int(const struct json *j, const char *key, int64_t only, const char *expected, struct err *e)
{
    const jval root = json_root(j);
    int64_t found;
    if (!config_is_given(root, key))
        return true;
    return json_want_int(j, root, key, 1, 1 << 20, &found, e) &&
           (found == only || json_err(j, root, key, e, "%s, found %lld", expected, (long long)found));
}

bool config_no_dropout(const struct json *j, struct err *e)
{
    const jval root = json_root(j);
    double number;
    if (!config_is_given(root, "attention_dropout"))
        return true;
    return json_want_number(j, root, "attention_dropout", &number, e) &&
           (number == 0 ||
            json_err(j, root, "attention_dropout", e, "only 0 is supported, found %g", number));
}

bool config_only_silu(const struct json *j, struct err *e)
{
    const jval root = json_root(j);
    const char *text;
    return json_want_string(j, root, "hidden_act", &text, e) &&
           (strcmp(text, "silu") == 0 ||
            json_err(j, root, "hidden_act", e, "only \"silu\" is supported, found \"%s\"", text));
}

bool config_read_sizes(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    const int64_t top = 1 << 24;
    return json_want_int(j, root, "vocab_size", 2, INT32_MAX, &m->vocab, e) &&
           json_want_int(j, root, "hidden_size", 1, top, &m->width, e) &&
           json_want_int(j, root, "num_hidden_layers", 1, 10000, &m->layers, e) &&
           json_want_int(j, root, "num_attention_heads", 1, 1 << 16, &m->heads, e) &&
           json_want_int(j, root, "intermediate_size", 1, top, &m->dense_width, e) &&
           json_want_int(j, root, "max_position_embeddings", 1, INT32_MAX, &m->max_positions, e) &&
           json_want_number(j, root, "rms_norm_eps", &m->norm_eps, e) &&
           (m->norm_eps > 0 || json_err(j, root, "rms_norm_eps", e, "expected a positive number")) &&
           json_want_number(j, root, "initializer_range", &m->initializer_range, e) &&
           json_want_bool(j, root, "tie_word_embeddings", &m->tied, e);
}

bool config_read_theta(const struct json *j, jval object, struct model_config *m, struct err *e)
{
    return json_want_number(j, object, "rope_theta", &m->rope_theta, e) &&
           ((m->rope_theta > 1 && m->rope_theta < 1e12) ||
            json_err(j, object, "rope_theta", e, "expected a number in (1, 1e12), found %g", m->rope_theta));
}

bool config_read_ids(const struct json *j, struct model_config *m, struct err *e)
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
    const char *key = config_is_given(root, "torch_dtype") ? "torch_dtype" : "dtype", *text = "float32";
    if (config_is_given(root, key) && !json_want_string(j, root, key, &text, e))
        return false;
    m->stored = strcmp(text, "bfloat16") == 0 ? BF16 : strcmp(text, "float16") == 0 ? F16 : F32;
    return m->stored != F32 || strcmp(text, "float32") == 0 ||
           json_err(j, root, key, e, "supported: float32, bfloat16, float16; found \"%s\"", text);
}

static bool read_root(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    const char *type;
    *m = (struct model_config){ 0 };
    if (json_type(root) != JSON_OBJECT)
        return json_err(j, root, "", e, "expected an object, found %s", json_type_name(json_type(root)));
    if (!json_want_string(j, root, "model_type", &type, e))
        return false;
    m->family = model_family_find(type);
    if (m->family)
        return m->family->read(j, m, e);
    struct arena *a = arena_new("families");
    json_err(j, root, "model_type", e, "supported: %s; found \"%s\"", model_family_names(a), type);
    arena_free(a);
    return false;
}

bool model_config_parse(const char *text, size_t bytes, const char *path, struct model_config *m,
                        struct err *e)
{
    struct json *j = json_parse(text, bytes, path, e);
    if (!j)
        return false;
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
    const bool ok = read_root(j, m, e);
    json_free(j);
    return ok;
}
