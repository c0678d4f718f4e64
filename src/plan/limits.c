/* limits.c - see limits.h. */
#include "plan/limits.h"
#include <stdio.h>

static const char *unit_name(const struct plan_limits *l)
{
    return l->unit_ranks ? "--plan_ngpus" : "the number of ranks,";
}

static bool check_pipeline(const struct plan_limits *l, struct err *e)
{
    const int unit = l->unit_ranks ? l->unit_ranks : l->n_ranks;
    if (l->stages > 1 && unit % l->stages)
        return err_code(e, EXIT_USAGE, "--pipeline_stages %d does not divide %s %d", l->stages, unit_name(l),
                        unit);
    if (l->chunks > 1 && l->stages < 2)
        return err_code(e, EXIT_USAGE,
                        "--pipeline_chunks %d: expected --pipeline_stages of 2 or more with it", l->chunks);
    if (l->stages > 1 && l->stages * (l->chunks ? l->chunks : 1) > PLAN_PARTS)
        return err_code(e, EXIT_USAGE,
                        "--pipeline_stages %d x --pipeline_chunks %d: expected at most %d parts", l->stages,
                        l->chunks, PLAN_PARTS);
    return true;
}

static bool check_shards(const struct plan_limits *l, struct err *e)
{
    if (l->shards && l->global_batch % l->shards)
        return err_code(e, EXIT_USAGE,
                        "--reproducible_shards %d: a step of %lld sequences cannot be cut into so many equal "
                        "shards",
                        l->shards, (long long)l->global_batch);
    if (l->shards && l->tensor_parallel > 1 && l->expert_parallel > 1)
        return err_code(
            e, EXIT_USAGE,
            "--reproducible_shards %d with --tensor_parallel %d: expected --expert_parallel 1, found %d",
            l->shards, l->tensor_parallel, l->expert_parallel);
    return true;
}

static bool check_offload(const struct plan_limits *l, struct err *e)
{
    return l->lodgers <= 0 || (l->stages <= 1 && l->expert_parallel <= 1) ||
           err_code(e, EXIT_USAGE,
                    "--offload %d: expected neither --pipeline_stages nor --expert_parallel above 1",
                    l->lodgers);
}

bool limits_forbid_all(const struct plan_limits *l, struct err *e)
{
    char chunks[192] = "";
    if (l->chunks > 1)
        snprintf(chunks, sizeof chunks,
                 "--pipeline_chunks %d: expected --global_batch_size %lld and the micro-batch to give an "
                 "accumulation by a multiple of --pipeline_stages %d",
                 l->chunks, (long long)l->global_batch, l->stages);
    if (l->shards)
        return err_code(
            e, EXIT_USAGE,
            "no plan with --reproducible_shards %d on %d ranks: expected a power of two of shards for "
            "each worker (ranks / pipeline_stages / tensor_parallel), and a micro-batch that divides "
            "the %lld sequences of a shard%s%s",
            l->shards, l->n_ranks, (long long)l->global_batch / l->shards, chunks[0] ? "; " : "", chunks);
    return err_code(e, EXIT_USAGE, "%s", chunks);
}

bool limits_check(const struct plan_limits *l, int64_t experts, struct err *e)
{
    const int stages = l->stages > 1 ? l->stages : 1, workers = l->n_ranks / stages,
              unit = (l->unit_ranks ? l->unit_ranks : l->n_ranks) / stages;
    const char *of = stages > 1 ? "--plan_ngpus / --pipeline_stages =" : unit_name(l);
    if (l->unit_ranks && l->n_ranks % l->unit_ranks)
        return err_code(e, EXIT_USAGE, "--runtime_ngpus %d is not a multiple of --plan_ngpus %d", l->n_ranks,
                        l->unit_ranks);
    if (!check_pipeline(l, e) || !check_shards(l, e) || !check_offload(l, e))
        return false;
    if (l->global_batch % workers)
        return err_code(e, EXIT_USAGE,
                        "a step of %lld sequences cannot be shared by %d ranks: choose --global_batch_size a "
                        "multiple of %d",
                        (long long)l->global_batch, workers, workers);
    if (l->max_degree && (l->expert_parallel > l->max_degree || l->tensor_parallel > l->max_degree))
        return err_code(e, EXIT_USAGE, "--max_degree %d: experts over %d and tensors over %d are asked for",
                        l->max_degree, l->expert_parallel, l->tensor_parallel);
    if (l->expert_parallel > 1 && experts == 0)
        return err_code(e, EXIT_USAGE, "--expert_parallel %d: the model has no experts", l->expert_parallel);
    if (l->expert_parallel > 1 && experts % l->expert_parallel)
        return err_code(e, EXIT_USAGE, "--expert_parallel %d does not divide the %lld experts",
                        l->expert_parallel, (long long)experts);
    if (l->expert_parallel && unit % l->expert_parallel)
        return err_code(e, EXIT_USAGE, "--expert_parallel %d does not divide %s %d", l->expert_parallel, of,
                        unit);
    if (l->tensor_parallel && unit % l->tensor_parallel)
        return err_code(e, EXIT_USAGE, "--tensor_parallel %d does not divide %s %d", l->tensor_parallel, of,
                        unit);
    if (l->vocabulary == SPLIT_ON && l->tensor_parallel < 2)
        return err_code(e, EXIT_USAGE,
                        "--split_vocabulary on: expected --tensor_parallel of 2 or more with it");
    if (l->widths == SPLIT_ON && (l->tensor_parallel < 2 || experts == 0))
        return err_code(
            e, EXIT_USAGE,
            "--split_experts on: expected a model with experts and --tensor_parallel of 2 or more");
    if (l->widths == SPLIT_ON && l->expert_parallel &&
        unit % ((int64_t)l->expert_parallel * l->tensor_parallel))
        return err_code(
            e, EXIT_USAGE,
            "--split_experts on: --expert_parallel %d x --tensor_parallel %d does not divide %s %d",
            l->expert_parallel, l->tensor_parallel, of, unit);
    if (l->micro_batch && l->micro_batch % unit)
        return err_code(e, EXIT_USAGE,
                        "--micro_batch_size %lld: the %d ranks of a scale unit share its sequences; choose a "
                        "multiple of %d",
                        (long long)l->micro_batch, unit, unit);
    if (l->micro_batch && l->global_batch / workers % (l->micro_batch / unit))
        return err_code(e, EXIT_USAGE,
                        "--micro_batch_size %lld does not divide the %lld sequences of a scale unit per step",
                        (long long)l->micro_batch, (long long)l->global_batch / workers * unit);
    return true;
}

bool limits_too_small(const struct plan_limits *l, const struct plan *p, int n_plans, struct err *e)
{
    const int64_t limit = plan_slab_limit(l, p);
    return err_code(
        e, EXIT_MEMORY,
        "memory limit of %.3f GB per rank is too small by %.3f GB: the smallest of %d plans needs %lld bytes "
        "(%d stages, expert_parallel %d, tensor_parallel %d, zero over %d, micro-batch %lld per rank); allow "
        "--mem_constraint %.3f, more "
        "ranks, or a shorter sequence",
        (double)limit / 1e9, (double)(p->memory.peak_bytes - limit) / 1e9, n_plans,
        (long long)p->memory.peak_bytes, p->stages, p->expert_parallel, p->tensor_parallel, p->zero_ranks,
        (long long)p->micro_batch, (double)(p->memory.peak_bytes + 999999) / 1e9);
}
