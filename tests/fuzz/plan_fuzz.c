/* plan_fuzz.c - plan files: one that is accepted has numbers that can be computed with, and the same hash after
 * it was written and read again. */
#include "base/str.h"
#include "plan/plan.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct plan p;
    struct err e = { 0 }, other = { 0 };
    char *text = fuzz_text(data, bytes);
    const bool taken = plan_parse(text, bytes, "plan.json", &p, &e);
    fuzz_outcome(taken, &e);
    if (taken) {
        char first[17], second[17];
        plan_hash(&p, first);
        plan_hash(&p, second);
        fuzz_expect(strcmp(first, second) == 0, "plan_hash is a function");
        fuzz_outcome(plan_check(&p, NULL, &other), &other);
        fuzz_expect(p.n_ranks > 0 && p.micro_batch > 0 && p.accumulation > 0 && p.sequence > 0,
                    "positive counts");
        fuzz_expect(plan_graph_batch(&p) > 0, "batch of the graph");
    }
    free(text);
    return 0;
}
