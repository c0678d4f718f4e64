/* safetensors_write.c - writing: the header from the list, then the data as they come. */
#include "base/file.h"
#include "base/hash.h"
#include "base/str.h"
#include "ckpt/safetensors.h"
#include <pthread.h>
#include <string.h>
enum { MAX_HEADER_BYTES = 100000000, ALIGN_BYTES = 8 };
struct safetensors_writer {
    struct arena *arena;
    struct writer *file;
    struct hash_state *hash;
    uint64_t left_bytes; /* of the data; of a piece */
    uint64_t *begin, at; /* of a shared file or a piece: where every tensor begins; where the next bytes go */
    int64_t n;           /* tensors; begin[n] is the end of the file */
    struct str head;     /* length of the header, and the header */
    struct pieces *pieces;            /* NULL = is not written in pieces */
    struct safetensors_writer *whole; /* of a piece: the file; NULL = is no piece */
    int64_t piece;
    char *room; /* bytes [first, last) of the file */
    uint64_t first, last;
};
/* Pieces of a file are hashed in their order. */
struct pieces {
    pthread_mutex_t lock;
    pthread_cond_t turn;
    int64_t n, n_hashed;
    size_t bytes; /* of each but the last */
    bool given_up;
};

struct safetensor safetensors_entry(const char *name, enum dtype t, int n_dims, const int64_t *shape)
{
    struct safetensor x = { .name = name, .dtype_name = num_dtype_name(t), .dtype = t, .n_dims = n_dims };
    x.shape = shape;
    x.n_elements = 1;
    for (int i = 0; i < n_dims; i++)
        CHECK(!__builtin_mul_overflow(x.n_elements, shape[i], &x.n_elements), "tensor %s: shape overflows",
              name);
    x.bytes = (size_t)x.n_elements * num_dtype_bytes(t);
    return x;
}

/* The most bytes that add_entry() may add. */
static size_t entry_bytes(const struct safetensor *t)
{
    return 6 * strlen(t->name) + 24 * (size_t)t->n_dims + 160;
}

static void add_entry(struct str *s, const struct safetensor *t, uint64_t begin)
{
    str_add(s, ",");
    str_add_json(s, t->name, strlen(t->name));
    str_addf(s, ":{\"dtype\":\"%s\",\"shape\":[", t->dtype_name);
    for (int i = 0; i < t->n_dims; i++)
        str_addf(s, "%s%lld", i ? "," : "", (long long)t->shape[i]);
    str_addf(s, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
             (unsigned long long)begin + t->bytes);
}

enum { PREFIX_BYTES = 8 }; /* the length of the header, little-endian */

static bool build_head(struct str *s, const char *path, const struct safetensor *list, int64_t n,
                       uint64_t *data_bytes, struct err *e)
{
    str_add_bytes(s, "\0\0\0\0\0\0\0", PREFIX_BYTES);
    str_add(s, "{\"__metadata__\":{\"format\":\"pt\"}");
    *data_bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        if (s->bytes - PREFIX_BYTES + entry_bytes(&list[i]) + ALIGN_BYTES > MAX_HEADER_BYTES)
            return err_set(e, "%s: the header of %lld tensors passes the format's limit of %d bytes", path,
                           (long long)n, MAX_HEADER_BYTES);
        add_entry(s, &list[i], *data_bytes);
        *data_bytes += list[i].bytes;
    }
    str_add(s, "}");
    while (s->bytes % ALIGN_BYTES != 0) /* so that the data are aligned in a map */
        str_add(s, " ");
    for (int i = 0; i < PREFIX_BYTES; i++)
        s->text[i] = (char)((s->bytes - PREFIX_BYTES) >> 8 * i & 0xff);
    return true;
}

static bool put_hashed(struct safetensors_writer *w, const void *data, size_t bytes, struct err *e)
{
    hash_add(w->hash, data, bytes);
    return file_put(w->file, data, bytes, e);
}

static bool start(struct safetensors_writer *w, const char *path, const struct safetensor *list, int64_t n,
                  struct err *e)
{
    if (!build_head(&w->head, path, list, n, &w->left_bytes, e))
        return false;
    w->file = file_create(path, e);
    return w->file && put_hashed(w, w->head.text, w->head.bytes, e);
}

