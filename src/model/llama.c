/* llama.c - Llama (arXiv 2302.13971, 2307.09288, 2407.21783), layer by layer; names are those of the checkpoint. Trap
 * list: rope turns the pairs (i, i + h/2) of a head, and a head of keys and values serves consecutive query heads. */
#include "base/hash.h"
#include "base/str.h"
#include "model/build.h"
#include "model/config_read.h"

static const char *const honoured[] = {
    "vocab_size",          "hidden_size",         "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size",   "hidden_act",          "rms_norm_eps",
    "rope_theta",          "rope_scaling",        "rope_parameters",
    "attention_bias",      "attention_dropout",   "mlp_bias",
    "tie_word_embeddings", "initializer_range",   "max_position_embeddings",
    "bos_token_id",        "eos_token_id",        "pretraining_tp",
};

static bool read_heads(const struct json *j, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    if (!json_want_int(j, root, "num_key_value_heads", 1, m->heads, &m->kv_heads, e))
        return false;
    if (m->heads % m->kv_heads)
        return json_err(j, root, "num_key_value_heads", e, "must divide num_attention_heads (%lld)",
                        (long long)m->heads);
    if (config_is_given(root, "head_dim")) {
        if (!json_want_int(j, root, "head_dim", 2, 1 << 16, &m->rope_width, e))
            return false;
    } else if (m->width % m->heads) {
        return json_err(j, root, "num_attention_heads", e, "must divide hidden_size (%lld) without head_dim",
                        (long long)m->width);
    } else {
        m->rope_width = m->width / m->heads;
    }
    m->v_width = m->rope_width;
    return m->rope_width % 2 == 0 ||
           json_err(j, root, "head_dim", e, "must be even, found %lld", (long long)m->rope_width);
}

/* r: the object rope_scaling (or rope_parameters) of type llama3 */
static bool read_llama3(const struct json *j, jval r, struct model_config *m, struct err *e)
{
    struct rope_scaling *s = &m->rope;
    if (!json_want_number(j, r, "factor", &s->factor, e) ||
        !json_want_number(j, r, "low_freq_factor", &s->low_factor, e) ||
        !json_want_number(j, r, "high_freq_factor", &s->high_factor, e) ||
        !json_want_int(j, r, "original_max_position_embeddings", 1, INT32_MAX, &s->original_positions, e))
        return false;
    if (!(s->factor >= 1 && s->factor < 1e9))
        return json_err(j, r, "factor", e, "expected a number of at least 1, found %g", s->factor);
    return (s->low_factor > 0 && s->high_factor > s->low_factor && s->high_factor < 1e9) ||
           json_err(j, r, "high_freq_factor", e, "expected high_freq_factor > low_freq_factor > 0");
}

/* In the object r, beside it, or the same in both. */
static bool read_theta(const struct json *j, jval r, struct model_config *m, struct err *e)
{
    const jval root = json_root(j);
    if (!config_is_given(r, "rope_theta"))
        return config_read_theta(j, root, m, e);
    if (!config_read_theta(j, r, m, e))
        return false;
    const double theta = m->rope_theta;
    return !config_is_given(root, "rope_theta") ||
           (config_read_theta(j, root, m, e) &&
            (m->rope_theta == theta ||
             json_err(j, root, "rope_theta", e, "found %g here and %g in another place", m->rope_theta,
                      theta)));
}

/* rope_theta and rope_scaling, or both in rope_parameters, as newer files have it */
static bool read_rope(const struct json *j, struct model_config *m, struct err *e)
{
    static const char *const keys[] = { "type",
                                        "rope_type",
                                        "factor",
                                        "low_freq_factor",
                                        "high_freq_factor",
                                        "original_max_position_embeddings",
                                        "rope_theta" };
    const jval root = json_root(j);
    if (config_is_given(root, "rope_parameters") && config_is_given(root, "rope_scaling"))
        return json_err(j, root, "rope_scaling", e, "found beside rope_parameters, expected one of the two");
    const char *name = config_is_given(root, "rope_parameters") ? "rope_parameters" : "rope_scaling", *type;
    jval r = root;
    if (config_is_given(root, name) && !json_want_object(j, root, name, &r, e))
        return false;
    if (!read_theta(j, r, m, e))
        return false;
    if (!config_is_given(root, name))
        return true;
    for (int64_t i = 0; i < json_count(r); i++) {
        const char *key;
        json_entry(r, i, &key);
        if (!config_listed(keys, sizeof keys / sizeof *keys, key))
            return json_err(j, r, key, e, "unknown field of %s", name);
    }
    if (!json_want_string(j, r, config_is_given(r, "rope_type") ? "rope_type" : "type", &type, e))
        return false;
    if (strcmp(type, "default") == 0)
        return true;
    return strcmp(type, "llama3") == 0
               ? read_llama3(j, r, m, e)
               : json_err(j, root, name, e,
                          "only type \"llama3\" or \"default\" (or null) is supported, found \"%s\"", type);
}

