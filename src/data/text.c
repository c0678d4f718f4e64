/* text.c - see text.h. */
#include "data/text.h"
#include "base/file.h"
#include "base/str.h"
#include <stdlib.h>
#include <string.h>
enum { READ_BYTES = 1 << 18, MAX_FILES = 1 << 24 };
static const int64_t MAX_DOCUMENT = (int64_t)1 << 40;

static bool ends_with(const char *text, size_t bytes, const char *end)
{
    const size_t n = strlen(end);
    return bytes >= n && memcmp(text + bytes - n, end, n) == 0;
}

/* Length of the name without .gz or .zst. */
static size_t plain_bytes(const char *path)
{
    const size_t n = strlen(path);
    return ends_with(path, n, ".gz") ? n - 3 : ends_with(path, n, ".zst") ? n - 4 : n;
}

static bool is_jsonl(const char *path)
{
    return strcmp(path, "-") == 0 || ends_with(path, plain_bytes(path), ".jsonl");
}

static bool is_text(const char *path)
{
    return is_jsonl(path) || ends_with(path, plain_bytes(path), ".txt");
}

static bool add_file(struct arena *a, struct text_list *l, int64_t *capacity, const char *path, struct err *e)
{
    if (l->n == MAX_FILES)
        return err_set(e, "%s: more than %d files", path, MAX_FILES);
    if (l->n == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 64;
        struct text_file *more = ARENA_NEW(a, struct text_file, *capacity);
        if (l->n)
            memcpy(more, l->file, (size_t)l->n * sizeof *more);
        l->file = more;
    }
    const int64_t bytes = strcmp(path, "-") == 0 ? -1 : file_bytes(path);
    l->file[l->n++] = (struct text_file){ path, is_jsonl(path), bytes };
    l->disk_bytes = bytes < 0 || l->disk_bytes < 0 ? -1 : l->disk_bytes + bytes;
    return true;
}

struct walk {
    struct arena *arena;
    struct text_list *list;
    int64_t capacity;
    struct str seen; /* some other files, for the message */
    int depth;
};

