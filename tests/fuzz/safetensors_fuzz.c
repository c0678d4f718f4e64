/* safetensors_fuzz.c - any bytes as a safetensors file. The first byte chooses: the rest is the file; or it is
 * header and data, and the length in front is made to fit, so that mutations reach what lies behind it. */
#include "ckpt/safetensors.h"
#include "tests/fuzz/fuzz.h"

/* Every tensor lies in the file, they adjoin, and a name finds its tensor. */
static void check(const struct safetensors *s, const unsigned char *file, size_t bytes)
{
    const unsigned char *end = NULL;
    for (int64_t i = 0; i < safetensors_count(s); i++) {
        const struct safetensor *t = safetensors_at(s, i);
        const int64_t n = t->n_elements < 16 ? t->n_elements : 16;
        struct err e = { 0 };
        float x[16];
        fuzz_expect(t->data >= file + 8 && t->bytes <= bytes && t->data + t->bytes <= file + bytes,
                    "data inside the file");
        fuzz_expect(!end || t->data == end, "tensors that adjoin");
        fuzz_expect(safetensors_find(s, t->name) == t, "found by its name");
        if (safetensors_is_float(t))
            fuzz_outcome(safetensors_floats(t, t->n_elements - n, n, x, &e), &e);
        end = t->data + t->bytes;
    }
    fuzz_expect(!end || end == file + bytes, "no byte behind the last tensor");
}

static size_t header_bytes(const uint8_t *text, size_t bytes)
{
    while (bytes > 0 && text[bytes - 1] != '}')
        bytes--;
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    const bool framed = data[0] & 1;
    struct arena *a = arena_new("fuzz");
    struct err e = { 0 };
    const size_t n = bytes - 1 + (framed ? 8 : 0), n_header = header_bytes(data + 1, bytes - 1);
    unsigned char *file = arena_alloc(a, n);
    if (framed)
        for (int i = 0; i < 8; i++)
            file[i] = (unsigned char)((uint64_t)n_header >> 8 * i & 0xff);
    memcpy(file + (framed ? 8 : 0), data + 1, bytes - 1);
    const struct safetensors *s = safetensors_parse(a, file, n, "fuzz.safetensors", &e);
    fuzz_outcome(s != NULL, &e);
    if (s)
        check(s, file, n);
    arena_free(a);
    return 0;
}
