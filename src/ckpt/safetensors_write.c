/* safetensors_write.c - writing: the header from the list, then the data as they come. */
#include "base/file.h"
#include "base/hash.h"
#include "base/str.h"
#include "ckpt/safetensors.h"
#include <string.h>
enum { MAX_HEADER_BYTES = 100000000, ALIGN_BYTES = 8 };
struct safetensors_writer {
    struct arena *arena;
    struct writer *file;
    struct hash_state *hash;
    uint64_t left_bytes; /* of the data */
    uint64_t *begin, at; /* of a shared file: where every tensor begins; where the next bytes go */
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

static bool build_header(struct str *s, const char *path, const struct safetensor *list, int64_t n,
                         uint64_t *data_bytes, struct err *e)
{
    str_add(s, "{\"__metadata__\":{\"format\":\"pt\"}");
    *data_bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        if (s->bytes + entry_bytes(&list[i]) + ALIGN_BYTES > MAX_HEADER_BYTES)
            return err_set(e, "%s: the header of %lld tensors passes the format's limit of %d bytes", path,
                           (long long)n, MAX_HEADER_BYTES);
        add_entry(s, &list[i], *data_bytes);
        *data_bytes += list[i].bytes;
    }
    str_add(s, "}");
    while (s->bytes % ALIGN_BYTES != 0) /* so that the data are aligned in a map */
        str_add(s, " ");
    return true;
}

static bool put_hashed(struct safetensors_writer *w, const void *data, size_t bytes, struct err *e)
{
    hash_add(w->hash, data, bytes);
    return file_put(w->file, data, bytes, e);
}

enum { PREFIX_BYTES = 8 }; /* the length of the header */

static void make_prefix(unsigned char prefix[PREFIX_BYTES], uint64_t header_bytes)
{
    for (int i = 0; i < PREFIX_BYTES; i++)
        prefix[i] = (unsigned char)(header_bytes >> 8 * i & 0xff);
}

static bool start(struct safetensors_writer *w, const char *path, const struct safetensor *list, int64_t n,
                  struct err *e)
{
    unsigned char prefix[PREFIX_BYTES];
    struct str header = str_new(w->arena, MAX_HEADER_BYTES);
    if (!build_header(&header, path, list, n, &w->left_bytes, e))
        return false;
    w->file = file_create(path, e);
    if (!w->file)
        return false;
    make_prefix(prefix, header.bytes);
    return put_hashed(w, prefix, sizeof prefix, e) && put_hashed(w, header.text, header.bytes, e);
}

static bool start_shared(struct safetensors_writer *w, const char *path, const struct safetensor *list,
                         int64_t n, bool with_header, struct err *e)
{
    unsigned char prefix[PREFIX_BYTES];
    struct str header = str_new(w->arena, MAX_HEADER_BYTES);
    if (!build_header(&header, path, list, n, &w->left_bytes, e))
        return false;
    w->begin = ARENA_NEW(w->arena, uint64_t, n + 1);
    w->begin[0] = PREFIX_BYTES + header.bytes;
    for (int64_t i = 0; i < n; i++)
        w->begin[i + 1] = w->begin[i] + list[i].bytes;
    w->file = file_share(path, w->begin[n], e);
    if (!w->file)
        return false;
    make_prefix(prefix, header.bytes);
    return !with_header || (file_put_at(w->file, prefix, sizeof prefix, 0, e) &&
                            file_put_at(w->file, header.text, header.bytes, PREFIX_BYTES, e));
}

static struct safetensors_writer *new_writer(void)
{
    struct arena *a = arena_new("safetensors");
    struct safetensors_writer *w = ARENA_NEW(a, struct safetensors_writer, 1);
    w->arena = a;
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

void safetensors_seek(struct safetensors_writer *w, int64_t tensor, uint64_t at)
{
    w->at = w->begin[tensor] + at;
}

bool safetensors_put(struct safetensors_writer *w, const void *data, size_t bytes, struct err *e)
{
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
    arena_free(w->arena);
    return hash;
}

bool safetensors_publish(struct safetensors_writer *w, uint64_t *file_bytes, uint64_t *hash, struct err *e)
{
    CHECK(w->left_bytes == 0, "%llu bytes of data are missing", (unsigned long long)w->left_bytes);
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
