/* safetensors_test.c - what the reader accepts, what it refuses and how, and that the writer's files are read. */
#include "base/arena.h"
#include "base/file.h"
#include "base/hash.h"
#include "ckpt/name_table.h"
#include "ckpt/safetensors.h"
#include "tests/test.h"
#include <stdlib.h>

static const char *at(struct arena *a, const char *name)
{
    return arena_printf(a, "%s/%s", test_dir(), name);
}

/* Bytes of a file with this header and n_data zero bytes behind it. */
static unsigned char *image(struct arena *a, const char *header, size_t n_data, size_t *bytes)
{
    const size_t n = strlen(header);
    unsigned char *p = arena_alloc(a, 8 + n + n_data);
    for (int i = 0; i < 8; i++)
        p[i] = (unsigned char)((uint64_t)n >> 8 * i & 0xff);
    for (size_t i = 0; i < n; i++)
        p[8 + i] = (unsigned char)header[i];
    *bytes = 8 + n + n_data;
    return p;
}

/* The error of parsing it; "" when it is accepted. */
static const char *verdict(struct arena *a, const char *header, size_t n_data)
{
    struct err e = { 0 };
    size_t bytes;
    const unsigned char *p = image(a, header, n_data, &bytes);
    const struct safetensors *s = safetensors_parse(a, p, bytes, "X", &e);
    EXPECT((s != NULL) == (e.text[0] == 0));
    return arena_strdup(a, e.text);
}

#define T(shape, offsets) "\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets

TEST(accepts)
{
    static const struct {
        const char *header;
        size_t n_data;
    } good[] = {
        { "{}", 0 },
        { "{}      ", 0 },
        { "{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\"}}", 0 },
        { "{\"a\":{" T("[2,3]", "[0,24]") "}}", 24 },
        { "{\"a\":{" T("[]", "[0,4]") "}}", 4 },
        { "{\"b\":{" T("[1]", "[4,8]") "},\"a\":{" T("[1]", "[0,4]") "}}", 8 },
        { "{\"a\":{" T("[0,5]", "[0,0]") "},\"b\":{" T("[1]", "[0,4]") "},\"c\":{" T("[0]", "[4,4]") "}}",
          4 },
        { "{\"a\":{\"data_offsets\":[0,3],\"shape\":[4],\"dtype\":\"F6_E2M3\"}}", 3 },
        { "{\"a\":{\"data_offsets\":[0,3],\"shape\":[6],\"dtype\":\"F4\"}}", 3 },
        { "{\"\":{" T("[1]", "[0,4]") "}}", 4 },
    };
    struct arena *a = arena_new("test");
    for (int i = 0; i < (int)(sizeof good / sizeof *good); i++)
        EXPECT_TEXT(verdict(a, good[i].header, good[i].n_data), "");
    arena_free(a);
}

TEST(knows_every_dtype_by_its_bytes)
{
    static const struct {
        const char *name;
        size_t bytes;
    } types[] = { { "BOOL", 1 }, { "U8", 1 },      { "I8", 1 },      { "I16", 2 },
                  { "U16", 2 },  { "F16", 2 },     { "BF16", 2 },    { "I32", 4 },
                  { "U32", 4 },  { "F32", 4 },     { "F64", 8 },     { "I64", 8 },
                  { "U64", 8 },  { "F8_E4M3", 1 }, { "F8_E5M2", 1 }, { "F8_E8M0", 1 } };
    struct arena *a = arena_new("test");
    for (int i = 0; i < (int)(sizeof types / sizeof *types); i++) {
        const char *h = arena_printf(a, "{\"a\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%zu]}}",
                                     types[i].name, 3 * types[i].bytes);
        EXPECT_TEXT(verdict(a, h, 3 * types[i].bytes), "");
        h = arena_printf(a, "{\"a\":{\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,%zu]}}",
                         types[i].name, 3 * types[i].bytes);
        EXPECT(strstr(verdict(a, h, 3 * types[i].bytes), "X: tensor a: "));
    }
    arena_free(a);
}

