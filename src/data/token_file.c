/* token_file.c - see token_file.h. */
#include "data/token_file.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/str.h"
#include "data/dataset_impl.h"
#include <stdio.h>
#include <string.h>

struct token_file {
    struct arena *arena;
    struct token_file_options o;
    const char *directory; /* temporary */
    struct writer *tokens, *documents;
    struct hash_state *tokens_hash, *documents_hash;
    int32_t *sequence; /* the sequence being filled: only whole ones are written */
    int64_t filled, n_sources;
    int64_t *source_bytes, *source_documents;
    struct token_file_totals totals;
};

static bool may_write(const struct token_file_options *o, struct err *e)
{
    if (!file_exists(o->save_path))
        return true;
    char path[4200];
    snprintf(path, sizeof path, "%.4096s/dataset.json", o->save_path);
    if (!file_exists(path))
        return err_code(e, EXIT_USAGE,
                        "%s: exists and is not a dataset; --save_path must name a new directory",
                        o->save_path);
    return o->overwrite ||
           err_code(e, EXIT_USAGE, "%s: a dataset is already there; --overwrite replaces it", o->save_path);
}

struct token_file *token_file_create(struct arena *a, const struct token_file_options *o, struct err *e)
{
    struct token_file *t = ARENA_NEW(a, struct token_file, 1);
    *t = (struct token_file){ .arena = a, .o = *o };
    if (!may_write(o, e))
        return NULL;
    t->directory = arena_printf(a, "%s.tmp", o->save_path);
    t->sequence = ARENA_NEW(a, int32_t, o->sequence_length);
    t->source_bytes = ARENA_NEW(a, int64_t, o->files->n);
    t->source_documents = ARENA_NEW(a, int64_t, o->files->n);
    if (!file_remove_tree(t->directory, e) || !file_mkdirs(t->directory, e))
        return NULL;
    t->tokens = file_create(arena_printf(a, "%s/tokens.bin", t->directory), e);
    t->documents = t->tokens ? file_create(arena_printf(a, "%s/documents.bin", t->directory), e) : NULL;
    t->tokens_hash = hash_begin();
    t->documents_hash = hash_begin();
    if (t->documents)
        return t;
    token_file_drop(t);
    return NULL;
}

static bool put_tokens(struct token_file *t, const int32_t *ids, int64_t n, struct err *e)
{
    const int64_t S = t->o.sequence_length;
    while (n > 0) {
        const int64_t m = n < S - t->filled ? n : S - t->filled;
        memcpy(t->sequence + t->filled, ids, (size_t)m * sizeof *ids);
        t->filled += m;
        ids += m;
        n -= m;
        if (t->filled < S)
            break;
        const size_t bytes = (size_t)S * sizeof *t->sequence;
        hash_add(t->tokens_hash, t->sequence, bytes);
        if (!file_put(t->tokens, t->sequence, bytes, e))
            return false;
        t->filled = 0;
    }
    return true;
}

bool token_file_begin(struct token_file *t, int64_t source, int64_t offset, struct err *e)
{
    const struct document d = { source, offset, t->totals.n_tokens };
    hash_add(t->documents_hash, &d, sizeof d);
    t->source_documents[source]++;
    t->totals.n_documents++;
    t->totals.n_tokens++;
    return file_put(t->documents, &d, sizeof d, e) && put_tokens(t, &t->o.bos, 1, e);
}

bool token_file_text(struct token_file *t, const int32_t *ids, int64_t n, int64_t text_bytes, struct err *e)
{
    t->totals.text_bytes += text_bytes;
    t->totals.n_tokens += n;
    return put_tokens(t, ids, n, e);
}

bool token_file_end(struct token_file *t, struct err *e)
{
    t->totals.n_tokens++;
    return put_tokens(t, &t->o.eos, 1, e);
}

void token_file_source_done(struct token_file *t, int64_t bytes)
{
    CHECK(t->n_sources < t->o.files->n, "source %lld of %lld", (long long)t->n_sources,
          (long long)t->o.files->n);
    t->source_bytes[t->n_sources++] = bytes;
}

struct token_file_totals token_file_so_far(const struct token_file *t)
{
    return t->totals;
}

