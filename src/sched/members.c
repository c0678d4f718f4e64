/* members.c - which ranks an instruction needs together: what executes, predicts and simulates it asks here. */
#include "sched/sched.h"

enum group_kind sched_group(enum instr_kind kind)
{
    switch (kind) {
    case RUN_ROUTE:
    case RUN_SEND:
    case RUN_RETURN:
        return GROUP_EXPERT;
    case RUN_TENSOR_GATHER:
    case RUN_TENSOR_SCATTER:
        return GROUP_TENSOR;
    case RUN_REDUCE:
        return GROUP_REPLICA;
    case RUN_MIRROR:
        return GROUP_MIRROR;
    case RUN_GATHER:
        return GROUP_SHARD;
    case RUN_SUM_ENDS:
        return GROUP_ENDS;
    case RUN_NORM_SUM:
        return GROUP_ALL;
    case RUN_PASS_OUT:
    case RUN_PASS_IN: /* of two ranks that need not meet */
    case RUN_OP:
    case RUN_ZERO:
    case RUN_ROUND:
    case RUN_ROUND_END:
    case RUN_PACK:
    case RUN_UNPACK:
    case RUN_PARTS:
    case RUN_TO_HOST:
    case RUN_FROM_HOST:
    case RUN_AWAIT_HOST:
        break;
    }
    return GROUP_SELF;
}

static struct members of_flat(const struct plan *p, int rank, enum group_kind kind, int flat)
{
    const struct flat f = layout_flat(p, rank, flat);
    if (kind == GROUP_MIRROR)
        return (struct members){ f.first_rank + f.index % f.n_shards * f.stride, f.stride * f.n_shards,
                                 f.n_ranks / f.n_shards };
    if (kind == GROUP_SHARD)
        return (struct members){ f.first_rank + f.index / f.n_shards * f.n_shards * f.stride, f.stride,
                                 f.n_shards };
    return (struct members){ f.first_rank, f.stride, f.n_ranks };
}

static struct members ends(const struct plan *p, int rank)
{
    const int stage = plan_stage(p, rank), far = (p->stages - 1) * plan_workers(p);
    if (p->stages == 1 || (stage != 0 && stage != p->stages - 1))
        return (struct members){ rank, 1, 1 };
    return (struct members){ plan_worker(p, rank), far, 2 };
}

struct members sched_members(const struct plan *p, int rank, enum group_kind kind, int flat)
{
    const int worker = plan_worker(p, rank);
    switch (kind) {
    case GROUP_REPLICA:
    case GROUP_MIRROR:
    case GROUP_SHARD:
        return of_flat(p, rank, kind, flat);
    case GROUP_EXPERT:
        return (struct members){ rank - worker % (p->expert_parallel * p->width_parallel) +
                                     worker % p->width_parallel,
                                 p->width_parallel, p->expert_parallel };
    case GROUP_TENSOR:
        return (struct members){ rank - worker % p->tensor_parallel, 1, p->tensor_parallel };
    case GROUP_ENDS:
        return ends(p, rank);
    case GROUP_ALL:
        return (struct members){ 0, 1, p->n_ranks };
    case GROUP_SELF:
    case GROUP_KINDS:
        break;
    }
    return (struct members){ rank, 1, 1 };
}
