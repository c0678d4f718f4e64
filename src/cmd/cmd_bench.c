/* cmd_bench.c - profile, bench step, bench ops, bench grouped-gemm. */
#include "cmd/cmd.h"
#include "run/bench.h"

bool cmd_bench_step(struct arena *a, const struct config *c, struct err *e)
{
    return cmd_start_ranks(c, e) && bench_step(a, c, e);
}

bool cmd_bench_ops(struct arena *a, const struct config *c, struct err *e)
{
    return cmd_start_ranks(c, e) && bench_ops(a, c, e);
}

bool cmd_profile(struct arena *a, const struct config *c, struct err *e)
{
    return cmd_start_ranks(c, e) && bench_profile(a, c, e);
}

bool cmd_bench_grouped(struct arena *a, const struct config *c, struct err *e)
{
    return bench_grouped(a, c, e);
}
