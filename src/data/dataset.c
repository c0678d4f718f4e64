/* dataset.c - see dataset.h. */
#include "data/dataset.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/rng.h"
#include "data/bpe.h"
#include "data/dataset_impl.h"
#include <stdio.h>
#include <string.h>

struct opened { /* what only inspect needs */
    struct json *json;
    char tokens_hash[17], documents_hash[17];
};

static bool want_hash(const struct json *j, const char *key, char out[17], struct err *e)
{
    const char *text;
    if (!json_want_string(j, json_root(j), key, &text, e))
        return false;
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return json_err(j, json_root(j), key, e, "expected 16 hex digits, found \"%s\"", text);
    memcpy(out, text, 17);
    return true;
}

static bool read_description(struct arena *a, const struct json *j, struct dataset *d, struct opened *o,
                             struct err *e)
{
    const jval r = json_root(j);
    const int64_t top = (int64_t)1 << 48;
    const char *tokenizer;
    int64_t version, bos, eos;
    if (json_type(r) != JSON_OBJECT)
        return json_err(j, r, "", e, "expected an object, found %s", json_type_name(json_type(r)));
    if (!json_want_int(j, r, "version", 0, INT32_MAX, &version, e))
        return false;
    if (version != DATASET_VERSION)
        return json_err(j, r, "version", e,
                        "this program reads version %d, found %lld; prepare the text again", DATASET_VERSION,
                        (long long)version);
    if (!json_want_int(j, r, "sequence_length", 2, 1 << 24, &d->sequence_length, e) ||
        !json_want_int(j, r, "sequences", 1, top, &d->n_sequences, e) ||
        !json_want_int(j, r, "documents", 0, top, &d->n_documents, e) ||
        !json_want_int(j, r, "text_bytes", 0, top, &d->n_bytes, e) ||
        !json_want_int(j, r, "tokens", 1, top, &d->n_tokens, e) ||
        !json_want_int(j, r, "vocab_size", 1, INT32_MAX, &d->vocab_size, e) ||
        !json_want_int(j, r, "bos", 0, d->vocab_size - 1, &bos, e) ||
        !json_want_int(j, r, "eos", 0, d->vocab_size - 1, &eos, e) ||
        !json_want_string(j, r, "tokenizer", &tokenizer, e) ||
        !want_hash(j, "tokenizer_fingerprint", d->tokenizer_fingerprint, e) ||
        !want_hash(j, "fingerprint", d->fingerprint, e) || !want_hash(j, "tokens_xxh3", o->tokens_hash, e) ||
        !want_hash(j, "documents_xxh3", o->documents_hash, e))
        return false;
    if (d->n_tokens / d->sequence_length != d->n_sequences)
        return json_err(j, r, "sequences", e, "%lld tokens make %lld sequences of %lld, found %lld",
                        (long long)d->n_tokens, (long long)(d->n_tokens / d->sequence_length),
                        (long long)d->sequence_length, (long long)d->n_sequences);
    d->bos = (int32_t)bos;
    d->eos = (int32_t)eos;
    d->tokenizer_dir = arena_strdup(a, tokenizer);
    return true;
}

/* Maps a file of the dataset and compares bytes and, unless quick, its checksum. */
static bool map_part(struct arena *a, const char *path, int64_t bytes, const char *hash, bool quick,
                     struct map *m, struct err *e)
{
    char found[17];
    if (!file_map(a, path, m, e))
        return false;
    if ((int64_t)m->bytes != bytes) {
        file_unmap(m);
        return err_code(e, EXIT_CORRUPT, "%s: %lld bytes, dataset.json says %lld", path, (long long)m->bytes,
                        (long long)bytes);
    }
    if (quick)
        return true;
    hash_hex(hash_bytes(m->data, m->bytes), found);
    if (strcmp(found, hash) == 0)
        return true;
    file_unmap(m);
    return err_code(e, EXIT_CORRUPT, "%s: checksum %s, dataset.json says %s", path, found, hash);
}

static bool check_ids(const struct dataset *d, const int32_t *ids, struct err *e)
{
    for (int64_t i = 0; i < d->n_sequences * d->sequence_length; i++)
        if (ids[i] < 0 || ids[i] >= d->vocab_size)
            return err_code(e, EXIT_CORRUPT, "%s/tokens.bin: token %lld is %d, vocab_size is %lld", d->path,
                            (long long)i, ids[i], (long long)d->vocab_size);
    return true;
}

