/* cmd_bench.c - bench step, bench grouped-gemm. */
#include "base/pool.h"
#include "cmd/cmd.h"
#include "device/comm.h"
#include "run/bench.h"

bool cmd_bench_step(struct arena *a, const struct config *c, struct err *e)
{
    comm_start();
    const int share = pool_cores() / comm_local_ranks();
    pool_start(c->threads ? (int)c->threads : share > 1 ? share : 1);
    return bench_step(a, c, e);
}

bool cmd_bench_grouped(struct arena *a, const struct config *c, struct err *e)
{
    return bench_grouped(a, c, e);
}
