/* safetensors.h - the file format of Hugging Face: u64 header bytes, JSON header, data (doc/formats/safetensors.md).
 * The reader accepts a file only when every byte of it belongs to exactly one tensor or to the header. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "base/num.h"
#include <stdbool.h>
#include <stdint.h>
struct safetensor {
    const char *name, *dtype_name; /* "BF16"; any dtype of the format */
    enum dtype dtype;              /* DTYPES = one that base/num.h does not know */
    int n_dims;                    /* 0 = a scalar, one element */
    const int64_t *shape;
    int64_t n_elements;
    const unsigned char *data; /* in the map, at any alignment */
    size_t bytes;
    const char *path; /* of the file, for messages */
};
struct safetensors;
/* Maps and checks the header; the data are not read. The arena must outlive the result. NULL on error:
 * "PATH: tensor NAME: what, what was expected" or "PATH: byte N: ...". */
struct safetensors *safetensors_open(struct arena *a, const char *path, struct err *e);
/* The same on bytes in memory, which stay the caller's; path is for messages. */
struct safetensors *safetensors_parse(struct arena *a, const void *data, size_t bytes, const char *path,
                                      struct err *e);
void safetensors_close(struct safetensors *s); /* unmaps; NULL is fine */
int64_t safetensors_count(const struct safetensors *s);
const struct safetensor *safetensors_at(const struct safetensors *s, int64_t i); /* order of the data */
const struct safetensor *safetensors_find(const struct safetensors *s, const char *name); /* NULL = absent */
const char *safetensors_path(const struct safetensors *s);
bool safetensors_is_float(const struct safetensor *t); /* F32, BF16 or F16: what weights may be */
const char *safetensors_shape(struct arena *a, int n_dims, const int64_t *shape); /* "[2, 3]" */
/* Elements [begin, begin + n) of a tensor that is_float; a non-finite one is an error that names it. */
bool safetensors_floats(const struct safetensor *t, int64_t begin, int64_t n, float *out, struct err *e);

/* Writing: the list says name, dtype_name, n_dims, shape and bytes of every tensor in order; then their data
 * in that order, in calls of any length. Atomic as base/file.h. The list is not kept. */
struct safetensors_writer;
struct safetensors_writer *safetensors_create(const char *path, const struct safetensor *list, int64_t n,
                                              struct err *e); /* NULL on error */
bool safetensors_put(struct safetensors_writer *w, const void *data, size_t bytes, struct err *e);
/* Frees w, also on error. CHECKs that all data were put. Gives bytes and XXH3 of the whole file. */
bool safetensors_publish(struct safetensors_writer *w, uint64_t *file_bytes, uint64_t *hash, struct err *e);
void safetensors_drop(struct safetensors_writer *w); /* NULL is fine */
/* A file that several processes write together, under its own name at once: all give the same list, one the header.
 * Data go where safetensors_seek says, byte `at` of tensor number `tensor`, and on from there. No checksum. */
struct safetensors_writer *safetensors_share(const char *path, const struct safetensor *list, int64_t n,
                                             bool header, struct err *e); /* NULL on error */
void safetensors_seek(struct safetensors_writer *w, int64_t tensor, uint64_t at);
bool safetensors_leave(struct safetensors_writer *w, struct err *e); /* synced; frees w, also on error */
/* A large file that several threads write in pieces of piece_bytes, as base/file.h. They take pieces in ascending order, fill
 * a piece each at the same time, and hand it in. */
struct safetensors_writer *safetensors_create_pieces(const char *path, const struct safetensor *list,
                                                     int64_t n, size_t piece_bytes,
                                                     struct err *e); /* NULL on error */
int64_t safetensors_n_pieces(const struct safetensors_writer *w);
/* Piece i, to be filled in `room` (piece_bytes from file_room) by safetensors_seek and safetensors_put: what they put
 * outside of the piece is dropped. The header is there already. In `a`. */
struct safetensors_writer *safetensors_piece(struct arena *a, struct safetensors_writer *w, int64_t i,
                                             void *room);
/* The first tensor from `tensor` on that has bytes in the piece, [*from, *to) of its own; -1 = none has. */
int64_t safetensors_wanted(const struct safetensors_writer *piece, int64_t tensor, uint64_t *from,
                           uint64_t *to);
/* Writes it; waits until those before are in memory, whose checksum comes first. False without a text: one of those was
 * given up. */
bool safetensors_hand_in(struct safetensors_writer *piece, struct err *e);
void safetensors_give_up(
    struct safetensors_writer *w); /* a piece will not come; safetensors_drop is left to do */
/* One entry of such a list. */
struct safetensor safetensors_entry(const char *name, enum dtype t, int n_dims, const int64_t *shape);