static bool open_with(struct arena *a, const char *path, bool quick, struct dataset *d, struct opened *o,
                      struct err *e)
{
    struct map m;
    *d = (struct dataset){ .path = arena_strdup(a, path) };
    const char *json = arena_printf(a, "%s/dataset.json", path);
    if (!file_exists(json))
        return err_set(e, "%s: not a dataset (no dataset.json); `moec prepare` makes one", path);
    o->json = json_read(json, (size_t)1 << 32, e);
    if (!o->json)
        return false;
    if (!read_description(a, o->json, d, o, e) ||
        !map_part(a, arena_printf(a, "%s/tokens.bin", path),
                  d->n_sequences * d->sequence_length * (int64_t)sizeof(int32_t), o->tokens_hash, quick, &m,
                  e)) {
        json_free(o->json);
        return false;
    }
    CHECK(m.data, "%s: at least one sequence was checked above", path);
    d->tokens = (const int32_t *)(const void *)m.data;
    if (quick || check_ids(d, (const int32_t *)(const void *)m.data, e))
        return true;
    json_free(o->json);
    dataset_close(d);
    return false;
}

bool dataset_open(struct arena *a, const char *path, bool quick, struct dataset *d, struct err *e)
{
    struct opened o = { 0 };
    if (!open_with(a, path, quick, d, &o, e))
        return false;
    json_free(o.json);
    return true;
}

void dataset_close(struct dataset *d)
{
    struct map m = { .data = (const unsigned char *)d->tokens,
                     .bytes = (size_t)(d->n_sequences * d->sequence_length) * sizeof(int32_t) };
    if (d->tokens)
        file_unmap(&m);
    d->tokens = NULL;
}

void dataset_order(int64_t seed, int64_t epoch, int64_t n, int64_t *order)
{
    rng_permutation((uint32_t)(seed + epoch), n, order);
}

void dataset_print(const struct dataset *d)
{
    printf("%s: dataset, fingerprint %s\n", d->path, d->fingerprint);
    printf("  %lld sequences of %lld tokens, vocabulary %lld, BOS %d, EOS %d\n", (long long)d->n_sequences,
           (long long)d->sequence_length, (long long)d->vocab_size, d->bos, d->eos);
    printf("  %lld documents, %lld bytes of text, %lld tokens, %.3f bytes per token\n",
           (long long)d->n_documents, (long long)d->n_bytes, (long long)d->n_tokens,
           (double)d->n_bytes / (double)d->n_tokens);
    printf("  tokenizer %s, fingerprint %s\n", d->tokenizer_dir, d->tokenizer_fingerprint);
}

static void print_ids(const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        printf("%d%c", ids[i], i + 1 < n ? ' ' : '\n');
}

/* The tokenizer that made the dataset; NULL on error. */
static struct bpe *open_tokenizer(const struct dataset *d, struct err *e)
{
    struct bpe *t = bpe_open(d->tokenizer_dir, e);
    if (!t || strcmp(bpe_fingerprint(t), d->tokenizer_fingerprint) == 0)
        return t;
    err_code(e, EXIT_MISMATCH, "%s: fingerprint %s, the dataset was made with %s", d->tokenizer_dir,
             bpe_fingerprint(t), d->tokenizer_fingerprint);
    bpe_close(t);
    return NULL;
}

static void print_text(struct arena *a, const struct dataset *d, const struct bpe *t, const int32_t *ids)
{
    size_t bytes;
    const char *text = bpe_decode(t, a, ids, d->sequence_length, false, &bytes);
    fwrite(text, 1, bytes, stdout);
    putchar('\n');
}

/* Bytes of text in tokens [first, end), which hold no border of documents but a BOS at most. */
static int64_t count_text(const struct dataset *d, const struct bpe *t, int64_t first, int64_t end)
{
    int64_t bytes = 0;
    for (int64_t i = first; i < end; i++)
        bytes += d->tokens[i] == d->bos ? 0 : bpe_token_bytes(t, d->tokens[i]);
    return bytes;
}

