/* report.c - see report.h. */
#include "run/report.h"
#include "plan/tree.h"

static const char *zero_text(const struct plan *p)
{
    static const char *const inside[] = { "off", "1 inside each scale unit", "2 inside each scale unit",
                                          "3 inside each scale unit" },
                             *const across[] = { "off", "1 across all ranks", "2 across all ranks",
                                                 "3 across all ranks" };
    return (p->zero_ranks == plan_workers(p) ? across : inside)[p->zero];
}

void report_numbers(struct str *out, const struct plan *p)
{
    static const char *const masters[MASTERS] = { "no master (random rounding)",
                                                  "an exact float32 master (16 more bits each)",
                                                  "a float32 master" };
    const struct numbers *n = &p->numbers;
    if (n->backend == CPU)
        str_add(out, "numbers: float32 throughout");
    else
        str_addf(out, "numbers: weights and activations bfloat16 with %s, moments %s, gradients %s",
                 masters[n->master], plan_moments_name[n->moments], n->gradient == F32 ? "fp32" : "bf16");
    if (p->lodgers)
        str_addf(out,
                 "; up to %d values lie where moments are, of which %lld bytes are in host memory meanwhile",
                 p->lodgers, (long long)p->host_bytes);
    str_addf(out, "; backward repeats %d of %d operators%s\n", p->recompute, p->recompute_most,
             p->keep_rows ? ", rows of experts are kept" : "");
}

static void add_memory(struct str *out, const struct plan *p, int64_t limit)
{
    str_addf(out, "memory of the largest rank: %lld bytes (%.3f GB of %.3f GB), all of it one allocation\n",
             (long long)p->memory.peak_bytes, (double)p->memory.peak_bytes / 1e9, (double)limit / 1e9);
    for (int i = 0; i < MEM_CLASSES; i++)
        str_addf(out, "  %-12s %15lld bytes  %5.1f %%\n", plan_class_name[i],
                 (long long)p->memory.class_bytes[i],
                 100 * (double)p->memory.class_bytes[i] / (double)p->memory.peak_bytes);
}

static void add_time(struct str *out, const struct setup *s, const struct plan *p)
{
    double honest, example;
    model_flops_per_token(&s->model, p->sequence, &honest, &example);
    const double tokens = (double)(p->global_batch * p->sequence), seconds = p->cost.step_us / 1e6;
    const double peak = s->cluster.peak_flops_per_s * p->n_ranks;
    str_addf(out,
             "predicted step: %.3f s, %.0f tokens/s, MFU %.1f %% (6 x active parameters + causal attention; "
             "%.1f %% as 6 x 'activated', no attention)\n",
             seconds, tokens / seconds, 100 * tokens * honest / seconds / peak,
             100 * tokens * example / seconds / peak);
    str_addf(out,
             "  compute %.1f ms, token exchange %.1f ms, gradient and weight collectives %.1f ms, optimizer "
             "%.1f ms\n",
             p->cost.compute_us / 1e3, p->cost.exchange_us / 1e3, p->cost.reduce_us / 1e3,
             p->cost.optimizer_us / 1e3);
    str_addf(out,
             "  all of this communication is exposed, %.1f ms; %.1f ms more run under products; bubble of "
             "the pipeline %.1f ms\n",
             (p->cost.exchange_us + p->cost.reduce_us) / 1e3, p->cost.beside_us / 1e3,
             p->cost.bubble_us / 1e3);
}

static void add_search(struct str *out, const struct search_result *found)
{
    str_addf(out,
             "search: %d candidates; %d larger than the memory, %d that cannot be among the %d best; %d "
             "measurements\n",
             found->n_candidates, found->n_too_large, found->n_too_slow, SEARCH_KEEP, found->n_measured);
}

static void add_exactness(struct str *out, const struct plan *p)
{
    if (!p->reproducible)
        return;
    str_addf(out,
             "reproducible: experts multiply %lld rows at a time, expert gradients are kept apart for %d "
             "senders\n",
             (long long)p->tile, p->expert_parallel);
    report_shards(out, p);
    str_addf(out,
             "  price of the same bits: %lld bytes and, as predicted, %.3f ms a step, against this split "
             "without\n",
             (long long)p->price.bytes, p->price.step_us / 1e3);
}

void report_shards(struct str *out, const struct plan *p)
{
    if (p->shards == 0)
        return;
    str_addf(
        out,
        "  shards: %d of %lld sequences, %d for each %s, added in a tree (%d sums are kept); same bits on",
        p->shards, (long long)p->global_batch / p->shards, plan_own_shards(p),
        p->tensor_parallel > 1 ? "tensor group" : "worker", plan_tree_levels(p));
    for (int own = 1; p->shards % own == 0; own *= 2)
        str_addf(out, "%s %d", own > 1 ? "," : "", p->shards / own);
    str_addf(out, " of them with micro-batch %lld\n", (long long)p->micro_batch);
}

static void add_exchange(struct str *out, const struct setup *s, const struct plan *p)
{
    const int64_t copies = s->model.experts_per_token;
    str_addf(out,
             "token exchange: room for %lld rows per rank and round, %d under way together; more rows "
             "take more rounds, none is "
             "dropped\n",
             (long long)p->row_capacity, plan_at_once(p));
    if (plan_sends_once(p) && copies > 1)
        str_addf(
            out,
            "  a token travels once to each rank, not once to each expert: %.2f rows instead of %.2f leave "
            "a rank, where one round is enough\n",
            plan_rows_once(p, copies), (double)copies * (p->expert_parallel - 1) / p->expert_parallel);
}

void report_plan(struct str *out, const struct setup *s, const struct plan *p,
                 const struct search_result *found, int64_t limit)
{
    char hash[17];
    plan_hash(p, hash);
    str_addf(out, "plan %s for model %s\n", hash, s->model.fingerprint);
    str_addf(
        out,
        "ranks: %d in %d scale unit%s of %d; data parallel over %d, experts over %d, tensors over %d, ZeRO "
        "%s\n",
        p->n_ranks, p->n_ranks / p->unit_ranks, p->n_ranks > p->unit_ranks ? "s" : "", p->unit_ranks,
        plan_workers(p), p->expert_parallel, p->tensor_parallel, zero_text(p));
    str_addf(out,
             "step: %lld sequences of %lld = micro-batch %lld per rank x %lld accumulated x %d ranks = %lld "
             "tokens\n",
             (long long)p->global_batch, (long long)p->sequence, (long long)p->micro_batch,
             (long long)p->accumulation, plan_workers(p), (long long)p->global_batch * p->sequence);
    if (p->tensor_parallel > 1)
        str_addf(out, "vocabulary: %s\n",
                 p->vocabulary_parallel > 1 ? "embedding, head and loss over the ranks of tensors"
                                            : "whole on each rank");
    if (p->tensor_parallel > 1 && s->model.experts)
        str_addf(out, "width of experts: %s\n",
                 p->width_parallel > 1 ? "over the ranks of tensors, which share their tokens"
                                       : "whole on each rank");
    if (p->stages > 1)
        str_addf(
            out,
            "pipeline: %d stages of %d ranks with %d part%s of the model each; %.1f %% of a step is waiting "
            "(bubble)\n",
            p->stages, plan_workers(p), p->chunks, p->chunks > 1 ? "s" : "",
            100 * p->cost.bubble_us / p->cost.step_us);
    if (p->expert_parallel > 1)
        add_exchange(out, s, p);
    add_exactness(out, p);
    report_numbers(out, p);
    add_memory(out, p, limit);
    add_time(out, s, p);
    if (found->n)
        add_search(out, found);
}
