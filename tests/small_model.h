/* small_model.h - the smallest model with every part of DeepSeek-V2 that tests lower and plan, its graph, and a plan of one
 * rank. */
#pragma once
#include "model/deepseek_v2.h"
#include "model/model_config.h"
#include "plan/plan.h"

static inline struct model_config small_model(int64_t vocab, int64_t width)
{
    return (struct model_config){ .vocab = vocab,
                                  .width = width,
                                  .layers = 3,
                                  .heads = 2,
                                  .kv_rank = 16,
                                  .nope_width = 8,
                                  .rope_width = 8,
                                  .v_width = 8,
                                  .dense_width = 48,
                                  .expert_width = 24,
                                  .experts = 8,
                                  .experts_per_token = 2,
                                  .shared_experts = 1,
                                  .first_dense = 1,
                                  .moe_every = 1,
                                  .groups = 1,
                                  .topk_groups = 1,
                                  .sequence_aux = true,
                                  .scaling = 1,
                                  .aux_alpha = 0.01,
                                  .norm_eps = 1e-6,
                                  .rope_theta = 10000,
                                  .initializer_range = 0.02,
                                  .max_positions = 4096 };
}

/* Everything on one rank, one micro-batch per step. */
static inline struct plan one_rank_plan(int64_t batch, int64_t sequence, int64_t head_chunk)
{
    return (struct plan){ .n_ranks = 1,
                          .unit_ranks = 1,
                          .expert_parallel = 1,
                          .tensor_parallel = 1,
                          .vocabulary_parallel = 1,
                          .width_parallel = 1,
                          .stages = 1,
                          .chunks = 1,
                          .zero_ranks = 1,
                          .global_batch = batch,
                          .micro_batch = batch,
                          .accumulation = 1,
                          .sequence = sequence,
                          .head_chunk = head_chunk,
                          .tile = 1,
                          .model = "0123456789abcdef",
                          .cluster = "0123456789abcdef" };
}

/* For the micro-batches of a plan. */
static inline struct graph *graph_for_plan(struct arena *a, const struct plan *p,
                                           const struct model_config *m)
{
    struct model_values v;
    const struct model_options o = { .batch = plan_graph_batch(p),
                                     .sequence = p->sequence,
                                     .vocabulary_parts = p->vocabulary_parallel };
    return deepseek_v2_graph(a, m, &o, &v);
}

/* Of a vocabulary of 96 and a width of 32. */
static inline struct graph *small_model_graph(struct arena *a, const struct plan *p)
{
    const struct model_config m = small_model(96, 32);
    return graph_for_plan(a, p, &m);
}
