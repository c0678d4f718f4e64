/* safetensors.c - reading. The header is untrusted: every size is checked before it is used. */
#include "ckpt/safetensors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "ckpt/name_table.h"
#include <stdlib.h>
#include <string.h>
static const uint64_t max_header_bytes = 100000000; /* of the format */
enum { PREFIX_BYTES = 8, LONG_BYTES = 1 << 17 /* a read that is told to the disk first */ };
struct safetensors {
    const char *path;
    struct map map; /* data = NULL when parsed from memory */
    int64_t n;
    struct safetensor *tensor; /* ascending position */
    struct name_table names;
};
static const struct {
    const char *name;
    int bits;
} types[] = {
    { "F32", 32 },    { "BF16", 16 },   { "F16", 16 }, { "F64", 64 },        { "I32", 32 },
    { "I64", 64 },    { "BOOL", 8 },    { "U8", 8 },   { "I8", 8 },          { "I16", 16 },
    { "U16", 16 },    { "U32", 32 },    { "U64", 64 }, { "F8_E4M3", 8 },     { "F8_E5M2", 8 },
    { "F8_E8M0", 8 }, { "C64", 64 },    { "F4", 4 },   { "F8_E4M3FNUZ", 8 }, { "F8_E5M2FNUZ", 8 },
    { "F6_E2M3", 6 }, { "F6_E3M2", 6 },
};
struct header { /* while it is parsed */
    struct arena *arena;
    const char *path;
    const unsigned char *data; /* behind the header */
    uint64_t data_bytes;
};

static int find_type(const char *name)
{
    for (int i = 0; i < (int)(sizeof types / sizeof *types); i++)
        if (!strcmp(types[i].name, name))
            return i;
    return -1;
}

static bool tensor_err(const struct header *h, const char *name, const char *key, const char *expected,
                       jval found, struct err *e)
{
    return err_set(e, "%s: tensor %s: %s: expected %s, found %s", h->path, name, key, expected,
                   json_type_name(json_type(found)));
}

/* A non-negative integer, as counts and offsets are. */
static bool is_count(jval v)
{
    return json_type(v) == JSON_INT && json_int(v) >= 0;
}

static bool read_dtype(const struct header *h, jval v, struct safetensor *t, int *bits, struct err *e)
{
    size_t bytes = 0;
    if (json_type(v) != JSON_STRING)
        return tensor_err(h, t->name, "dtype", "a string", v, e);
    const int type = find_type(json_string(v, &bytes));
    if (type < 0 || bytes != strlen(types[type].name))
        return err_set(e,
                       "%s: tensor %s: unknown dtype '%.40s', expected one of safetensors (F32, BF16, ...)",
                       h->path, t->name, json_string(v, NULL));
    const int known = num_dtype_from(types[type].name);
    t->dtype_name = types[type].name;
    t->dtype = known < 0 ? DTYPES : (enum dtype)known;
    *bits = types[type].bits;
    return true;
}

static bool read_shape(const struct header *h, jval v, struct safetensor *t, struct err *e)
{
    if (json_type(v) != JSON_ARRAY)
        return tensor_err(h, t->name, "shape", "an array", v, e);
    int64_t *shape = ARENA_NEW(h->arena, int64_t, json_count(v));
    t->n_dims = (int)json_count(v); /* below the header's 10^8 bytes */
    t->shape = shape;
    t->n_elements = 1;
    for (int i = 0; i < t->n_dims; i++) {
        if (!is_count(json_at(v, i)))
            return err_set(e, "%s: tensor %s: shape: expected integers of at least 0", h->path, t->name);
        shape[i] = json_int(json_at(v, i));
        if (__builtin_mul_overflow(t->n_elements, shape[i], &t->n_elements))
            return err_set(e, "%s: tensor %s: shape: more than 2^63 elements", h->path, t->name);
    }
    return true;
}

static bool read_offsets(const struct header *h, jval v, struct safetensor *t, struct err *e)
{
    if (json_type(v) != JSON_ARRAY || json_count(v) != 2 || !is_count(json_at(v, 0)) ||
        !is_count(json_at(v, 1)))
        return err_set(e, "%s: tensor %s: data_offsets: expected two integers of at least 0", h->path,
                       t->name);
    const uint64_t begin = (uint64_t)json_int(json_at(v, 0)), end = (uint64_t)json_int(json_at(v, 1));
    if (begin > end || end > h->data_bytes)
        return err_set(
            e, "%s: tensor %s: data_offsets [%llu, %llu], expected to lie in order within %llu bytes of data",
            h->path, t->name, (unsigned long long)begin, (unsigned long long)end,
            (unsigned long long)h->data_bytes);
    t->data = h->data + begin;
    t->bytes = end - begin;
    return true;
}

