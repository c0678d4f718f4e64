/* cmd_data.c - prepare, tokenize, tokenizer train, inspect. */
#include "base/file.h"
#include "base/pool.h"
#include "base/str.h"
#include "ckpt/ckpt.h"
#include "cmd/cmd.h"
#include "data/bpe.h"
#include "data/dataset.h"
#include "data/prepare.h"
#include "data/text.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A directory with tokenizer.json, the file itself, or org/name in the Hugging Face cache. */
static const char *find_tokenizer(struct arena *a, const char *name, struct err *e)
{
    if (file_exists(name))
        return name;
    return ckpt_find_model(a, name, e);
}

bool cmd_prepare(struct arena *a, const struct config *c, struct err *e)
{
    const struct prepare_options o = {
        .inputs = c->data_path_or_name,
        .tokenizer_dir = find_tokenizer(a, c->tokenizer_path_or_name, e),
        .save_path = c->save_path,
        .text_key = c->text_key,
        .separator = c->document_separator,
        .sequence_length = c->sequence_length,
        .threads = c->threads ? (int)c->threads : pool_cores(),
        .skip_bad_lines = c->skip_bad_lines,
        .overwrite = c->overwrite,
    };
    return o.tokenizer_dir && prepare(a, &o, e);
}

/* All of it, terminated by a 0. */
static char *read_standard_input(struct arena *a, size_t *bytes)
{
    size_t capacity = 1u << 16;
    char *text = arena_alloc(a, capacity);
    *bytes = 0;
    for (size_t n; (n = fread(text + *bytes, 1, capacity - 1 - *bytes, stdin)) > 0;) {
        *bytes += n;
        if (*bytes + 1 < capacity)
            continue;
        char *more = arena_alloc(a, 2 * capacity);
        memcpy(more, text, *bytes);
        text = more;
        capacity *= 2;
    }
    return text;
}

static bool print_ids(const struct bpe *t, const char *text, size_t bytes, struct err *e)
{
    struct bpe_encoder *x = bpe_encoder_new(t);
    const int32_t *ids;
    const int64_t n = bpe_encode(x, text, bytes, &ids, e);
    for (int64_t i = 0; i < n; i++)
        printf("%s%d", i ? " " : "", ids[i]);
    if (n >= 0)
        putchar('\n');
    bpe_encoder_free(x);
    return n >= 0;
}

static bool read_ids(struct arena *a, const struct bpe *t, const char *text, int32_t **out, int64_t *n,
                     struct err *e)
{
    char *end;
    *out = ARENA_NEW(a, int32_t, strlen(text) / 2 + 2);
    *n = 0;
    for (const char *at = text + strspn(text, " \t\r\n"); *at; at = end + strspn(end, " \t\r\n")) {
        const long id = strtol(at, &end, 10);
        if (end == at || id < 0 || id >= bpe_vocab_size(t))
            return err_set(e, "standard input: byte %lld: expected an id from 0 to %lld, found '%.12s'",
                           (long long)(at - text), (long long)bpe_vocab_size(t) - 1, at);
        (*out)[(*n)++] = (int32_t)id;
    }
    return true;
}

static bool print_decoded(struct arena *a, const struct bpe *t, const char *text, bool skip_special,
                          struct err *e)
{
    int32_t *ids = NULL;
    int64_t n;
    size_t bytes;
    if (bpe_decoder_problem(t))
        return err_set(e, "%s", bpe_decoder_problem(t));
    if (!read_ids(a, t, text, &ids, &n, e))
        return false;
    const char *decoded = bpe_decode(t, a, ids, n, skip_special, &bytes);
    fwrite(decoded, 1, bytes, stdout);
    return true;
}

bool cmd_tokenize(struct arena *a, const struct config *c, struct err *e)
{
    size_t bytes = 0;
    const char *dir = find_tokenizer(a, c->tokenizer, e);
    struct bpe *t = dir ? bpe_open(dir, e) : NULL;
    char *text = t ? read_standard_input(a, &bytes) : NULL;
    const bool ok =
        text && (c->decode ? print_decoded(a, t, text, c->skip_special, e) : print_ids(t, text, bytes, e));
    if (t)
        bpe_close(t);
    return ok;
}

bool cmd_tokenizer_train(struct arena *a, const struct config *c, struct err *e)
{
    struct text_list files;
    if (!text_list_files(a, c->data_path_or_name, &files, e))
        return false;
    const char **paths = ARENA_NEW(a, const char *, files.n);
    for (int64_t i = 0; i < files.n; i++)
        paths[i] = files.file[i].path;
    if (!bpe_train(paths, (int)files.n, c->vocab_size, c->text_key, c->save_path, e))
        return false;
    printf("tokenizer of %lld ids written to %s\n", (long long)c->vocab_size, c->save_path);
    return true;
}

static bool is_dataset(struct arena *a, const char *path)
{
    return file_exists(arena_printf(a, "%s/dataset.json", path));
}

static bool inspect_dataset(struct arena *a, const struct config *c, struct err *e)
{
    struct dataset d;
    if (config_given(c, "sequence"))
        return dataset_inspect(c->path, c->sequence, e);
    if (!dataset_open(a, c->path, true, &d, e))
        return false;
    dataset_print(&d);
    dataset_close(&d);
    return true;
}

bool cmd_inspect(struct arena *a, const struct config *c, struct err *e)
{
    return is_dataset(a, c->path) ? inspect_dataset(a, c, e) : cmd_inspect_model(a, c, e);
}

static bool verify_dataset(struct arena *a, const struct config *c, struct err *e)
{
    struct dataset d;
    if (!dataset_open(a, c->path, false, &d, e))
        return false;
    printf("%s: complete, all checksums match\n", c->path);
    dataset_close(&d);
    return true;
}

bool cmd_verify(struct arena *a, const struct config *c, struct err *e)
{
    return is_dataset(a, c->path) ? verify_dataset(a, c, e) : cmd_verify_model(a, c, e);
}