/* Head, and where every tensor begins. */
static bool lay_out(struct safetensors_writer *w, const char *path, const struct safetensor *list, int64_t n,
                    struct err *e)
{
    if (!build_head(&w->head, path, list, n, &w->left_bytes, e))
        return false;
    w->n = n;
    w->begin = ARENA_NEW(w->arena, uint64_t, n + 1);
    w->begin[0] = w->head.bytes;
    for (int64_t i = 0; i < n; i++)
        w->begin[i + 1] = w->begin[i] + list[i].bytes;
    return true;
}

static bool start_shared(struct safetensors_writer *w, const char *path, const struct safetensor *list,
                         int64_t n, bool with_header, struct err *e)
{
    if (!lay_out(w, path, list, n, e))
        return false;
    w->file = file_share(path, w->begin[n], e);
    return w->file && (!with_header || file_put_at(w->file, w->head.text, w->head.bytes, 0, e));
}

static bool start_pieces(struct safetensors_writer *w, const char *path, const struct safetensor *list,
                         int64_t n, size_t piece_bytes, struct err *e)
{
    if (!lay_out(w, path, list, n, e))
        return false;
    struct pieces *p = ARENA_NEW(w->arena, struct pieces, 1);
    p->bytes = piece_bytes;
    p->n = (int64_t)((w->begin[n] + piece_bytes - 1) / piece_bytes);
    w->file = file_create_pieces(path, w->begin[n], piece_bytes, e);
    if (!w->file)
        return false;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->turn, NULL);
    w->pieces = p;
    return true;
}

static struct safetensors_writer *new_writer(void)
{
    struct arena *a = arena_new("safetensors");
    struct safetensors_writer *w = ARENA_NEW(a, struct safetensors_writer, 1);
    w->arena = a;
    w->head = str_new(a, MAX_HEADER_BYTES + PREFIX_BYTES);
    w->hash = hash_begin();
    return w;
}

struct safetensors_writer *safetensors_create(const char *path, const struct safetensor *list, int64_t n,
                                              struct err *e)
{
    struct safetensors_writer *w = new_writer();
    if (start(w, path, list, n, e))
        return w;
    safetensors_drop(w);
    return NULL;
}

struct safetensors_writer *safetensors_share(const char *path, const struct safetensor *list, int64_t n,
                                             bool header, struct err *e)
{
    struct safetensors_writer *w = new_writer();
    if (start_shared(w, path, list, n, header, e))
        return w;
    safetensors_drop(w);
    return NULL;
}

struct safetensors_writer *safetensors_create_pieces(const char *path, const struct safetensor *list,
                                                     int64_t n, size_t piece_bytes, struct err *e)
{
    struct safetensors_writer *w = new_writer();
    if (start_pieces(w, path, list, n, piece_bytes, e))
        return w;
    safetensors_drop(w);
    return NULL;
}

int64_t safetensors_n_pieces(const struct safetensors_writer *w)
{
    return w->pieces->n;
}

/* What of the bytes lies in the piece. */
static void keep(struct safetensors_writer *w, const char *data, size_t bytes)
{
    const uint64_t from = w->at > w->first ? w->at : w->first;
    const uint64_t to = w->at + bytes < w->last ? w->at + bytes : w->last;
    if (from < to) {
        memcpy(w->room + (from - w->first), data + (from - w->at), to - from);
        w->left_bytes -= to - from;
    }
    w->at += bytes;
}

struct safetensors_writer *safetensors_piece(struct arena *a, struct safetensors_writer *w, int64_t i,
                                             void *room)
{
    struct safetensors_writer *p = ARENA_NEW(a, struct safetensors_writer, 1);
    const uint64_t first = (uint64_t)i * w->pieces->bytes, end = w->begin[w->n];
    CHECK(i >= 0 && first < end, "piece %lld of %lld", (long long)i, (long long)w->pieces->n);
    *p = (struct safetensors_writer){ .whole = w, .begin = w->begin, .n = w->n, .piece = i, .room = room };
    p->first = first;
    p->last = end - first < w->pieces->bytes ? end : first + w->pieces->bytes;
    p->left_bytes = p->last - p->first;
    keep(p, w->head.text, w->head.bytes);
    return p;
}

