/* checkpoint_fuzz.c - a checkpoint directory: manifest, index of tensors, and one shard, divided by 0 bytes. */
#include "ckpt/ckpt.h"
#include "tests/fuzz/fuzz.h"

static void ignore(const char *line)
{
    fuzz_expect(line[0] != 0 && strchr(line, '\n') == NULL, "a problem is one line");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char *const names[] = { "checkpoint.json", "model.safetensors.index.json" };
    size_t rest;
    for (int i = 0; i < 2; i++) {
        const size_t n = fuzz_part(data, bytes, &rest);
        fuzz_file(names[i], data, n);
        data += rest;
        bytes -= rest;
    }
    fuzz_file("model-00001-of-00001.safetensors", data, bytes);
    fuzz_file("config.json", (const uint8_t *)"{}", 2);
    fuzz_file("train_state.json", (const uint8_t *)"{}", 2);
    struct arena *a = arena_new("fuzz");
    struct err e = { 0 }, other = { 0 };
    struct ckpt *c = ckpt_open(a, fuzz_directory(), &e);
    fuzz_outcome(c != NULL, &e);
    fuzz_expect(!c || ckpt_n_tensors(c) >= 0, "number of tensors");
    if (c)
        ckpt_close(c);
    fuzz_outcome(ckpt_verify(fuzz_directory(), ignore, &other), &other);
    arena_free(a);
    return 0;
}
