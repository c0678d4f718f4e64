/* tree.c - see tree.h. */
#include "plan/tree.h"

int plan_groups(const struct plan *p)
{
    return plan_workers(p) / p->tensor_parallel;
}

int plan_own_shards(const struct plan *p)
{
    return p->shards ? p->shards / plan_groups(p) : 1;
}

int plan_tree_levels(const struct plan *p)
{
    int levels = 0;
    while (1 << levels < plan_own_shards(p))
        levels++;
    return levels;
}

int64_t plan_shard_micro(const struct plan *p)
{
    return p->accumulation / plan_own_shards(p);
}

/* Micro-batch j of shard s comes behind micro-batch j of the shards before it: with as many shards as workers, samples go
 * to the workers as they do without shards. */
int64_t plan_sample(const struct plan *p, int64_t micro, int worker, int64_t i)
{
    const int64_t each = plan_shard_micro(p);
    if (p->shards == 0)
        return (micro * plan_workers(p) + worker) * p->micro_batch + i;
    const int64_t shard = worker / p->tensor_parallel * plan_own_shards(p) + micro / each;
    return ((micro % each * p->shards + shard) * p->tensor_parallel + worker % p->tensor_parallel) *
               p->micro_batch +
           i;
}

/* A power of two for each: else a worker's shards are no node of the tree. */
static bool shares_out(const struct plan *p)
{
    const int own = p->shards / plan_groups(p);
    return p->shards % plan_groups(p) == 0 && own > 0 && (own & (own - 1)) == 0;
}

bool plan_tree_fits(const struct plan *p)
{
    return p->shards == 0 || (shares_out(p) && p->accumulation % plan_own_shards(p) == 0 &&
                              (p->tensor_parallel == 1 || p->expert_parallel == 1));
}

bool plan_tree_check(const struct plan *p, struct err *e)
{
    if (p->shards < 0 || p->shards > PLAN_SHARDS || (p->shards && !p->reproducible))
        return err_set(e, "plan: reproducible_shards = %d, expected 0 to %d, and 0 without reproducible",
                       p->shards, PLAN_SHARDS);
    if (plan_tree_fits(p))
        return true;
    if (!shares_out(p))
        return err_set(e,
                       "plan: reproducible_shards = %d, expected the %d workers of a stage (tensor groups) "
                       "times a power of two",
                       p->shards, plan_groups(p));
    if (p->accumulation % plan_own_shards(p))
        return err_set(e, "plan: accumulation = %lld, expected a multiple of the %d shards of a worker",
                       (long long)p->accumulation, plan_own_shards(p));
    return err_set(e,
                   "plan: expert_parallel = %d, expected 1 with reproducible_shards and tensor_parallel = %d",
                   p->expert_parallel, p->tensor_parallel);
}