/* Entries of documents.bin must ascend and point into what is there, whatever their checksum says. */
static bool check_documents(const struct dataset *d, const struct document *list, int64_t n_sources,
                            struct err *e)
{
    for (int64_t i = 0; i < d->n_documents; i++) {
        const int64_t least = i ? list[i - 1].token + 1 : 0;
        if (list[i].source < 0 || list[i].source >= n_sources || list[i].token < least ||
            list[i].token >= d->n_tokens || (i == 0 && list[i].token != 0))
            return err_code(e, EXIT_CORRUPT,
                            "%s/documents.bin: document %lld is of source %lld at token %lld", d->path,
                            (long long)i, (long long)list[i].source, (long long)list[i].token);
    }
    return true;
}

struct inspection {
    const struct dataset *d;
    const struct bpe *tokenizer;
    const struct json *json;
    const struct document *list;
    jval sources;
};

static bool print_document(const struct inspection *x, int64_t i, int64_t begin, int64_t end, struct err *e)
{
    const struct document *c = x->list + i;
    const int64_t last = i + 1 < x->d->n_documents ? c[1].token : x->d->n_tokens;
    const int64_t from = begin > c->token ? begin : c->token, to = end < last ? end : last;
    const char *path;
    if (!json_want_string(x->json, json_at(x->sources, c->source), "path", &path, e))
        return false;
    printf("  document %lld: %s, byte %lld, tokens %lld to %lld of its %lld, from byte %lld of its text on\n",
           (long long)i, path, (long long)c->offset, (long long)(from - c->token),
           (long long)(to - c->token) - 1, (long long)(last - c->token),
           (long long)count_text(x->d, x->tokenizer, c->token, from));
    return true;
}

/* Documents that have a token in [begin, end). */
static bool print_documents(const struct inspection *x, int64_t begin, int64_t end, struct err *e)
{
    int64_t low = 0, high = x->d->n_documents;
    while (high - low > 1) { /* the last document that begins at or before the sequence */
        const int64_t middle = (low + high) / 2;
        *(x->list[middle].token <= begin ? &low : &high) = middle;
    }
    for (int64_t i = low; i < x->d->n_documents && x->list[i].token < end; i++)
        if (!print_document(x, i, begin, end, e))
            return false;
    return true;
}

static bool print_sequence(struct arena *a, const struct inspection *x, int64_t sequence, struct err *e)
{
    const struct dataset *d = x->d;
    const int64_t S = d->sequence_length;
    printf("%s: %lld sequences of %lld, %lld documents, fingerprint %s\n", d->path, (long long)d->n_sequences,
           (long long)S, (long long)d->n_documents, d->fingerprint);
    printf("sequence %lld:\n", (long long)sequence);
    if (!print_documents(x, sequence * S, (sequence + 1) * S, e))
        return false;
    printf("ids:\n");
    print_ids(d->tokens + sequence * S, S);
    printf("text:\n");
    print_text(a, d, x->tokenizer, d->tokens + sequence * S);
    return true;
}

static bool inspect(struct arena *a, const struct dataset *d, const struct opened *o, int64_t sequence,
                    struct err *e)
{
    struct map m;
    struct inspection x = { .d = d, .json = o->json };
    if (sequence < 0 || sequence >= d->n_sequences)
        return err_code(e, EXIT_USAGE, "--sequence %lld: the dataset has %lld", (long long)sequence,
                        (long long)d->n_sequences);
    if (!json_want_array(o->json, json_root(o->json), "sources", &x.sources, e) ||
        !map_part(a, arena_printf(a, "%s/documents.bin", d->path),
                  d->n_documents * (int64_t)sizeof(struct document), o->documents_hash, false, &m, e))
        return false;
    x.list = (const struct document *)(const void *)m.data;
    struct bpe *t = check_documents(d, x.list, json_count(x.sources), e) ? open_tokenizer(d, e) : NULL;
    x.tokenizer = t;
    const bool ok = t && print_sequence(a, &x, sequence, e);
    bpe_close(t);
    file_unmap(&m);
    return ok;
}

bool dataset_inspect(const char *path, int64_t sequence, struct err *e)
{
    struct arena *a = arena_new("inspect");
    struct dataset d;
    struct opened o = { 0 };
    bool ok = open_with(a, path, true, &d, &o, e);
    if (ok) {
        ok = inspect(a, &d, &o, sequence, e);
        json_free(o.json);
        dataset_close(&d);
    }
    arena_free(a);
    return ok;
}
