/* bpe_read.c - "model" and "added_tokens" of tokenizer.json. */
#include "base/hash.h"
#include "data/bpe_impl.h"
#include "data/nfc.h"
#include <string.h>
static void names_make(struct arena *a, struct names *x, int64_t n)
{
    for (x->n_slots = 64; x->n_slots < 2 * n; x->n_slots *= 2)
        ;
    x->text = ARENA_NEW(a, const char *, x->n_slots);
    x->id = ARENA_NEW(a, int32_t, x->n_slots);
}

static int64_t names_slot(const struct names *x, const char *text)
{
    int64_t i = (int64_t)(hash_text(text) & (uint64_t)(x->n_slots - 1));
    while (x->text[i] && strcmp(x->text[i], text) != 0)
        i = (i + 1) & (x->n_slots - 1);
    return i;
}

static int32_t names_id(const struct names *x, const char *text)
{
    const int64_t i = names_slot(x, text);
    return x->text[i] ? x->id[i] : -1;
}

static void names_put(struct names *x, const char *text, int32_t id)
{
    const int64_t i = names_slot(x, text);
    x->text[i] = text;
    x->id[i] = id;
}

int32_t bpe_token_id(const struct bpe *t, const char *token)
{
    return names_id(&t->names, token);
}

static bool is_absent(jval v)
{
    return json_type(v) == JSON_ABSENT || json_type(v) == JSON_NULL;
}

/* null and "" do nothing; anything else changes the ids in a way that is not built. */
static bool want_no_text(const struct json *j, jval model, const char *key, struct err *e)
{
    size_t bytes;
    jval v = json_get(model, key);
    if (is_absent(v) || (json_type(v) == JSON_STRING && (json_string(v, &bytes), bytes == 0)))
        return true;
    return json_err(j, model, key, e, "is not supported, expected null");
}

static bool optional_bool(const struct json *j, jval object, const char *key, bool *out, struct err *e)
{
    *out = false;
    return is_absent(json_get(object, key)) || json_want_bool(j, object, key, out, e);
}

/* Files without a type are older than the key: those that have the parts of BPE are BPE. */
bool bpe_check_model_type(const struct json *j, jval root, struct err *e)
{
    const char *type;
    jval model, part;
    if (!json_want_object(j, root, "model", &model, e))
        return false;
    if (json_type(json_get(model, "type")) == JSON_ABSENT)
        return json_want_object(j, model, "vocab", &part, e) && json_want_array(j, model, "merges", &part, e);
    if (!json_want_string(j, model, "type", &type, e))
        return false;
    return strcmp(type, "BPE") == 0 ||
           json_err(j, model, "type", e, "model type \"%.60s\": only byte-level \"BPE\" is supported", type);
}

static bool check_model_flags(struct bpe *t, const struct json *j, jval model, struct err *e)
{
    double dropout = 0;
    if (!is_absent(json_get(model, "dropout")) && !json_want_number(j, model, "dropout", &dropout, e))
        return false;
    if (dropout != 0)
        return json_err(j, model, "dropout", e, "is not supported, expected null");
    return want_no_text(j, model, "continuing_subword_prefix", e) &&
           want_no_text(j, model, "end_of_word_suffix", e) &&
           optional_bool(j, model, "ignore_merges", &t->ignore_merges, e);
}

/* Gives the id its entry: `pool` gets the text and, behind it, the bytes. */
static void set_token(struct bpe *t, int64_t id, const char *text, char **pool)
{
    struct token *token = t->token + id;
    const size_t bytes = strlen(text);
    char *entry = memcpy(*pool, text, bytes + 1), *out = entry + bytes + 1;
    token->byte_level = byte_level_decode(out, &token->bytes, text, bytes);
    token->text = out;
    if (!token->byte_level) {
        token->text = entry;
        token->bytes = (int32_t)bytes;
    }
    *pool = out + bytes + 1;
    names_put(&t->names, entry, (int32_t)id);
    t->n_ids = id >= t->n_ids ? id + 1 : t->n_ids;
}

static bool read_entry(struct bpe *t, const char *key, jval value, char **pool, struct err *e)
{
    const int64_t id = json_type(value) == JSON_INT ? json_int(value) : -1;
    if (id < 0 || id >= MOST_IDS)
        return err_set(e, "%s: model.vocab[\"%.60s\"]: expected an id from 0 to %d", t->path, key,
                       MOST_IDS - 1);
    if (t->token[id].text)
        return err_set(e, "%s: model.vocab[\"%.60s\"]: id %lld has two tokens", t->path, key, (long long)id);
    set_token(t, id, key, pool);
    if (t->token[id].bytes > MOST_TOKEN_BYTES)
        return err_set(e, "%s: model.vocab[\"%.40s...\"]: longer than the %d bytes that are supported",
                       t->path, key, MOST_TOKEN_BYTES);
    return true;
}

