/* bpe_pipeline.c - "normalizer", "pre_tokenizer" and "decoder" of tokenizer.json. "post_processor", "truncation"
 * and "padding" change nothing here: BOS and EOS are added by the callers, texts are never cut. */
#include "data/bpe_impl.h"
#include <string.h>
enum { MOST_NESTING = 8 };
struct reader {
    struct bpe *t;
    const struct json *j;
    struct err *e;
    bool byte_level; /* the last stage has been read */
};

static bool is_type(jval v, const char *type)
{
    jval x = json_get(v, "type");
    return json_type(x) == JSON_STRING && strcmp(json_string(x, NULL), type) == 0;
}

static bool unsupported(struct reader *r, jval v, const char *where, const char *supported)
{
    const char *type;
    if (json_type(v) != JSON_OBJECT)
        return err_set(r->e, "%s: %s: expected an object with a type, found %s", r->t->path, where,
                       json_type_name(json_type(v)));
    if (!json_want_string(r->j, v, "type", &type, r->e))
        return false;
    return json_err(r->j, v, "type", r->e, "%s \"%.60s\" is not supported, expected %s", where, type,
                    supported);
}

static bool read_normalizer(struct reader *r, jval v, int depth)
{
    jval list;
    if (json_type(v) == JSON_ABSENT || json_type(v) == JSON_NULL)
        return true;
    if (is_type(v, "NFC")) {
        r->t->nfc = true;
        return true;
    }
    if (!is_type(v, "Sequence") || depth > MOST_NESTING)
        return unsupported(r, v, "normalizer", "null, NFC or a Sequence of them");
    if (!json_want_array(r->j, v, "normalizers", &list, r->e))
        return false;
    for (int64_t i = 0; i < json_count(list); i++)
        if (!read_normalizer(r, json_at(list, i), depth + 1))
            return false;
    return true;
}

/* The next stage, or NULL with an error. */
static struct stage *new_stage(struct reader *r, jval v)
{
    struct split *s = &r->t->split;
    if (r->byte_level)
        json_err(r->j, v, "type", r->e, "pre_tokenizer: nothing is supported behind ByteLevel");
    else if (s->n_stages == MOST_STAGES)
        json_err(r->j, v, "type", r->e, "pre_tokenizer: more than %d steps are not supported", MOST_STAGES);
    else
        return s->stage + s->n_stages++;
    return NULL;
}

static bool parse_pattern(struct reader *r, jval object, const char *key, const char *text, size_t bytes,
                          struct stage *s)
{
    struct err inner = { 0 };
    s->pattern = rx_parse(r->t->arena, text, bytes, &inner);
    return s->pattern || json_err(r->j, object, key, r->e, "pre_tokenizer: %s", inner.text);
}

