/* dataset_fuzz.c - a prepared dataset: the description up to the first 0 byte, then the tokens. */
#include "data/dataset.h"
#include "tests/fuzz/fuzz.h"

static void use(const struct dataset *d)
{
    int64_t order[64], sum = 0;
    fuzz_expect(d->n_sequences >= 0 && d->sequence_length > 0, "counts");
    for (int64_t i = 0; i < d->n_sequences * d->sequence_length; i++)
        sum += d->tokens[i];
    fuzz_expect(sum >= INT64_MIN / 2, "tokens can be read");
    if (d->n_sequences > 0 && d->n_sequences <= 64) {
        dataset_order(1, 2, d->n_sequences, order);
        for (int64_t i = 0; i < d->n_sequences; i++)
            fuzz_expect(order[i] >= 0 && order[i] < d->n_sequences, "order");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    size_t rest;
    const size_t n = fuzz_part(data, bytes, &rest);
    fuzz_file("dataset.json", data, n);
    fuzz_file("tokens.bin", data + rest, bytes - rest);
    for (int quick = 0; quick < 2; quick++) {
        struct arena *a = arena_new("fuzz");
        struct dataset d;
        struct err e = { 0 };
        const bool taken = dataset_open(a, fuzz_directory(), quick, &d, &e);
        fuzz_outcome(taken, &e);
        if (taken) {
            use(&d);
            dataset_close(&d);
        }
        arena_free(a);
    }
    return 0;
}
