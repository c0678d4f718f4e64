/* safetensors_fuzz.c - safetensors files: every byte of an accepted one belongs to one tensor, inside the file. */
#include "ckpt/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void use(const struct safetensor *t, const char *begin, const char *end)
{
    float first[4];
    struct err e = { 0 };
    fuzz_expect((const char *)t->data >= begin && (const char *)t->data + t->bytes <= end,
                "data inside the file");
    const int64_t n = t->n_elements < 4 ? t->n_elements : 4;
    if (safetensors_is_float(t))
        fuzz_outcome(safetensors_floats(t, t->n_elements - n, n, first, &e), &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct err e = { 0 };
    struct arena *a = arena_new("fuzz");
    char *copy = fuzz_text(data, bytes);
    struct safetensors *s = safetensors_parse(a, copy, bytes, "model.safetensors", &e);
    fuzz_outcome(s != NULL, &e);
    for (int64_t i = 0; s && i < safetensors_count(s); i++) {
        const struct safetensor *t = safetensors_at(s, i);
        use(t, copy, copy + bytes);
        fuzz_expect(safetensors_find(s, t->name) == t, "found by its name");
    }
    safetensors_close(s);
    arena_free(a);
    free(copy);
    return 0;
}