TEST(refuses_and_says_why)
{
    static const struct {
        const char *header;
        size_t n_data;
        const char *text; /* a part of the message */
    } bad[] = {
        { "", 0, "byte 8: expected '{'" },
        { " {}", 0, "byte 8: expected '{'" },
        { "[]", 0, "byte 8: expected '{'" },
        { "{", 0, "X:1: " },
        { "{}x", 0, "X:1: " },
        { "{}", 1, "data byte 0: the last tensor ends here, but 1 more bytes follow" },
        { "{\"a\":1}", 0, "tensor a: entry: expected an object, found integer" },
        { "{\"a\":{}}", 0, "tensor a: dtype: expected a string, found nothing" },
        { "{\"a\":{\"dtype\":\"F31\",\"shape\":[],\"data_offsets\":[0,0]}}", 0,
          "tensor a: unknown dtype 'F31'" },
        { "{\"a\":{\"dtype\":\"F32\\u0000\",\"shape\":[],\"data_offsets\":[0,4]}}", 4,
          "tensor a: unknown dtype" },
        { "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,0]}}", 0,
          "tensor a: shape: expected an array, found nothing" },
        { "{\"a\":{" T("[-1]", "[0,0]") "}}", 0, "tensor a: shape: expected integers of at least 0" },
        { "{\"a\":{" T("[1.5]", "[0,0]") "}}", 0, "tensor a: shape: expected integers of at least 0" },
        { "{\"a\":{" T("[4294967296,4294967296]", "[0,0]") "}}", 0,
          "tensor a: shape: more than 2^63 elements" },
        { "{\"a\":{" T("[4611686018427387904]", "[0,0]") "}}", 0, "are not a number of bytes" },
        { "{\"a\":{" T("[99999999999999999999]", "[0,0]") "}}", 0, "X:1: " },
        { "{\"a\":{" T("[1]", "[0]") "}}", 4, "tensor a: data_offsets: expected two integers" },
        { "{\"a\":{" T("[1]", "[0,4,8]") "}}", 8, "tensor a: data_offsets: expected two integers" },
        { "{\"a\":{" T("[1]", "[4,0]") "}}", 4, "tensor a: data_offsets [4, 0]" },
        { "{\"a\":{" T("[1]", "[-4,0]") "}}", 4,
          "tensor a: data_offsets: expected two integers of at least 0" },
        { "{\"a\":{" T("[1]", "[0,8]") "}}", 4, "expected to lie in order within 4 bytes of data" },
        { "{\"a\":{" T("[2]", "[0,4]") "}}", 4, "tensor a: 4 bytes, expected 8 for F32 [2]" },
        { "{\"a\":{" T("[1]", "[0,4]") ",\"x\":1}}", 4,
          "tensor a: expected the keys dtype, shape and data_offsets only" },
        { "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "are not a number of bytes" },
        { "{\"a\":{" T("[1]", "[0,4]") "},\"b\":{" T("[1]", "[0,4]") "}}", 4,
          "expected 4, the end of a: they overlap" },
        { "{\"a\":{" T("[2]", "[0,8]") "},\"b\":{" T("[1]", "[4,8]") "}}", 8,
          "tensor b: begins at data byte 4, expected 8" },
        { "{\"a\":{" T("[1]", "[0,4]") "},\"b\":{" T("[1]", "[8,12]") "}}", 12, "there is a hole" },
        { "{\"a\":{" T("[1]", "[4,8]") "}}", 8,
          "tensor a: begins at data byte 4, expected 0, the end of the header" },
        { "{\"a\":{" T("[1]", "[0,4]") "},\"a\":{" T("[1]", "[4,8]") "}}", 8, "duplicate" },
        { "{\"__metadata__\":1}", 0, "__metadata__: expected an object, found integer" },
        { "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: a: expected a string" },
    };
    struct arena *a = arena_new("test");
    for (int i = 0; i < (int)(sizeof bad / sizeof *bad); i++) {
        const char *got = verdict(a, bad[i].header, bad[i].n_data);
        EXPECTF(strstr(got, bad[i].text), "%s: got '%s', expected '%s'", bad[i].header, got, bad[i].text);
        EXPECTF(!strncmp(got, "X", 1), "'%s' does not begin with the path", got);
    }
    arena_free(a);
}

TEST(refuses_lying_header_lengths)
{
    struct arena *a = arena_new("test");
    unsigned char head[64] = { 0 };
    for (size_t n = 0; n < 8; n++) {
        struct err e = { 0 };
        EXPECT(!safetensors_parse(a, head, n, "X", &e) &&
               strstr(e.text, "expected the 8-byte length of the header"));
    }
    static const uint64_t lengths[] = { 100000001, UINT64_MAX, (uint64_t)1 << 63, 57, 100000000 };
    for (int i = 0; i < 5; i++) {
        struct err e = { 0 };
        memset(head, ' ', sizeof head);
        memcpy(head, &lengths[i], 8); /* little endian, as every machine that this is built for */
        head[8] = '{';
        EXPECT(!safetensors_parse(a, head, sizeof head, "X", &e) && strstr(e.text, "X: byte 0: header of "));
        EXPECT_INT(e.code, EXIT_INPUT);
    }
    arena_free(a);
}

/* Every prefix of a good file is refused, without reading behind its end (the copies have exact lengths). */
TEST(refuses_every_truncation)
{
    struct arena *a = arena_new("test");
    size_t bytes;
    const unsigned char *p =
        image(a, "{\"a\":{" T("[2]", "[0,8]") "},\"b\":{" T("[1]", "[8,12]") "}}", 12, &bytes);
    for (size_t n = 0; n < bytes; n++) {
        struct err e = { 0 };
        unsigned char *cut = arena_alloc(a, n);
        memcpy(cut, p, n);
        EXPECTF(!safetensors_parse(a, cut, n, "X", &e), "accepted %zu of %zu bytes", n, bytes);
    }
    arena_free(a);
}

/* Any change of one bit in the header is refused, or gives tensors that still lie in the data. */
TEST(flipped_bits_stay_inside)
{
    struct arena *a = arena_new("test");
    size_t bytes;
    unsigned char *p = image(a, "{\"a\":{" T("[2]", "[0,8]") "},\"b\":{" T("[1]", "[8,12]") "}}", 12, &bytes);
    int accepted = 0;
    for (size_t bit = 0; bit < 8 * bytes; bit++) {
        struct err e = { 0 };
        p[bit / 8] ^= (unsigned char)(1 << bit % 8);
        const struct safetensors *s = safetensors_parse(a, p, bytes, "X", &e);
        accepted += s != NULL;
        for (int64_t i = 0; s && i < safetensors_count(s); i++) {
            const struct safetensor *t = safetensors_at(s, i);
            EXPECT(t->data >= p && t->data + t->bytes <= p + bytes);
        }
        p[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    EXPECT(accepted >= 96); /* the bits of the data at least */
    arena_free(a);
}

TEST(writes_what_it_reads)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *path = at(a, "written.safetensors");
    const float x[6] = { 1, -2, 3.5f, 0, 1e-30f, 7 };
    const uint16_t half[3] = { 0x3c00, 0xbc00, 0x0001 };
    const struct safetensor list[] = {
        safetensors_entry("layers.10.w", F32, 2, (const int64_t[]){ 2, 3 }),
        safetensors_entry("name \"with\" \\ \xc3\xa4", F16, 1, (const int64_t[]){ 3 }),
        safetensors_entry("empty", BF16, 2, (const int64_t[]){ 0, 7 }),
        safetensors_entry("scalar", F32, 0, NULL),
    };
    uint64_t bytes, hash;
    size_t read_bytes;
    struct safetensors_writer *w = safetensors_create(path, list, 4, &e);
    EXPECT(w && !file_exists(path));
    EXPECT(safetensors_put(w, x, 8, &e) && safetensors_put(w, (const char *)x + 8, 16, &e));
    EXPECT(safetensors_put(w, half, 6, &e) && safetensors_put(w, &x[2], 4, &e));
    EXPECT(safetensors_publish(w, &bytes, &hash, &e));
    const char *text = file_read(a, path, 1 << 20, &read_bytes, &e);
    EXPECT(text && read_bytes == bytes && hash_bytes(text, read_bytes) == hash);
    struct safetensors *s = safetensors_open(a, path, &e);
    EXPECTF(s != NULL, "%s", e.text);
    if (s) {
        float out[3];
        EXPECT_INT(safetensors_count(s), 4);
        EXPECT(((uintptr_t)safetensors_at(s, 0)->data & 7) == 0);
        for (int i = 0; i < 4; i++) {
            const struct safetensor *t = safetensors_find(s, list[i].name);
            EXPECT(t && t->dtype == list[i].dtype && t->n_dims == list[i].n_dims &&
                   t->bytes == list[i].bytes);
            for (int k = 0; t && k < t->n_dims; k++)
                EXPECT_INT(t->shape[k], list[i].shape[k]);
        }
        const char *stored = (const char *)safetensors_find(s, "layers.10.w")->data;
        EXPECT(!memcmp(stored, (const char *)x, sizeof x));
        EXPECT(safetensors_floats(safetensors_find(s, list[1].name), 1, 2, out, &e) && out[0] == -1 &&
               out[1] == 0x1p-24f);
        EXPECT(!safetensors_find(s, "layers.1.w"));
        safetensors_close(s);
    }
    arena_free(a);
}

TEST(names_tensor_and_element_of_nan)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    size_t bytes;
    float out[8];
    unsigned char *p =
        image(a, "{\"w\":{\"dtype\":\"BF16\",\"shape\":[8],\"data_offsets\":[0,16]}}", 16, &bytes);
    const uint16_t infinity = 0xff80;
    memcpy(p + bytes - 4, &infinity, 2);
    const struct safetensors *s = safetensors_parse(a, p, bytes, "X", &e);
    EXPECT(s && safetensors_floats(safetensors_at(s, 0), 0, 6, out, &e));
    EXPECT(s && !safetensors_floats(safetensors_at(s, 0), 5, 3, out, &e));
    EXPECT_TEXT(e.text, "X: tensor w: element 6 is -inf, expected a finite number");
    arena_free(a);
}

TEST(writer_that_is_dropped_leaves_nothing)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    int64_t n_before, n_after;
    const char *path = at(a, "dropped.safetensors");
    const struct safetensor list[] = { safetensors_entry("a", F32, 1, (const int64_t[]){ 1000 }) };
    file_list(a, test_dir(), &n_before, &e);
    struct safetensors_writer *w = safetensors_create(path, list, 1, &e);
    EXPECT(w && safetensors_put(w, at, 100, &e));
    safetensors_drop(w);
    safetensors_drop(NULL);
    file_list(a, test_dir(), &n_after, &e);
    EXPECT_INT(n_after, n_before);
    EXPECT(!safetensors_create(at(a, "no/such/directory/x"), list, 1, &e));
    EXPECT(strstr(e.text, "no/such/directory/x: cannot create"));
    arena_free(a);
}