static void add_sources(struct str *s, const struct token_file *t)
{
    int64_t first = 0;
    str_add(s, "  \"sources\": [\n");
    for (int64_t i = 0; i < t->o.files->n; first += t->source_documents[i++]) {
        const char *path = t->o.files->file[i].path;
        str_add(s, "    {\"path\": ");
        str_add_json(s, path, strlen(path));
        str_addf(s, ", \"bytes\": %lld, \"first_document\": %lld, \"documents\": %lld}%s\n",
                 (long long)t->source_bytes[i], (long long)first, (long long)t->source_documents[i],
                 i + 1 < t->o.files->n ? "," : "");
    }
    str_add(s, "  ]\n}\n");
}

/* What decides what a model sees: neither paths nor times. */
static void fingerprint(const struct token_file *t, int64_t n_sequences, const char *tokens_hash,
                        char out[17])
{
    char text[256];
    const int n =
        snprintf(text, sizeof text, "dataset %d %lld %lld %lld %d %d %s %s", DATASET_VERSION,
                 (long long)t->o.sequence_length, (long long)n_sequences, (long long)t->o.vocab_size,
                 t->o.bos, t->o.eos, t->o.tokenizer_fingerprint, tokens_hash);
    hash_hex(hash_bytes(text, (size_t)n), out);
}

static void describe(struct str *s, struct token_file *t)
{
    const int64_t S = t->o.sequence_length, n = t->totals.n_tokens / S;
    char tokens[17], documents[17], print[17];
    hash_hex(hash_end(t->tokens_hash), tokens);
    hash_hex(hash_end(t->documents_hash), documents);
    t->tokens_hash = t->documents_hash = NULL;
    fingerprint(t, n, tokens, print);
    str_addf(s, "{\n  \"version\": %d,\n  \"sequence_length\": %lld,\n  \"sequences\": %lld,\n",
             DATASET_VERSION, (long long)S, (long long)n);
    str_addf(
        s,
        "  \"documents\": %lld,\n  \"text_bytes\": %lld,\n  \"tokens\": %lld,\n  \"dropped_tokens\": %lld,\n",
        (long long)t->totals.n_documents, (long long)t->totals.text_bytes, (long long)t->totals.n_tokens,
        (long long)t->totals.n_tokens - n * S);
    str_addf(s, "  \"vocab_size\": %lld,\n  \"bos\": %d,\n  \"eos\": %d,\n", (long long)t->o.vocab_size,
             t->o.bos, t->o.eos);
    str_add(s, "  \"tokenizer\": ");
    str_add_json(s, t->o.tokenizer_dir, strlen(t->o.tokenizer_dir));
    str_addf(s, ",\n  \"tokenizer_fingerprint\": \"%s\",\n  \"fingerprint\": \"%s\",\n",
             t->o.tokenizer_fingerprint, print);
    str_addf(s, "  \"tokens_xxh3\": \"%s\",\n  \"documents_xxh3\": \"%s\",\n", tokens, documents);
    add_sources(s, t);
}

static bool publish(struct token_file *t, struct err *e)
{
    struct str s = str_new(t->arena, (size_t)1 << 32);
    struct writer *tokens = t->tokens, *documents = t->documents;
    if (t->totals.n_tokens < t->o.sequence_length)
        return err_set(e, "%lld tokens in all: not one sequence of %lld", (long long)t->totals.n_tokens,
                       (long long)t->o.sequence_length);
    describe(&s, t);
    t->tokens = NULL;
    if (!file_publish(tokens, e))
        return false;
    t->documents = NULL;
    if (!file_publish(documents, e) ||
        !file_write(arena_printf(t->arena, "%s/dataset.json", t->directory), s.text, s.bytes, e))
        return false;
    const char *old = arena_printf(t->arena, "%s.old.tmp", t->o.save_path);
    if (file_exists(t->o.save_path) && (!file_remove_tree(old, e) || !file_rename(t->o.save_path, old, e)))
        return false;
    return file_rename(t->directory, t->o.save_path, e) && file_remove_tree(old, e);
}

bool token_file_publish(struct token_file *t, struct err *e)
{
    const bool ok = publish(t, e);
    if (!ok)
        token_file_drop(t);
    return ok;
}

void token_file_drop(struct token_file *t)
{
    struct err ignored = { 0 };
    file_drop(t->tokens);
    file_drop(t->documents);
    if (t->tokens_hash)
        hash_end(t->tokens_hash);
    if (t->documents_hash)
        hash_end(t->documents_hash);
    file_remove_tree(t->directory, &ignored);
}
