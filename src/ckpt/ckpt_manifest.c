/* ckpt_manifest.c - checkpoint.json: every file with its bytes and XXH3. */
#include "base/hash.h"
#include "base/json.h"
#include "base/str.h"
#include "ckpt/ckpt_impl.h"
#include <stdlib.h>
#include <string.h>
static const char format_name[] = "moec checkpoint";
enum {
    VERSION = 3,
    MAX_RANKS = 100000
}; /* 1 had no 8-bit moments, 2 no ranges in another order: both are read */

void manifest_add(struct arena *a, struct manifest *m, const char *name, uint64_t bytes, uint64_t hash)
{
    if (m->n == m->capacity) {
        m->capacity = m->capacity ? 2 * m->capacity : 16;
        struct manifest_file *more = ARENA_NEW(a, struct manifest_file, m->capacity);
        if (m->n)
            memcpy(more, m->file, (size_t)m->n * sizeof *more);
        m->file = more;
    }
    struct manifest_file *f = &m->file[m->n++];
    f->name = arena_strdup(a, name);
    f->bytes = (int64_t)bytes;
    hash_hex(hash, f->hash);
}

/* The disk reads the next piece while one is hashed. */
static uint64_t hash_map(const struct map *m)
{
    const size_t piece = (size_t)16 << 20;
    struct hash_state *h = hash_begin();
    for (size_t at = 0; at < m->bytes; at += piece) {
        const size_t left = m->bytes - at, next = left > piece ? left - piece : 0;
        file_ahead(m->data + at + (next ? piece : 0), next < piece ? next : piece);
        hash_add(h, m->data + at, left < piece ? left : piece);
    }
    return hash_end(h);
}

bool manifest_add_file(struct arena *a, struct manifest *m, const char *dir, const char *name, struct err *e)
{
    struct map map;
    if (!file_map(a, path_in(a, dir, name), &map, e))
        return false;
    manifest_add(a, m, name, map.bytes, hash_map(&map));
    file_unmap(&map);
    return true;
}

const struct manifest_file *manifest_find(const struct manifest *m, const char *name)
{
    for (int64_t i = 0; i < m->n; i++)
        if (!strcmp(m->file[i].name, name))
            return &m->file[i];
    return NULL;
}

static bool is_hash(const char *text)
{
    return strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16;
}

static bool read_file_entry(struct arena *a, const struct json *j, jval v, struct manifest_file *f,
                            struct err *e)
{
    const char *name, *hash;
    if (!json_want_string(j, v, "name", &name, e) ||
        !json_want_int(j, v, "bytes", 0, INT64_MAX, &f->bytes, e) ||
        !json_want_string(j, v, "xxh3", &hash, e))
        return false;
    if (!is_plain_name(name))
        return json_err(j, v, "name", e, "'%.80s' is not the name of a file beside this one", name);
    if (!is_hash(hash))
        return json_err(j, v, "xxh3", e, "expected 16 lower-case hexadecimal digits");
    if (json_count(v) != 3)
        return json_err(j, v, NULL, e, "expected the keys name, bytes and xxh3 only");
    f->name = arena_strdup(a, name);
    memcpy(f->hash, hash, 17);
    return true;
}

static bool read_root(struct arena *a, const struct json *j, struct manifest *m, struct err *e)
{
    jval root = json_root(j), files;
    const char *format;
    int64_t version;
    if (!json_want_string(j, root, "format", &format, e))
        return false;
    if (strcmp(format, format_name) != 0)
        return json_err(j, root, "format", e, "'%.40s', expected '%s'", format, format_name);
    if (!json_want_int(j, root, "version", 1, INT64_MAX, &version, e))
        return false;
    if (version > VERSION)
        return json_err(j, root, "version", e, "%lld, this program reads versions 1 to %d",
                        (long long)version, VERSION);
    if (!json_want_int(j, root, "ranks", 1, MAX_RANKS, &m->n_ranks, e) ||
        !json_want_array(j, root, "files", &files, e))
        return false;
    if (json_count(root) != 4)
        return json_err(j, root, NULL, e, "expected the keys format, version, ranks and files only");
    m->n = m->capacity = json_count(files);
    m->file = ARENA_NEW(a, struct manifest_file, m->n);
    struct name_table names = name_table_new(a, m->n);
    for (int64_t i = 0; i < m->n; i++) {
        if (!read_file_entry(a, j, json_at(files, i), &m->file[i], e))
            return false;
        if (name_table_add(&names, m->file[i].name, i) >= 0)
            return json_err(j, json_at(files, i), "name", e, "'%.80s' is listed twice", m->file[i].name);
    }
    return true;
}

bool manifest_parse(struct arena *a, const char *text, size_t bytes, const char *path, struct manifest *m,
                    struct err *e)
{
    *m = (struct manifest){ 0 };
    struct json *j = json_parse(text, bytes, path, e);
    const bool parsed = j && read_root(a, j, m, e);
    json_free(j);
    return parsed;
}

bool manifest_read(struct arena *a, const char *path, struct manifest *m, struct err *e)
{
    size_t bytes;
    const char *text = file_read(a, path, max_text_bytes, &bytes, e);
    return text && manifest_parse(a, text, bytes, path, m, e);
}

static int by_name(const void *x, const void *y)
{
    const struct manifest_file *a = x, *b = y;
    return strcmp(a->name, b->name);
}

bool manifest_write(const char *path, struct manifest *m, struct err *e)
{
    struct arena *a = arena_new("manifest");
    struct str s = str_new(a, max_text_bytes);
    if (m->n)
        qsort(m->file, (size_t)m->n, sizeof *m->file, by_name);
    str_addf(&s, "{\n  \"format\": \"%s\",\n  \"version\": %d,\n  \"ranks\": %lld,\n  \"files\": [",
             format_name, VERSION, (long long)m->n_ranks);
    for (int64_t i = 0; i < m->n; i++) {
        str_add(&s, i ? ",\n    {\"name\": " : "\n    {\"name\": ");
        str_add_json(&s, m->file[i].name, strlen(m->file[i].name));
        str_addf(&s, ", \"bytes\": %lld, \"xxh3\": \"%s\"}", (long long)m->file[i].bytes, m->file[i].hash);
    }
    str_add(&s, "\n  ]\n}\n");
    const bool written = file_write(path, s.text, s.bytes, e);
    arena_free(a);
    return written;
}

static bool check_hash(struct arena *a, const char *path, const struct manifest_file *f, struct err *e)
{
    struct map map;
    char hash[17];
    if (!file_map(a, path, &map, e))
        return false;
    hash_hex(hash_map(&map), hash);
    file_unmap(&map);
    return !strcmp(hash, f->hash) ||
           err_code(e, EXIT_CORRUPT, "%s: checksum %s, expected %s from %s: the file is damaged", path, hash,
                    f->hash, MANIFEST_NAME);
}

bool manifest_check_file(struct arena *a, const char *dir, const struct manifest_file *f, bool with_hash,
                         struct err *e)
{
    const char *path = path_in(a, dir, f->name);
    const int64_t bytes = file_bytes(path);
    if (bytes < 0)
        return err_code(e, EXIT_CORRUPT, "%s: missing, %s lists it", path, MANIFEST_NAME);
    if (bytes != f->bytes)
        return err_code(e, EXIT_CORRUPT, "%s: %lld bytes, expected %lld from %s", path, (long long)bytes,
                        (long long)f->bytes, MANIFEST_NAME);
    return !with_hash || check_hash(a, path, f, e);
}