static bool check_bytes(const struct header *h, const struct safetensor *t, int bits, struct err *e)
{
    int64_t n_bits;
    if (__builtin_mul_overflow(t->n_elements, (int64_t)bits, &n_bits) || n_bits % 8 != 0)
        return err_set(e, "%s: tensor %s: %lld elements of %s are not a number of bytes", h->path, t->name,
                       (long long)t->n_elements, t->dtype_name);
    return (uint64_t)n_bits / 8 == t->bytes ||
           err_set(e, "%s: tensor %s: %zu bytes, expected %lld for %s %s", h->path, t->name, t->bytes,
                   (long long)n_bits / 8, t->dtype_name, safetensors_shape(h->arena, t->n_dims, t->shape));
}

static bool read_tensor(const struct header *h, const char *name, jval v, struct safetensor *t, struct err *e)
{
    int bits = 0;
    *t = (struct safetensor){ .name = arena_strdup(h->arena, name), .path = h->path };
    if (json_type(v) != JSON_OBJECT)
        return tensor_err(h, name, "entry", "an object", v, e);
    if (!read_dtype(h, json_get(v, "dtype"), t, &bits, e) || !read_shape(h, json_get(v, "shape"), t, e) ||
        !read_offsets(h, json_get(v, "data_offsets"), t, e) || !check_bytes(h, t, bits, e))
        return false;
    return json_count(v) == 3 ||
           err_set(e, "%s: tensor %s: expected the keys dtype, shape and data_offsets only", h->path, name);
}

static bool check_metadata(const struct header *h, jval v, struct err *e)
{
    const char *key;
    if (json_type(v) != JSON_OBJECT)
        return err_set(e, "%s: __metadata__: expected an object, found %s", h->path,
                       json_type_name(json_type(v)));
    for (int64_t i = 0; i < json_count(v); i++)
        if (json_type(json_entry(v, i, &key)) != JSON_STRING)
            return err_set(e, "%s: __metadata__: %.80s: expected a string", h->path, key);
    return true;
}

static bool read_tensors(const struct header *h, jval root, struct safetensors *s, struct err *e)
{
    const char *name;
    if (json_type(root) != JSON_OBJECT)
        return err_set(e, "%s: byte 8: expected a JSON object as header", h->path);
    s->tensor = ARENA_NEW(h->arena, struct safetensor, json_count(root));
    for (int64_t i = 0; i < json_count(root); i++) {
        jval v = json_entry(root, i, &name);
        if (!strcmp(name, "__metadata__") ? !check_metadata(h, v, e)
                                          : !read_tensor(h, name, v, &s->tensor[s->n++], e))
            return false;
    }
    return true;
}

static int by_position(const void *x, const void *y)
{
    const struct safetensor *a = x, *b = y;
    const uintptr_t a_at = (uintptr_t)a->data, b_at = (uintptr_t)b->data;
    if (a_at != b_at)
        return a_at < b_at ? -1 : 1;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* Every byte behind the header belongs to exactly one tensor. */
static bool check_cover(const struct header *h, const struct safetensors *s, struct err *e)
{
    uint64_t end = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const struct safetensor *t = &s->tensor[i];
        const uint64_t begin = (uint64_t)(t->data - h->data);
        if (begin != end)
            return err_set(e, "%s: tensor %s: begins at data byte %llu, expected %llu, the end of %s: %s",
                           h->path, t->name, (unsigned long long)begin, (unsigned long long)end,
                           i ? s->tensor[i - 1].name : "the header",
                           begin < end ? "they overlap" : "there is a hole");
        end += t->bytes;
    }
    return end == h->data_bytes ||
           err_set(e, "%s: data byte %llu: the last tensor ends here, but %llu more bytes follow", h->path,
                   (unsigned long long)end, (unsigned long long)(h->data_bytes - end));
}

