/* tree.h - --reproducible_shards: a step has plan.shards logical shards of equally many sequences. The gradient of a shard
 * is the sum over its micro-batches in their order, whoever computes them; shards are added in one binary tree over their
 * indices, blocks of 2^k neighbours first. A worker has consecutive shards, a power of two of them: their sum is a
 * node of the tree, and those of all workers are the rest of it. So the number of workers changes no bit.
 *
 * Ranks of a tensor group work on the same shards, each on its own sequences of them. */
#pragma once
#include "plan/plan.h"
int plan_groups(const struct plan *p);          /* tensor groups of a stage: they share out the shards */
int plan_own_shards(const struct plan *p);      /* shards of a worker; 1 where plan.shards is 0 */
int plan_tree_levels(const struct plan *p);     /* of the tree inside a worker: 0 where it has one shard */
int64_t plan_shard_micro(const struct plan *p); /* micro-batches of a worker for one shard */
/* The sample of a step that is sequence `i` of micro-batch `micro` of a worker. */
int64_t plan_sample(const struct plan *p, int64_t micro, int worker, int64_t i);
/* Can the groups of this plan share out its shards, and a worker's micro-batches make whole ones? */
bool plan_tree_fits(const struct plan *p);
bool plan_tree_check(const struct plan *p, struct err *e);
