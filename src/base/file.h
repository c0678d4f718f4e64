/* file.h - reading and writing files: mmap, atomic write, compressed streams, directories.
 * file.c is the only file that includes zstd.h and zlib.h. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <stdint.h>
/* Read-only memory map of a whole file. An empty file gives data = NULL, bytes = 0. */
struct map {
    const unsigned char *data;
    size_t bytes;
    char *path; /* in the arena given to file_map */
};
bool file_map(struct arena *a, const char *path, struct map *m, struct err *e);
void file_unmap(struct map *m);
void file_ahead(const void *mapped, size_t bytes); /* a hint: these bytes of a map will be read at once */
/* Whole file into the arena, terminated by a 0 not counted in *bytes. */
char *file_read(struct arena *a, const char *path, size_t max_bytes, size_t *bytes, struct err *e); /* NULL */
/* Atomic write: everything goes to "PATH.tmp.PID"; publish = flush, fsync, rename, fsync of the directory.
 * A writer that is dropped, or a program that is killed, leaves PATH as it was. Full disk is an err. */
struct writer;
struct writer *file_create(const char *path, struct err *e); /* NULL on error */
bool file_put(struct writer *w, const void *data, size_t bytes, struct err *e);
bool file_put_at(struct writer *w, const void *data, size_t bytes, int64_t offset,
                 struct err *e); /* random access */
/* A file that several processes write together, each its own bytes by file_put_at: it has `bytes` bytes and its name at
 * once, and keeps it when a writer is dropped; its folder must be the temporary one. Publishing syncs it. */
struct writer *file_share(const char *path, uint64_t bytes, struct err *e); /* NULL on error */
/* A large file of `bytes` bytes, which several threads put in pieces of piece_bytes (the last is what is left), each once, in any
 * order. Room for all is taken at once. A file of a piece or more goes past the page cache where the file system lets it and
 * piece_bytes is a multiple of FILE_BLOCK; else, and what is no whole block, through it. */
enum { FILE_BLOCK = 4096, FILE_PIECE = 1 << 24 };
struct writer *file_create_pieces(const char *path, uint64_t bytes, size_t piece_bytes,
                                  struct err *e); /* NULL on error */
bool file_put_piece(struct writer *w, const void *data /* from file_room */, int64_t piece, struct err *e);
/* Memory for a piece, of huge pages where the system gives them: disks take few large requests faster. Dies without. */
void *file_room(size_t bytes);
void file_room_free(void *room, size_t bytes);
uint64_t file_offset(const struct writer *w);       /* bytes put so far (sequential), or of all pieces */
bool file_publish(struct writer *w, struct err *e); /* frees w, also on error (then the temp is removed) */
void file_drop(struct writer *w);                   /* removes the temporary file; NULL is fine */
bool file_write(const char *path, const void *data, size_t bytes, struct err *e); /* create + put + publish */
/* Input stream: plain, .gz (gzip, several members) or .zst (several frames) by content, "-" = standard input. */
struct stream;
struct stream *file_open(const char *path, struct err *e); /* NULL on error */
int64_t file_get(struct stream *s, void *data, size_t bytes,
                 struct err *e);                /* bytes read, 0 at end, -1 on error */
uint64_t file_consumed(const struct stream *s); /* bytes of the file on disk consumed so far (for progress) */
void file_close(struct stream *s);
/* Directories. */
bool file_exists(const char *path);
bool file_is_dir(const char *path);
int64_t file_bytes(const char *path); /* -1 when there is none */
bool file_mkdirs(const char *path, struct err *e);
bool file_sync_dir(const char *path, struct err *e);
bool file_remove_tree(const char *path, struct err *e);                 /* missing is fine */
bool file_rename(const char *from, const char *to, struct err *e);      /* and fsync of the parent of `to` */
bool file_symlink(const char *target, const char *path, struct err *e); /* atomic replacement */
bool file_copy(const char *from, const char *to, struct err *e);        /* same bytes, atomic */
/* Names in a directory, sorted by bytes, without "." and "..". NULL on error. */
char **file_list(struct arena *a, const char *dir, int64_t *n, struct err *e);
