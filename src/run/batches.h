/* batches.h - which sequences a step, a micro-batch and a rank work on: pure functions of (seed, position).
 * A step covers global_batch consecutive samples of the epoch's order; micro-batch i of all ranks covers
 * workers * micro_batch of them, worker after worker of a stage (with shards: see plan/tree.h). The last step of an epoch may be short: missing samples
 * have no targets and no weight. */
#pragma once
#include "data/dataset.h"
#include "plan/plan.h"
struct batches {
    const struct dataset *data;
    int64_t n_train; /* sequences [0, n_train) train, the rest is held back */
    int64_t seed;
    int64_t epoch;   /* of the order now in memory; -1 = none */
    int64_t *order;  /* n_train */
    int32_t ignored; /* token id that is never a target; -1 = every token is one */
};
void batches_new(struct arena *a, const struct dataset *d, int64_t n_train, int64_t seed, int32_t ignored,
                 struct batches *b);
/* Sample `index` of an epoch -> sequence of the dataset. */
int64_t batches_sequence(struct batches *b, int64_t epoch, int64_t index);
/* Fills tokens and labels [B S] of micro-batch `micro` of a rank, for the step that starts at sample `first` of
 * the epoch and has `n` samples. slot[B]: position inside the step (for per-sequence sums), -1 = missing. */
void batches_fill(struct batches *b, const struct plan *p, int64_t epoch, int64_t first, int64_t n,
                  int64_t micro, int rank, int32_t *tokens, int32_t *labels, int64_t *slot);
/* The same for evaluation: block `block` of sequences [begin, end) in their order. */
void batches_fill_eval(const struct batches *b, const struct plan *p, int64_t begin, int64_t end,
                       int64_t block, int rank, int32_t *tokens, int32_t *labels, int64_t *slot);
int64_t batches_targets(const struct batches *b, int64_t sequence); /* targets of one sequence */