static bool walk_directory(struct walk *w, const char *dir, struct err *e)
{
    int64_t n;
    char **names = file_list(w->arena, dir, &n, e);
    if (!names)
        return false;
    if (++w->depth > 64)
        return err_set(e, "%s: directories nested deeper than 64", dir);
    for (int64_t i = 0; i < n; i++) {
        const char *path =
            arena_printf(w->arena, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", names[i]);
        if (file_is_dir(path) ? !walk_directory(w, path, e)
                              : is_text(path) && !add_file(w->arena, w->list, &w->capacity, path, e))
            return false;
        if (!file_is_dir(path) && !is_text(path) && w->seen.bytes < 120)
            str_addf(&w->seen, " %s", names[i]);
    }
    w->depth--;
    return true;
}

static int by_path(const void *x, const void *y)
{
    return strcmp(((const struct text_file *)x)->path, ((const struct text_file *)y)->path);
}

static bool add_name(struct walk *w, const char *name, struct err *e)
{
    const int64_t before = w->list->n;
    if (strcmp(name, "-") != 0 && !file_exists(name))
        return err_set(e,
                       "%s: no such file or directory (--data_path_or_name takes files and directories of "
                       ".txt and .jsonl)",
                       name);
    if (!file_is_dir(name))
        return add_file(w->arena, w->list, &w->capacity, name, e);
    w->depth = 0;
    if (!walk_directory(w, name, e))
        return false;
    if (w->list->n > before)
        qsort(w->list->file + before, (size_t)(w->list->n - before), sizeof *w->list->file, by_path);
    return w->list->n > before ||
           err_set(e, "%s: no .txt or .jsonl file (plain, .gz or .zst) in it; found:%s", name,
                   w->seen.bytes ? w->seen.text : " nothing");
}

bool text_list_files(struct arena *a, const char *names, struct text_list *out, struct err *e)
{
    struct walk w = { .arena = a, .list = out, .seen = str_new(a, 1 << 16) };
    *out = (struct text_list){ 0 };
    for (const char *at = names; *at;) {
        const size_t n = strcspn(at, ",");
        if (n && !add_name(&w, arena_strndup(a, at, n), e))
            return false;
        at += n + (at[n] == ',');
    }
    return out->n > 0 || err_code(e, EXIT_USAGE, "--data_path_or_name names no file");
}

struct text_reader {
    struct text_file file;
    struct arena *arena;
    struct stream *stream;
    const char *separator;
    char *block;
    int64_t at, filled;   /* in block */
    int64_t offset, line; /* of the next byte */
    bool ended;
    text_cut *cut; /* NULL: documents come whole */
    const void *cut_context;
    size_t most_bytes, next_try; /* a part without a place to cut is tried again at twice its length */
    struct buffer carry;         /* read, and of the next part */
    bool inside;                 /* a part of the document has been given */
};

struct text_reader *text_open(const struct text_file *f, const char *separator, struct err *e)
{
    struct stream *s = file_open(f->path, e);
    if (!s)
        return NULL;
    struct arena *a = arena_new("text");
    struct text_reader *r = ARENA_NEW(a, struct text_reader, 1);
    *r = (struct text_reader){ .file = *f,
                               .arena = a,
                               .stream = s,
                               .separator = separator,
                               .block = arena_alloc(a, READ_BYTES),
                               .line = 1 };
    return r;
}

void text_divide(struct text_reader *r, size_t most_bytes, text_cut *cut, const void *context)
{
    r->cut = cut;
    r->cut_context = context;
    r->most_bytes = r->next_try = most_bytes;
}

/* What the part before left over. */
static void take_carry(struct text_reader *r, struct buffer *out)
{
    if (r->carry.bytes)
        buffer_add(out, r->carry.data, r->carry.bytes);
    r->carry.bytes = 0;
}

/* Whether the document, which starts at `first` of out, has become long enough for a part of it to go. */
static bool divide(struct text_reader *r, struct buffer *out, size_t first)
{
    const size_t bytes = out->bytes - first;
    if (!r->cut || bytes < r->next_try)
        return false;
    const size_t at = r->cut(r->cut_context, out->data + first, bytes, bytes);
    r->next_try = at ? r->most_bytes : 2 * bytes;
    if (!at)
        return false;
    buffer_add(&r->carry, out->data + first + at, bytes - at);
    out->bytes = first + at;
    r->inside = true;
    return true;
}

static bool fill(struct text_reader *r, struct err *e)
{
    if (r->at < r->filled)
        return true;
    r->at = 0;
    r->filled = r->ended ? 0 : file_get(r->stream, r->block, READ_BYTES, e);
    r->ended |= r->filled == 0;
    return r->filled >= 0;
}

/* Appends up to and including the next '\n' (or the end of the file). false on error. */
static bool next_line(struct text_reader *r, struct buffer *out, struct err *e)
{
    const size_t before = out->bytes;
    for (;;) {
        if (!fill(r, e))
            return false;
        if (r->ended)
            return true;
        const char *from = r->block + r->at, *end = memchr(from, '\n', (size_t)(r->filled - r->at));
        const int64_t n = end ? end - from + 1 : r->filled - r->at;
        if ((int64_t)(out->bytes - before) + n > MAX_DOCUMENT)
            return err_set(e, "%s:%lld: a line longer than 1 TiB", r->file.path, (long long)r->line);
        buffer_add(out, from, (size_t)n);
        r->at += n;
        r->offset += n;
        if (end) {
            r->line++;
            return true;
        }
    }
}

static int next_whole(struct text_reader *r, struct buffer *out, struct err *e)
{
    const int64_t start = r->offset;
    const size_t first = out->bytes;
    const bool inside = r->inside;
    take_carry(r, out);
    for (;;) {
        if (!fill(r, e))
            return -1;
        if (r->ended) {
            r->inside = false;
            return inside || (start == 0 && r->line++ == 1); /* an empty file is an empty document */
        }
        buffer_add(out, r->block + r->at, (size_t)(r->filled - r->at));
        r->offset += r->filled - r->at;
        r->at = r->filled;
        if (divide(r, out, first))
            return 2;
    }
}

static size_t without_newline(const char *line, size_t bytes)
{
    if (bytes && line[bytes - 1] == '\n')
        bytes--;
    return bytes && line[bytes - 1] == '\r' ? bytes - 1 : bytes;
}

/* Lines up to one that equals the separator; the separator belongs to no document. Empty documents are skipped. */
static int next_separated(struct text_reader *r, struct buffer *out, int64_t *offset, int64_t *line,
                          struct err *e)
{
    const size_t n = strlen(r->separator), first = out->bytes;
    const bool inside = r->inside;
    *offset = r->offset;
    *line = r->line;
    take_carry(r, out);
    for (;;) {
        if (divide(r, out, first))
            return 2;
        const size_t before = out->bytes;
        if (!next_line(r, out, e))
            return -1;
        const size_t got = out->bytes - before;
        const bool cut = got && without_newline(out->data + before, got) == n &&
                         memcmp(out->data + before, r->separator, n) == 0;
        if (cut)
            out->bytes = before;
        if ((cut || !got) && (before > first || inside)) {
            r->inside = false;
            return 1;
        }
        if (!got)
            return 0;
        if (cut) {
            *offset = r->offset;
            *line = r->line;
        }
    }
}

/* The next line that is not blank. */
static int next_json(struct text_reader *r, struct buffer *out, int64_t *offset, int64_t *line, struct err *e)
{
    for (;;) {
        const size_t before = out->bytes;
        *offset = r->offset;
        *line = r->line;
        if (!next_line(r, out, e))
            return -1;
        if (out->bytes == before)
            return 0;
        out->bytes = before + without_newline(out->data + before, out->bytes - before);
        size_t blanks = 0;
        while (before + blanks < out->bytes && strchr(" \t\r", out->data[before + blanks]))
            blanks++;
        if (before + blanks < out->bytes)
            return 1;
        out->bytes = before;
    }
}

int text_next(struct text_reader *r, struct buffer *out, int64_t *offset, int64_t *line, struct err *e)
{
    if (r->file.jsonl)
        return next_json(r, out, offset, line, e);
    if (r->separator)
        return next_separated(r, out, offset, line, e);
    *offset = r->offset;
    *line = 1;
    return next_whole(r, out, e);
}

uint64_t text_consumed(const struct text_reader *r)
{
    return file_consumed(r->stream);
}

int64_t text_bytes(const struct text_reader *r)
{
    return r->offset;
}

void text_close(struct text_reader *r)
{
    if (!r)
        return;
    file_close(r->stream);
    buffer_free(&r->carry);
    arena_free(r->arena);
}
