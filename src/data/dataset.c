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
    d->tokens = (const int32_t *)(const void *)m.data;
    for (int64_t i = 0; !quick && i < d->n_sequences * d->sequence_length; i++)
        if (d->tokens[i] < 0 || d->tokens[i] >= d->vocab_size) {
            json_free(o->json);
            dataset_close(d);
            return err_code(e, EXIT_CORRUPT, "%s/tokens.bin: token %lld is %d, vocab_size is %lld", path,
                            (long long)i, d->tokens[i], (long long)d->vocab_size);
        }
    return true;
}

bool dataset_open(struct arena *a, const char *path, bool quick, struct dataset *d, struct err *e)
{
    struct opened o;
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

static void print_ids(const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        printf("%d%c", ids[i], i + 1 < n ? ' ' : '\n');
}

static bool print_text(struct arena *a, const struct dataset *d, const int32_t *ids, struct err *e)
{
    size_t bytes;
    struct bpe *t = bpe_open(d->tokenizer_dir, e);
    if (!t)
        return false;
    if (strcmp(bpe_fingerprint(t), d->tokenizer_fingerprint) != 0) {
        err_code(e, EXIT_MISMATCH, "%s: fingerprint %s, the dataset was made with %s", d->tokenizer_dir,
                 bpe_fingerprint(t), d->tokenizer_fingerprint);
        bpe_close(t);
        return false;
    }
    const char *text = bpe_decode(t, a, ids, d->sequence_length, false, &bytes);
    fwrite(text, 1, bytes, stdout);
    putchar('\n');
    bpe_close(t);
    return true;
}

/* Documents that have a token in [begin, end). */
static bool print_documents(const struct json *j, const struct document *list, int64_t n, int64_t begin,
                            int64_t end, int64_t n_tokens, struct err *e)
{
    int64_t low = 0, high = n;
    jval sources;
    if (!json_want_array(j, json_root(j), "sources", &sources, e))
        return false;
    while (high - low > 1) { /* the last document that begins at or before the sequence */
        const int64_t middle = (low + high) / 2;
        *(list[middle].token <= begin ? &low : &high) = middle;
    }
    for (int64_t i = low; i < n && list[i].token < end; i++) {
        const char *path;
        if (list[i].source < 0 || list[i].source >= json_count(sources))
            return json_err(j, json_root(j), "sources", e, "document %lld is of source %lld", (long long)i,
                            (long long)list[i].source);
        if (!json_want_string(j, json_at(sources, list[i].source), "path", &path, e))
            return false;
        const int64_t last = i + 1 < n ? list[i + 1].token : n_tokens;
        printf("  document %lld: %s, byte %lld, tokens %lld to %lld of its %lld\n", (long long)i, path,
               (long long)list[i].offset,
               (long long)((begin > list[i].token ? begin : list[i].token) - list[i].token),
               (long long)((end < last ? end : last) - list[i].token) - 1, (long long)(last - list[i].token));
    }
    return true;
}

static bool inspect(struct arena *a, const struct dataset *d, const struct opened *o, int64_t sequence,
                    struct err *e)
{
    struct map m;
    const int64_t S = d->sequence_length;
    if (sequence >= d->n_sequences)
        return err_code(e, EXIT_USAGE, "--sequence %lld: the dataset has %lld", (long long)sequence,
                        (long long)d->n_sequences);
    printf("%s: %lld sequences of %lld, %lld documents, fingerprint %s\n", d->path, (long long)d->n_sequences,
           (long long)S, (long long)d->n_documents, d->fingerprint);
    printf("sequence %lld:\n", (long long)sequence);
    if (!map_part(a, arena_printf(a, "%s/documents.bin", d->path),
                  d->n_documents * (int64_t)sizeof(struct document), o->documents_hash, false, &m, e))
        return false;
    const bool ok = print_documents(o->json, (const struct document *)(const void *)m.data, d->n_documents,
                                    sequence * S, (sequence + 1) * S, d->n_tokens, e);
    file_unmap(&m);
    if (!ok)
        return false;
    printf("ids:\n");
    print_ids(d->tokens + sequence * S, S);
    printf("text:\n");
    return print_text(a, d, d->tokens + sequence * S, e);
}

bool dataset_inspect(const char *path, int64_t sequence, struct err *e)
{
    struct arena *a = arena_new("inspect");
    struct dataset d;
    struct opened o;
    bool ok = open_with(a, path, true, &d, &o, e);
    if (ok) {
        ok = inspect(a, &d, &o, sequence, e);
        json_free(o.json);
        dataset_close(&d);
    }
    arena_free(a);
    return ok;
}