static bool read_behavior(struct reader *r, jval v, struct stage *s)
{
    static const char *const names[] = { "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                         "Contiguous" };
    const char *name;
    if (!json_want_string(r->j, v, "behavior", &name, r->e))
        return false;
    for (int i = 0; i < 5; i++)
        if (strcmp(name, names[i]) == 0) {
            s->behavior = (enum behavior)i;
            return true;
        }
    return json_err(r->j, v, "behavior", r->e, "pre_tokenizer: unknown behavior \"%.60s\"", name);
}

static bool read_split(struct reader *r, jval v)
{
    jval pattern;
    size_t bytes;
    struct stage *s = new_stage(r, v);
    if (!s || !read_behavior(r, v, s) || !json_want_bool(r->j, v, "invert", &s->invert, r->e) ||
        !json_want_object(r->j, v, "pattern", &pattern, r->e))
        return false;
    jval literal = json_get(pattern, "String"), regex = json_get(pattern, "Regex");
    if (json_type(regex) == JSON_STRING) {
        const char *text = json_string(regex, &bytes);
        return parse_pattern(r, pattern, "Regex", text, bytes, s);
    }
    if (json_type(literal) != JSON_STRING)
        return json_err(r->j, v, "pattern", r->e, "expected {\"String\": text} or {\"Regex\": pattern}");
    const char *text = json_string(literal, &bytes);
    if (bytes > 1000)
        return json_err(r->j, pattern, "String", r->e,
                        "pre_tokenizer: more than 1000 bytes are not supported");
    s->pattern = rx_literal(r->t->arena, text, bytes);
    return true;
}

/* Groups of digits are what "one or more digits" isolates. */
static bool read_digits(struct reader *r, jval v)
{
    bool individual;
    struct stage *s = new_stage(r, v);
    if (!s || !json_want_bool(r->j, v, "individual_digits", &individual, r->e))
        return false;
    const struct charset *digits = rx_property(r->t->arena, "rust_numeric", r->e);
    if (!digits)
        return false;
    struct rx *one = ARENA_NEW(r->t->arena, struct rx, 2);
    one[0] = (struct rx){ .kind = RX_SET, .set = digits };
    one[1] = (struct rx){ .kind = RX_REPEAT, .child = one, .min = 1, .max = individual ? 1 : -1 };
    s->pattern = one + 1;
    return true;
}

static bool read_byte_level(struct reader *r, jval v)
{
    static const char words[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    bool use_regex = true;
    struct stage *s = new_stage(r, v);
    if (!s || !json_want_bool(r->j, v, "add_prefix_space", &s->add_prefix_space, r->e))
        return false;
    if (json_type(json_get(v, "use_regex")) != JSON_ABSENT &&
        !json_want_bool(r->j, v, "use_regex", &use_regex, r->e))
        return false;
    r->byte_level = true;
    return !use_regex || parse_pattern(r, v, "use_regex", words, sizeof words - 1, s);
}

static bool read_pre_tokenizer(struct reader *r, jval v, int depth)
{
    jval list;
    if (is_type(v, "Split"))
        return read_split(r, v);
    if (is_type(v, "Digits"))
        return read_digits(r, v);
    if (is_type(v, "ByteLevel"))
        return read_byte_level(r, v);
    if (!is_type(v, "Sequence") || depth > MOST_NESTING)
        return unsupported(r, v, "pre_tokenizer", "Sequence, Split, Digits or ByteLevel");
    if (!json_want_array(r->j, v, "pretokenizers", &list, r->e))
        return false;
    for (int64_t i = 0; i < json_count(list); i++)
        if (!read_pre_tokenizer(r, json_at(list, i), depth + 1))
            return false;
    return true;
}

/* Only decoding needs it, so that a decoder that is not supported is an error there. */
static const char *decoder_problem(jval v)
{
    jval list = json_get(v, "decoders");
    if (json_type(v) == JSON_ABSENT || json_type(v) == JSON_NULL || is_type(v, "ByteLevel"))
        return NULL;
    if (is_type(v, "Sequence") && json_count(list) == 1 && is_type(json_at(list, 0), "ByteLevel"))
        return NULL;
    return "the decoder is not supported, expected ByteLevel";
}

bool bpe_read_pipeline(struct bpe *t, const struct json *j, jval root, struct err *e)
{
    struct reader r = { t, j, e, false };
    struct err inner = { 0 };
    jval steps = json_get(root, "pre_tokenizer");
    const bool none = json_type(steps) == JSON_ABSENT || json_type(steps) == JSON_NULL;
    if (!read_normalizer(&r, json_get(root, "normalizer"), 0) || (!none && !read_pre_tokenizer(&r, steps, 0)))
        return false;
    if (!r.byte_level)
        return json_err(j, root, "pre_tokenizer", e,
                        "only byte-level BPE is supported: ByteLevel is missing");
    if (!split_compile(t->arena, &t->split, &inner))
        return json_err(j, root, "pre_tokenizer", e, "%s", inner.text);
    t->decoder_problem = decoder_problem(json_get(root, "decoder"));
    return true;
}