int64_t safetensors_wanted(const struct safetensors_writer *p, int64_t tensor, uint64_t *from, uint64_t *to)
{
    int64_t lo = tensor, hi = p->n; /* the first that ends behind the beginning of the piece */
    while (lo < hi) {
        const int64_t middle = lo + (hi - lo) / 2;
        if (p->begin[middle + 1] <= p->first)
            lo = middle + 1;
        else
            hi = middle;
    }
    for (; lo < p->n && p->begin[lo] < p->last; lo++) {
        *from = p->first > p->begin[lo] ? p->first - p->begin[lo] : 0;
        *to = (p->begin[lo + 1] < p->last ? p->begin[lo + 1] : p->last) - p->begin[lo];
        if (*from < *to)
            return lo;
    }
    return -1;
}

/* When the pieces before have gone. Reading memory is many times as fast as any disk, so that nobody waits long. */
static bool hash_in_turn(struct safetensors_writer *w, const struct safetensors_writer *piece)
{
    struct pieces *p = w->pieces;
    pthread_mutex_lock(&p->lock);
    while (p->n_hashed != piece->piece && !p->given_up)
        pthread_cond_wait(&p->turn, &p->lock);
    const bool mine = !p->given_up;
    pthread_mutex_unlock(&p->lock);
    if (!mine)
        return false;
    hash_add(w->hash, piece->room, piece->last - piece->first);
    pthread_mutex_lock(&p->lock);
    p->n_hashed++;
    pthread_cond_broadcast(&p->turn);
    pthread_mutex_unlock(&p->lock);
    return true;
}

bool safetensors_hand_in(struct safetensors_writer *piece, struct err *e)
{
    struct safetensors_writer *w = piece->whole;
    CHECK(piece->left_bytes == 0, "%llu bytes of piece %lld are missing",
          (unsigned long long)piece->left_bytes, (long long)piece->piece);
    return hash_in_turn(w, piece) && file_put_piece(w->file, piece->room, piece->piece, e);
}

void safetensors_give_up(struct safetensors_writer *w)
{
    pthread_mutex_lock(&w->pieces->lock);
    w->pieces->given_up = true;
    pthread_cond_broadcast(&w->pieces->turn);
    pthread_mutex_unlock(&w->pieces->lock);
}

void safetensors_seek(struct safetensors_writer *w, int64_t tensor, uint64_t at)
{
    w->at = w->begin[tensor] + at;
}

bool safetensors_put(struct safetensors_writer *w, const void *data, size_t bytes, struct err *e)
{
    if (w->room) {
        keep(w, data, bytes);
        return true;
    }
    if (w->begin) {
        w->at += bytes;
        return file_put_at(w->file, data, bytes, (int64_t)(w->at - bytes), e);
    }
    CHECK(bytes <= w->left_bytes, "%zu bytes, but the header has room for %llu more", bytes,
          (unsigned long long)w->left_bytes);
    w->left_bytes -= bytes;
    return put_hashed(w, data, bytes, e);
}

/* Frees everything but the file. */
static uint64_t end_hash(struct safetensors_writer *w)
{
    const uint64_t hash = hash_end(w->hash);
    if (w->pieces) {
        pthread_mutex_destroy(&w->pieces->lock);
        pthread_cond_destroy(&w->pieces->turn);
    }
    arena_free(w->arena);
    return hash;
}

bool safetensors_publish(struct safetensors_writer *w, uint64_t *file_bytes, uint64_t *hash, struct err *e)
{
    CHECK(w->pieces ? w->pieces->n_hashed == w->pieces->n : w->left_bytes == 0,
          "%llu bytes of data are missing", (unsigned long long)w->left_bytes);
    struct writer *file = w->file;
    *file_bytes = file_offset(file);
    *hash = end_hash(w);
    return file_publish(file, e);
}

bool safetensors_leave(struct safetensors_writer *w, struct err *e)
{
    struct writer *file = w->file;
    end_hash(w);
    return file_publish(file, e);
}

void safetensors_drop(struct safetensors_writer *w)
{
    if (!w)
        return;
    file_drop(w->file);
    end_hash(w);
}
