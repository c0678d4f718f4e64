/* train_state.json: what is read is written again unchanged. */
#include "base/err.h"
#include "run/position.h"
#include <string.h>
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct arena *a = arena_new("fuzz");
    struct position p, q;
    struct err e = { 0 };
    if (position_parse(arena_strndup(a, (const char *)data, bytes), "train_state.json", &p, &e)) {
        const char *text = position_write(a, &p);
        CHECK(position_parse(text, "again", &q, &e), "%s", e.text);
        CHECK(strcmp(position_write(a, &q), text) == 0, "%s", text);
    } else {
        CHECK(e.text[0] && e.code, "no message");
    }
    arena_free(a);
    return 0;
}
