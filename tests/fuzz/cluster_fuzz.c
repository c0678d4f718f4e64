/* cluster_fuzz.c - cluster descriptions: the rates of an accepted one can be divided by. */
#include "plan/cluster.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct err e = { 0 };
    struct cluster c;
    const struct fuzz_path p = fuzz_path(data, bytes);
    struct arena *a = arena_new("cluster");
    const bool taken = cluster_read(a, p.path, &c, &e);
    fuzz_outcome(taken, &e);
    if (taken) {
        char signature[17];
        cluster_signature(&c, signature);
        fuzz_expect(strlen(signature) == 16, "signature");
        fuzz_expect(c.flops_per_s > 0 && c.inside.bytes_per_s[0] > 0 && c.between.latency_us > 0 &&
                        c.ranks_per_node > 0 && c.memory_bytes > 0,
                    "positive rates");
    }
    arena_free(a);
    fuzz_path_end(&p);
    return 0;
}
