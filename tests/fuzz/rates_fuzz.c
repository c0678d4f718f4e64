/* rates_fuzz.c - tables of operators' rates: times of an accepted one are numbers, of its own calls and of others. */
#include "plan/rates.h"
#include "tests/fuzz/fuzz.h"
#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct err e = { 0 };
    struct rates r;
    struct arena *a = arena_new("rates");
    const struct fuzz_path p = fuzz_path(data, bytes);
    const bool taken = rates_read(a, p.path, &r, &e);
    fuzz_outcome(taken, &e);
    for (int i = 0; taken && i < r.n_entries; i++) {
        struct rates_call c = r.entry[i].call;
        fuzz_expect(rates_seconds(&r, &c, 1, 1, 0) > 0, "seconds of a call");
        c.dim[0]++;
        fuzz_expect(isfinite(rates_seconds(&r, &c, 1e9, 1e9, 0)), "seconds of another");
    }
    arena_free(a);
    fuzz_path_end(&p);
    return 0;
}
