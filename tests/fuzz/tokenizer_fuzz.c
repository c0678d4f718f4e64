/* tokenizer_fuzz.c - tokenizer.json; one that is accepted must encode and decode without reading where it may not. */
#include "data/bpe.h"
#include "tests/fuzz/fuzz.h"

static void use(const struct bpe *t)
{
    static const char text[] =
        "int main(void) { return 42; } \xe4\xb8\xad\xe6\x96\x87 \xff\xfe don't <s></s>\n\t  x";
    struct err e = { 0 };
    const int32_t *ids;
    size_t bytes;
    struct arena *a = arena_new("fuzz");
    struct bpe_encoder *x = bpe_encoder_new(t);
    const int64_t n = bpe_encode(x, text, sizeof text - 1, &ids, &e);
    fuzz_outcome(n >= 0, &e);
    for (int64_t i = 0; i < n; i++)
        fuzz_expect(ids[i] >= 0 && ids[i] < bpe_vocab_size(t), "ids below the vocabulary's size");
    if (n >= 0)
        bpe_decode(t, a, ids, n, false, &bytes);
    bpe_encoder_free(x);
    arena_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct err e = { 0 };
    const struct fuzz_path p = fuzz_path(data, bytes);
    struct bpe *t = bpe_open(p.path, &e);
    fuzz_outcome(t != NULL, &e);
    if (t) {
        use(t);
        bpe_close(t);
    }
    fuzz_path_end(&p);
    return 0;
}