/* Room for all entries: ids, names and a pool of text. */
static char *make_room(struct bpe *t, jval vocab, jval added)
{
    const char *key;
    int64_t most = 0;
    size_t text_bytes = 0;
    const int64_t n = json_count(vocab), n_added = json_count(added);
    for (int64_t i = 0; i < n; i++) {
        jval v = json_entry(vocab, i, &key);
        text_bytes += 2 * strlen(key) + 2;
        if (json_type(v) == JSON_INT && json_int(v) > most)
            most = json_int(v);
    }
    t->most_ids = (most < MOST_IDS ? most : MOST_IDS - 1) + 1 + n_added;
    t->token = ARENA_NEW(t->arena, struct token, t->most_ids);
    names_make(t->arena, &t->names, n + n_added + 1);
    return arena_alloc(t->arena, text_bytes);
}

static bool read_vocab(struct bpe *t, jval vocab, jval added, struct err *e)
{
    const char *key;
    char *pool = make_room(t, vocab, added);
    for (int64_t i = 0; i < json_count(vocab); i++) {
        jval v = json_entry(vocab, i, &key);
        if (!read_entry(t, key, v, &pool, e))
            return false;
    }
    t->n_entries = json_count(vocab);
    return true;
}

/* Both forms of a merge: "a b", and ["a", "b"]. The texts go to *left and *right, in the arena. */
static bool merge_texts(struct arena *a, jval v, const char **left, const char **right)
{
    if (json_type(v) == JSON_ARRAY && json_count(v) == 2) {
        jval l = json_at(v, 0), r = json_at(v, 1);
        if (json_type(l) != JSON_STRING || json_type(r) != JSON_STRING)
            return false;
        *left = json_string(l, NULL);
        *right = json_string(r, NULL);
        return true;
    }
    if (json_type(v) != JSON_STRING)
        return false;
    const char *text = json_string(v, NULL), *blank = strchr(text, ' ');
    if (!blank || strchr(blank + 1, ' '))
        return false;
    *left = arena_strndup(a, text, (size_t)(blank - text));
    *right = blank + 1;
    return true;
}

static bool read_merge(struct bpe *t, struct arena *a, jval v, int64_t rank, struct err *e)
{
    const char *left, *right;
    if (!merge_texts(a, v, &left, &right))
        return err_set(e, "%s: model.merges[%lld]: expected \"left right\" or [\"left\", \"right\"]", t->path,
                       (long long)rank);
    const char *both = arena_printf(a, "%s%s", left, right);
    const int32_t l = bpe_token_id(t, left), r = bpe_token_id(t, right), id = bpe_token_id(t, both);
    if (l < 0 || r < 0 || id < 0)
        return err_set(e, "%s: model.merges[%lld]: \"%.60s\" is not in model.vocab", t->path, (long long)rank,
                       l < 0   ? left
                       : r < 0 ? right
                               : both);
    merges_put(&t->merges, l, r, (int32_t)rank, id);
    return true;
}

static bool read_merges(struct bpe *t, jval merges, struct err *e)
{
    struct arena *a = arena_new("merges");
    const int64_t n = json_count(merges);
    bool ok = n < MOST_IDS || err_set(e, "%s: model.merges: too many", t->path);
    if (ok)
        merges_make(t->arena, &t->merges, n);
    for (int64_t i = 0; i < n && ok; i++) {
        const size_t mark = arena_mark(a);
        ok = read_merge(t, a, json_at(merges, i), i, e);
        arena_reset(a, mark);
    }
    arena_free(a);
    return ok;
}

/* Bytes without a token: harmless when UTF-8 never has them, and dropped in silence by Hugging Face's library
 * when the model has neither unk_token nor byte_fallback. */
static bool find_bytes(struct bpe *t, const struct json *j, jval model, struct err *e)
{
    bool fallback, complete = true;
    for (int b = 0; b < 256; b++) {
        char text[5] = { 0 };
        utf8_put(text, byte_level_character(b));
        t->byte_id[b] = bpe_token_id(t, text);
        complete = complete && (t->byte_id[b] >= 0 || b == 0xc0 || b == 0xc1 || b >= 0xf5);
    }
    if (!optional_bool(j, model, "byte_fallback", &fallback, e))
        return false;
    if (!complete && fallback)
        return json_err(j, model, "byte_fallback", e, "is not supported when model.vocab lacks bytes");
    if (!complete && !is_absent(json_get(model, "unk_token")))
        return json_err(j, model, "unk_token", e, "is not supported when model.vocab lacks bytes");
    return true;
}

static void make_lexicon(struct bpe *t)
{
    struct arena *a = arena_new("lexicon");
    struct entry *entries = ARENA_NEW(a, struct entry, t->n_ids);
    int64_t n = 0;
    for (int64_t i = 0; i < t->n_ids; i++)
        if (t->token[i].text && t->token[i].byte_level)
            entries[n++] = (struct entry){ t->token[i].text, t->token[i].bytes, (int32_t)i };
    lexicon_make(t->arena, entries, n, &t->lexicon);
    arena_free(a);
}