static void fingerprint(struct model_config *m)
{
    char text[512];
    const int n = snprintf(text, sizeof text,
                           "llama %lld %lld %lld %lld %lld %lld %lld %d %.17g %.17g %.17g %.17g %.17g %lld",
                           (long long)m->vocab, (long long)m->width, (long long)m->layers,
                           (long long)m->heads, (long long)m->kv_heads, (long long)m->rope_width,
                           (long long)m->dense_width, m->tied, m->norm_eps, m->rope_theta, m->rope.factor,
                           m->rope.low_factor, m->rope.high_factor, (long long)m->rope.original_positions);
    hash_hex(hash_bytes(text, (size_t)n), m->fingerprint);
}

static bool read(const struct json *j, struct model_config *m, struct err *e)
{
    const bool ok = config_check_known(j, honoured, sizeof honoured / sizeof *honoured, e) &&
                    config_read_sizes(j, m, e) && read_heads(j, m, e) && read_rope(j, m, e) &&
                    config_only_false(j, "attention_bias", e) && config_only_false(j, "mlp_bias", e) &&
                    config_no_dropout(j, e) &&
                    config_only_int(j, "pretraining_tp", 1, "only 1 is supported", e) &&
                    config_only_silu(j, e) && config_read_ids(j, m, e);
    if (ok)
        fingerprint(m);
    return ok;
}

static value rotate(struct build *b, value x, const char *name)
{
    return op(b, rope_half, name, in(x, b->table), (double)b->m->rope_width);
}

/* Grouped queries (arXiv 2305.13245). x: [B S D] */
static value attention(struct build *b, int64_t layer, value x)
{
    (void)layer;
    const int64_t h = b->m->rope_width, groups = b->m->kv_heads, ratio = b->m->heads / groups;
    value q = linear(b, x, "self_attn.q_proj", b->m->heads * h); /* [B S G*M*h] */
    value k = linear(b, x, "self_attn.k_proj", groups * h);      /* [B S G*h] */
    const value v = linear(b, x, "self_attn.v_proj", groups * h);
    q = rotate(b, q, "self_attn.rope_q");
    k = rotate(b, k, "self_attn.rope_k");
    const value o = op(b, attention_gqa, "self_attn.attention", in(q, k, v), (double)(ratio * h), (double)h,
                       (double)ratio, b->scale);
    return linear(b, o, "self_attn.o_proj", b->m->width);
}

static value feed_forward(struct build *b, int64_t layer, value x)
{
    (void)layer;
    return mlp(b, x, "mlp", b->m->dense_width);
}

static struct graph *graph(struct arena *a, const struct model_config *m, const struct model_options *o,
                           struct model_values *v)
{
    return build_decoder(a, m, o, v, 1 / sqrt((double)m->rope_width), attention, feed_forward);
}

static double active(const struct model_config *m, int64_t layer)
{
    (void)layer;
    return (double)m->width * (double)(2 * (m->heads + m->kv_heads) * m->rope_width + 3 * m->dense_width);
}

static void describe(const struct model_config *m, struct str *out)
{
    str_addf(out,
             "  Llama: %lld layers, width %lld, %lld heads of %lld, %lld of keys and values, MLP %lld, "
             "vocabulary %lld\n",
             (long long)m->layers, (long long)m->width, (long long)m->heads, (long long)m->rope_width,
             (long long)m->kv_heads, (long long)m->dense_width, (long long)m->vocab);
}

const struct model_family model_llama = { "llama", read, graph, active, describe };
