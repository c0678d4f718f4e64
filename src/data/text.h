/* text.h - documents from files: .txt (one document, or cut at separator lines) and .jsonl (one per line), plain,
 * .gz or .zst; directories are walked in the order of their path bytes; "-" is JSONL on standard input. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "data/buffer.h"
#include <stdint.h>
struct text_file {
    const char *path;
    bool jsonl;
    int64_t disk_bytes; /* -1 = unknown */
};
struct text_list {
    struct text_file *file;
    int64_t n, disk_bytes;
};
/* names: files and directories separated by commas. A directory without text is an error that lists what is there. */
bool text_list_files(struct arena *a, const char *names, struct text_list *out, struct err *e);

struct text_reader;
struct text_reader *text_open(const struct text_file *f, const char *separator,
                              struct err *e); /* NULL on error */
/* Documents of a .txt file longer than most_bytes come in parts: `cut` says where one may end (bpe_cut). A part is
 * longer when there is no such place. Without this call, documents come whole. */
typedef size_t text_cut(const void *context, const char *text, size_t bytes, size_t most);
void text_divide(struct text_reader *r, size_t most_bytes, text_cut *cut, const void *context);
/* Appends the next document to `out` (of a .jsonl: its line, still JSON). *offset: byte in the decompressed file,
 * *line: 1-based line where it begins. 1 = a document, or its last part; 2 = a part, and more follows; 0 = end,
 * -1 = error. */
int text_next(struct text_reader *r, struct buffer *out, int64_t *offset, int64_t *line, struct err *e);
uint64_t text_consumed(const struct text_reader *r); /* bytes on disk read so far */
int64_t text_bytes(const struct text_reader *r);     /* decompressed bytes given so far */
void text_close(struct text_reader *r);              /* NULL is fine */
