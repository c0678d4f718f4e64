/* bpe.c - opening a tokenizer directory; what does not depend on the text. */
#include "base/file.h"
#include "base/hash.h"
#include "base/str.h"
#include "data/bpe_impl.h"
#include <string.h>
static const size_t most_file_bytes = (size_t)1 << 28;

static void hash_text_field(struct hash_state *h, const char *text, int64_t bytes)
{
    hash_add(h, &bytes, sizeof bytes);
    if (bytes)
        hash_add(h, text, (size_t)bytes);
}

static void hash_pattern(struct hash_state *h, const struct rx *x)
{
    const int32_t node[] = { (int32_t)x->kind, x->min,      x->max,      (int32_t)x->greed,
                             x->behind,        x->negative, x->assertion };
    hash_add(h, node, sizeof node);
    if (x->set)
        hash_text_field(h, (const char *)x->set->range, x->set->n * (int64_t)sizeof(struct range));
    for (const struct rx *c = x->child; c; c = c->next)
        hash_pattern(h, c);
    hash_add(h, ")", 1);
}

static void hash_stages(struct hash_state *h, const struct split *s)
{
    for (int i = 0; i < s->n_stages; i++) {
        const struct stage *g = s->stage + i;
        const int32_t head[] = { (int32_t)g->behavior, g->invert, g->add_prefix_space, g->pattern != NULL };
        hash_add(h, head, sizeof head);
        if (g->pattern)
            hash_pattern(h, g->pattern);
    }
}

static void hash_added(struct hash_state *h, const struct added_list *l)
{
    for (int32_t i = 0; i < l->lexicon.n; i++) {
        const struct added *x = l->item + l->lexicon.entry[i].value;
        const int32_t flags[] = { x->id, x->single_word, x->lstrip, x->rstrip, x->normalized };
        hash_add(h, flags, sizeof flags);
        hash_text_field(h, x->text, x->bytes);
    }
}

/* Merges in an order that does not depend on the table: the sum of their hashes. */
static uint64_t hash_merges(const struct merges *m)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < m->n_slots; i++)
        if (m->slot[i].pair != EMPTY_PAIR)
            sum += hash_bytes(m->slot + i, sizeof m->slot[i]);
    return sum;
}

static void make_fingerprint(struct bpe *t)
{
    struct hash_state *h = hash_begin();
    const int64_t head[] = { 1, t->n_ids, t->ignore_merges, t->nfc, t->bos, t->eos };
    hash_add(h, head, sizeof head);
    for (int64_t i = 0; i < t->n_ids; i++)
        hash_text_field(h, t->token[i].text, t->token[i].text ? t->token[i].bytes : -1);
    const uint64_t merges = hash_merges(&t->merges);
    hash_add(h, &merges, sizeof merges);
    hash_stages(h, &t->split);
    hash_added(h, &t->raw);
    hash_added(h, &t->normalized);
    hash_hex(hash_end(h), t->fingerprint);
}

static bool read_all(struct bpe *t, const char *dir, struct err *e)
{
    struct json *j = json_read(t->path, most_file_bytes, e);
    if (!j)
        return false;
    jval root = json_root(j);
    bool ok = json_type(root) == JSON_OBJECT ||
              err_set(e, "%s: expected an object, found %s", t->path, json_type_name(json_type(root)));
    ok = ok && bpe_check_model_type(j, root, e) && bpe_read_pipeline(t, j, root, e) &&
         bpe_read_model(t, j, root, e) && bpe_read_added(t, j, root, e);
    json_free(j);
    return ok && bpe_read_specials(t, dir, e);
}

struct bpe *bpe_open(const char *dir, struct err *e)
{
    struct arena *a = arena_new("tokenizer");
    struct bpe *t = ARENA_NEW(a, struct bpe, 1);
    t->arena = a;
    t->bos = t->eos = -1;
    const char *slash = strrchr(dir, '/');
    const bool is_dir = file_is_dir(dir);
    t->path = is_dir ? arena_printf(a, "%s/tokenizer.json", dir) : arena_strdup(a, dir);
    const char *folder = is_dir ? dir : slash ? arena_strndup(a, dir, (size_t)(slash - dir)) : ".";
    if (!read_all(t, *folder ? folder : "/", e)) {
        bpe_close(t);
        return NULL;
    }
    make_fingerprint(t);
    return t;
}

void bpe_close(struct bpe *t)
{
    if (!t)
        return;
    split_free(&t->split);
    arena_free(t->arena);
}

int64_t bpe_vocab_size(const struct bpe *t)
{
    return t->n_ids;
}

int32_t bpe_bos(const struct bpe *t)
{
    return t->bos;
}

int32_t bpe_eos(const struct bpe *t)
{
    return t->eos;
}

const char *bpe_fingerprint(const struct bpe *t)
{
    return t->fingerprint;
}

int32_t bpe_token_bytes(const struct bpe *t, int32_t id)
{
    return id >= 0 && id < t->n_ids && t->token[id].text ? t->token[id].bytes : 0;
}

bool bpe_is_special(const struct bpe *t, int32_t id)
{
    return id >= 0 && id < t->n_ids && t->token[id].special;
}

char *bpe_decode(const struct bpe *t, struct arena *a, const int32_t *ids, int64_t n, bool skip_special,
                 size_t *bytes)
{
    *bytes = 0;
    for (int64_t i = 0; i < n; i++)
        *bytes += (size_t)bpe_token_bytes(t, ids[i]);
    char *text = arena_alloc(a, *bytes + 1), *p = text;
    for (int64_t i = 0; i < n; i++) {
        const size_t m = (size_t)bpe_token_bytes(t, ids[i]);
        if (m == 0 || (skip_special && bpe_is_special(t, ids[i])))
            continue;
        memcpy(p, t->token[ids[i]].text, m);
        p += m;
    }
    *bytes = (size_t)(p - text);
    return text;
}

const char *bpe_decoder_problem(const struct bpe *t)
{
    return t->decoder_problem;
}

/* --- BOS and EOS --- */
/* A token is a string, or an object with its content; null and absent are no token. */
static const char *special_text(const struct json *j, const char *key)
{
    jval v = json_get(json_root(j), key);
    if (json_type(v) == JSON_OBJECT)
        v = json_get(v, "content");
    return json_type(v) == JSON_STRING ? json_string(v, NULL) : NULL;
}

static bool read_special(struct bpe *t, const struct json *j, const char *key, int32_t *id, struct err *e)
{
    const char *text = special_text(j, key);
    if (!text || *id >= 0)
        return true;
    *id = bpe_token_id(t, text);
    return *id >= 0 || json_err(j, json_root(j), key, e, "\"%.60s\" is not in %s", text, t->path);
}

bool bpe_read_specials(struct bpe *t, const char *dir, struct err *e)
{
    static const char *const files[] = { "tokenizer_config.json", "special_tokens_map.json" };
    for (int i = 0; i < 2; i++) {
        const char *path = arena_printf(t->arena, "%s/%s", dir, files[i]);
        if (!file_exists(path))
            continue;
        struct json *j = json_read(path, most_file_bytes, e);
        const bool ok =
            j && read_special(t, j, "bos_token", &t->bos, e) && read_special(t, j, "eos_token", &t->eos, e);
        json_free(j);
        if (!ok)
            return false;
    }
    return true;
}