bool bpe_read_model(struct bpe *t, const struct json *j, jval root, struct err *e)
{
    jval model, vocab, merges;
    if (!json_want_object(j, root, "model", &model, e) || !check_model_flags(t, j, model, e) ||
        !json_want_object(j, model, "vocab", &vocab, e) || !json_want_array(j, model, "merges", &merges, e))
        return false;
    if (!read_vocab(t, vocab, json_get(root, "added_tokens"), e) || !read_merges(t, merges, e) ||
        !find_bytes(t, j, model, e))
        return false;
    make_lexicon(t);
    return true;
}

/* --- added_tokens --- */
/* The library does not read the id: it takes that of an equal entry, else the next free one. */
static bool check_id(const struct bpe *t, const char *text, int64_t id, int64_t next, int64_t i,
                     struct err *e)
{
    const int32_t known = bpe_token_id(t, text);
    const int64_t want = known >= 0 ? known : next;
    if (id == want && id < t->most_ids && (known >= 0 || !t->token[id].text))
        return true;
    return err_set(e,
                   "%s: added_tokens[%lld].id: %lld, but Hugging Face's library gives \"%.60s\" the id %lld",
                   t->path, (long long)i, (long long)id, text, (long long)want);
}

/* The text to look for, and the flags; lists which bytes follow others in it. */
static void keep_added(struct bpe *t, struct added *x, const char *text)
{
    struct buffer b = { 0 };
    if (x->normalized && t->nfc)
        nfc_append(&b, text, strlen(text));
    else
        buffer_add(&b, text, strlen(text));
    x->text = arena_strndup(t->arena, b.data, b.bytes);
    x->bytes = (int32_t)b.bytes;
    buffer_free(&b);
    if (x->single_word || x->lstrip || x->rstrip)
        t->may_divide = false;
    for (int32_t i = 1; i < x->bytes; i++)
        t->inside_added[(unsigned char)x->text[i]] = true;
}

static void set_added_token(struct bpe *t, int64_t id, const char *text, bool special)
{
    char *pool = arena_alloc(t->arena, 2 * strlen(text) + 2);
    if (!t->token[id].text) {
        set_token(t, id, text, &pool);
        t->token[id].byte_level = false; /* an added token is text, whatever its characters could stand for */
        t->token[id].text = t->names.text[names_slot(&t->names, text)];
        t->token[id].bytes = (int32_t)strlen(text);
    }
    t->token[id].special = t->token[id].special || special;
}

static bool read_added_token(struct bpe *t, const struct json *j, jval v, int64_t i, int64_t *next,
                             struct added *x, struct err *e)
{
    int64_t id;
    bool special;
    const char *text;
    if (json_type(v) != JSON_OBJECT)
        return err_set(e, "%s: added_tokens[%lld]: expected an object", t->path, (long long)i);
    if (!json_want_int(j, v, "id", 0, MOST_IDS - 1, &id, e) || !json_want_string(j, v, "content", &text, e) ||
        !json_want_bool(j, v, "single_word", &x->single_word, e) ||
        !json_want_bool(j, v, "lstrip", &x->lstrip, e) || !json_want_bool(j, v, "rstrip", &x->rstrip, e) ||
        !json_want_bool(j, v, "normalized", &x->normalized, e) ||
        !json_want_bool(j, v, "special", &special, e))
        return false;
    if (!*text || strlen(text) > MOST_TOKEN_BYTES)
        return json_err(j, v, "content", e, "expected 1 to %d bytes", MOST_TOKEN_BYTES);
    if (!check_id(t, text, id, *next, i, e))
        return false;
    *next = id >= *next ? id + 1 : *next;
    x->id = (int32_t)id;
    set_added_token(t, id, text, special);
    keep_added(t, x, text);
    return true;
}

static void make_list(struct bpe *t, const struct added *all, int64_t n, bool normalized,
                      struct added_list *out)
{
    struct arena *a = arena_new("added");
    struct entry *entries = ARENA_NEW(a, struct entry, n);
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++)
        if (all[i].normalized == normalized) {
            entries[m++] = (struct entry){ all[i].text, all[i].bytes, (int32_t)i };
            out->first[(unsigned char)all[i].text[0]] = true;
        }
    out->item = all;
    lexicon_make(t->arena, entries, m, &out->lexicon);
    arena_free(a);
}

bool bpe_read_added(struct bpe *t, const struct json *j, jval root, struct err *e)
{
    jval list = json_get(root, "added_tokens");
    if (!is_absent(list) && json_type(list) != JSON_ARRAY)
        return json_err(j, root, "added_tokens", e, "expected an array");
    const int64_t n = json_count(list);
    int64_t next = t->n_entries;
    struct added *all = ARENA_NEW(t->arena, struct added, n);
    t->may_divide = true;
    for (int64_t i = 0; i < n; i++)
        if (!read_added_token(t, j, json_at(list, i), i, &next, all + i, e))
            return false;
    if (!t->may_divide && (!(t->space = rx_property(t->arena, "White_Space", e)) ||
                           !(t->word = rx_property(t->arena, "rust_word", e))))
        return false;
    make_list(t, all, n, false, &t->raw);
    make_list(t, all, n, true, &t->normalized);
    return true;
}
