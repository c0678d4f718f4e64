/* position.h - train_state.json: where a run stands and what it belongs to. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <stdint.h>
struct position {
    int64_t step, epoch, sample;   /* steps done; next sample of the epoch */
    int64_t tokens, seed, n_train; /* tokens trained on; what the order of samples depends on */
    int64_t global_batch;
    char dataset[17], model[17], plan[17]; /* fingerprints */
    double loss;                           /* of the last step */
    double best_eval;
    int64_t best_step; /* lowest evaluation so far; best_step 0 = none */
};
char *position_write(struct arena *a, const struct position *p);
bool position_parse(const char *text, const char *path, struct position *p, struct err *e);
/* Does a checkpoint belong to this run? Both fingerprints are in the message (EXIT_MISMATCH). */
bool position_matches(const struct position *saved, const struct position *now, const char *path,
                      struct err *e);
