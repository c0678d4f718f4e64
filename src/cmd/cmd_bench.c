/* cmd_bench.c - bench step, bench ops, bench grouped-gemm. */
#include "base/pool.h"
#include "cmd/cmd.h"
#include "device/comm.h"
#include "run/bench.h"

static bool start(const struct config *c, struct err *e)
{
    if (!comm_start(e))
        return false;
    const int share = pool_cores() / comm_local_ranks();
    pool_start(c->threads ? (int)c->threads : share > 1 ? share : 1);
    return true;
}

bool cmd_bench_step(struct arena *a, const struct config *c, struct err *e)
{
    return start(c, e) && bench_step(a, c, e);
}

bool cmd_bench_ops(struct arena *a, const struct config *c, struct err *e)
{
    return start(c, e) && bench_ops(a, c, e);
}

bool cmd_bench_grouped(struct arena *a, const struct config *c, struct err *e)
{
    return bench_grouped(a, c, e);
}
