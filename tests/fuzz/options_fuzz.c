/* Flags: the bytes are cut at 0 into the arguments of `train`. */
#include "base/err.h"
#include "config/config.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct arena *a = arena_new("fuzz");
    char *text = arena_alloc(a, bytes + 1), *argv[64];
    struct config c;
    struct err e = { 0 };
    int n = 0;
    for (size_t i = 0; i < bytes; i++) {
        text[i] = (char)data[i];
        if ((i == 0 || data[i - 1] == 0) && n < 64)
            argv[n++] = text + i;
    }
    if (!config_parse(a, "train", n, argv, &c, &e))
        CHECK(e.text[0] && e.code == EXIT_USAGE, "%d %s", e.code, e.text);
    arena_free(a);
    return 0;
}
