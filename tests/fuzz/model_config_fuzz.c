/* config.json of a model: any bytes give a configuration or one line; small configurations give a sound graph. */
#include "base/err.h"
#include "model/deepseek_v2.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct model_config m;
    struct err e = { 0 };
    if (!model_config_parse((const char *)data, bytes, "config.json", &m, &e)) {
        CHECK(e.text[0] && e.code, "no message");
        return 0;
    }
    if (m.layers > 4 || m.experts > 16 || m.width > 4096 || m.rope_width > 256)
        return 0;
    struct arena *a = arena_new("fuzz");
    struct model_values v;
    const struct model_options o = { .batch = 1, .sequence = 4 };
    CHECK(graph_check(deepseek_v2_graph(a, &m, &o, &v), &e), "%s", e.text);
    arena_free(a);
    return 0;
}
