/* bpe_fixture.h - tokenizers for tests, made of the golden model and other parts. */
#pragma once
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/str.h"
#include "data/bpe.h"
#include "tests/test.h"
#include <stdlib.h>
static const char byte_level[] __attribute__((unused)) =
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}";

static inline char *read_golden(struct arena *a, const char *name)
{
    struct err e = { 0 };
    size_t bytes;
    char *text = file_read(a, arena_printf(a, "tests/golden/tokenizer/%s", name), 1 << 24, &bytes, &e);
    EXPECTF(text != NULL, "%s", e.text);
    return text;
}

static inline void write_file(const char *path, const char *text)
{
    struct err e = { 0 };
    EXPECTF(file_write(path, text, strlen(text), &e), "%s", e.text);
}

/* tokenizer.json of these parts in a directory of its own; the golden model unless `model` is given. */
static inline const char *write_tokenizer(struct arena *a, const char *head, const char *model)
{
    static int n;
    struct err e = { 0 };
    const char *dir = arena_printf(a, "%s/tokenizer-%d", test_dir(), n++);
    EXPECTF(file_mkdirs(dir, &e), "%s", e.text);
    write_file(arena_printf(a, "%s/tokenizer.json", dir),
               arena_printf(a, "{%s,\"model\":%s}", head, model ? model : read_golden(a, "model.json")));
    return dir;
}

/* The members pre_tokenizer and added_tokens, with one special token. */
static inline const char *added(struct arena *a, const char *content, int id)
{
    return arena_printf(
        a,
        "\"pre_tokenizer\":%s,\"added_tokens\":[{\"id\":%d,\"content\":\"%s\",\"single_word\":false,"
        "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}]",
        byte_level, id, content);
}