/* Bytes of the JSON header; 0 with an error. */
static uint64_t header_bytes(const unsigned char *data, size_t bytes, const char *path, struct err *e)
{
    uint64_t n = 0;
    if (bytes < PREFIX_BYTES) {
        err_set(e, "%s: byte 0: %zu bytes, expected the 8-byte length of the header", path, bytes);
        return 0;
    }
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        n = n << 8 | data[i];
    if (n > max_header_bytes)
        err_set(e, "%s: byte 0: header of %llu bytes, expected at most %llu", path, (unsigned long long)n,
                (unsigned long long)max_header_bytes);
    else if (n > bytes - PREFIX_BYTES)
        err_set(e, "%s: byte 0: header of %llu bytes, but the file has only %zu", path, (unsigned long long)n,
                bytes);
    else if (n == 0 || data[PREFIX_BYTES] != '{')
        err_set(e, "%s: byte 8: expected '{', the begin of the header", path);
    else
        return n;
    return 0;
}

static bool parse_into(struct arena *a, const unsigned char *data, size_t bytes, struct safetensors *s,
                       struct err *e)
{
    const uint64_t n = header_bytes(data, bytes, s->path, e);
    if (n == 0)
        return false;
    const struct header h = { a, s->path, data + PREFIX_BYTES + n, bytes - PREFIX_BYTES - n };
    struct json *j = json_parse((const char *)data + PREFIX_BYTES, n, s->path, e);
    const bool parsed = j && read_tensors(&h, json_root(j), s, e);
    json_free(j);
    if (!parsed)
        return false;
    if (s->n > 1)
        qsort(s->tensor, (size_t)s->n, sizeof *s->tensor, by_position);
    if (!check_cover(&h, s, e))
        return false;
    s->names = name_table_new(a, s->n);
    for (int64_t i = 0; i < s->n; i++) /* the JSON reader refused names that come twice */
        name_table_add(&s->names, s->tensor[i].name, i);
    return true;
}

struct safetensors *safetensors_parse(struct arena *a, const void *data, size_t bytes, const char *path,
                                      struct err *e)
{
    struct safetensors *s = ARENA_NEW(a, struct safetensors, 1);
    s->path = arena_strdup(a, path);
    return parse_into(a, data, bytes, s, e) ? s : NULL;
}

struct safetensors *safetensors_open(struct arena *a, const char *path, struct err *e)
{
    struct safetensors *s = ARENA_NEW(a, struct safetensors, 1);
    s->path = arena_strdup(a, path);
    if (!file_map(a, path, &s->map, e))
        return NULL;
    if (parse_into(a, s->map.data, s->map.bytes, s, e))
        return s;
    file_unmap(&s->map);
    return NULL;
}

void safetensors_close(struct safetensors *s)
{
    if (s)
        file_unmap(&s->map);
}

int64_t safetensors_count(const struct safetensors *s)
{
    return s->n;
}

const struct safetensor *safetensors_at(const struct safetensors *s, int64_t i)
{
    CHECK(i >= 0 && i < s->n, "tensor %lld of %lld", (long long)i, (long long)s->n);
    return &s->tensor[i];
}

const struct safetensor *safetensors_find(const struct safetensors *s, const char *name)
{
    const int64_t i = name_table_find(&s->names, name);
    return i < 0 ? NULL : &s->tensor[i];
}

const char *safetensors_path(const struct safetensors *s)
{
    return s->path;
}

bool safetensors_is_float(const struct safetensor *t)
{
    return t->dtype == F32 || t->dtype == BF16 || t->dtype == F16;
}

const char *safetensors_shape(struct arena *a, int n_dims, const int64_t *shape)
{
    enum { SHOWN = 8 };
    struct str s = str_new(a, 400);
    str_add(&s, "[");
    for (int i = 0; i < n_dims && i < SHOWN; i++)
        str_addf(&s, "%s%lld", i ? ", " : "", (long long)shape[i]);
    str_add(&s, n_dims > SHOWN ? ", ...]" : "]");
    return s.text;
}

bool safetensors_floats(const struct safetensor *t, int64_t begin, int64_t n, float *out, struct err *e)
{
    CHECK(safetensors_is_float(t) && begin >= 0 && n >= 0 && begin <= t->n_elements &&
              n <= t->n_elements - begin,
          "tensor %s: elements [%lld, %lld + %lld)", t->name, (long long)begin, (long long)begin,
          (long long)n);
    const size_t bytes = (size_t)n * num_dtype_bytes(t->dtype);
    if (bytes >= LONG_BYTES)
        file_ahead(t->data + (size_t)begin * num_dtype_bytes(t->dtype), bytes);
    num_to_float(out, t->data + (size_t)begin * num_dtype_bytes(t->dtype), t->dtype, n);
    const int64_t bad = num_first_nonfinite(out, n);
    return bad < 0 || err_set(e, "%s: tensor %s: element %lld is %g, expected a finite number", t->path,
                              t->name, (long long)begin + bad, (double)out[bad]);
}