TEST(finds_names_among_many)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    enum { N = 20000 };
    struct safetensor *list = ARENA_NEW(a, struct safetensor, N);
    const char *path = at(a, "many.safetensors");
    const int64_t one = 1;
    uint64_t bytes, hash;
    for (int i = 0; i < N; i++)
        list[i] = safetensors_entry(
            arena_printf(a, "model.layers.%d.mlp.experts.%d.up_proj.weight", i / 64, i % 64), I32, 1, &one);
    struct safetensors_writer *w = safetensors_create(path, list, N, &e);
    for (int32_t i = 0; w && i < N; i++)
        EXPECT(safetensors_put(w, &i, sizeof i, &e));
    EXPECT(w && safetensors_publish(w, &bytes, &hash, &e));
    struct safetensors *s = safetensors_open(a, path, &e);
    EXPECT(s && safetensors_count(s) == N);
    for (int32_t i = 0; s && i < N; i++) {
        const struct safetensor *t = safetensors_find(s, list[i].name);
        EXPECT(t && !memcmp(t->data, &i, sizeof i));
    }
    EXPECT(s && !safetensors_find(s, "model.layers.0.mlp.experts.64.up_proj.weight"));
    safetensors_close(s);
    arena_free(a);
}

TEST(order_of_names)
{
    static const char *const ascending[] = { "",
                                             "a",
                                             "a0",
                                             "a00",
                                             "a1",
                                             "a01",
                                             "a1b",
                                             "a2",
                                             "a10",
                                             "a10.b.9",
                                             "a10.b.10",
                                             "a99999999999999999999998",
                                             "a99999999999999999999999",
                                             "b" };
    const int n = (int)(sizeof ascending / sizeof *ascending);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const int got = name_compare(ascending[i], ascending[j]);
            const bool same_number = (i == 4 || i == 5) && (j == 4 || j == 5); /* "a1" and "a01": by bytes */
            EXPECTF(same_number || (got > 0) - (got < 0) == (i > j) - (i < j), "%s against %s gives %d",
                    ascending[i], ascending[j], got);
        }
    EXPECT(name_compare("a01", "a1") < 0 && name_compare("a1", "a01") > 0);
}
