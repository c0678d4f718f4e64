/* model_config_fuzz.c - config.json of a model, and what is computed from one that was accepted. */
#include "model/deepseek_v2.h"
#include "model/model.h"
#include "tests/fuzz/fuzz.h"
#include <math.h>

static void use(const struct model_config *m)
{
    double honest, example, multiplier;
    model_flops_per_token(m, 64, &honest, &example);
    fuzz_expect(isfinite(honest) && honest > 0, "FLOPs");
    fuzz_expect(isfinite(model_softmax_scale(m)), "softmax scale");
    if (m->rope_width > 4096)
        return;
    double frequency[2048];
    model_rope_frequencies(m, frequency, &multiplier);
    for (int64_t i = 0; i < m->rope_width / 2; i++)
        fuzz_expect(isfinite(frequency[i]), "rotary frequency");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct model_config m;
    struct err e = { 0 };
    char *text = fuzz_text(data, bytes);
    const bool taken = model_config_parse(text, bytes, "config.json", &m, &e);
    fuzz_outcome(taken, &e);
    if (taken)
        use(&m);
    free(text);
    return 0;
}
