/* step.h - one optimizer step and one evaluation on an engine: micro-batches, per-sequence sums, update. */
#pragma once
#include "run/batches.h"
#include "run/setup.h"
#include "sched/pipeline.h"
struct step_result {
    double loss;      /* mean nats per target of the step */
    double aux;       /* sum over layers of the mean over sequences; alpha included */
    double grad_norm; /* before clipping */
    int64_t n_targets, n_tokens;
    bool finite;            /* false: nothing was updated */
    const char *bad_tensor; /* first tensor whose gradient is not finite; NULL = the loss alone is not */
};
struct stepper {
    struct engine *engine;
    struct batches *batches;
    double *nll, *aux;           /* sums of nats [samples of the step]; aux values [MoE layers, samples] */
    int64_t *load;               /* [MoE layers, experts]: token copies of the step */
    int64_t *slot[DEVICE_MARKS]; /* [B], by turn */
    struct pipeline_step
        *order; /* of a step; one forward step per micro-batch means all of it, without a pipeline */
    int64_t n_order;
    int64_t n_slots, n_experts;
    int64_t n_steps, n_blocks; /* that have been run: of training, and of evaluation */
    struct arena *arena;
};
void step_new(struct arena *a, struct engine *x, struct batches *b, int64_t most_sequences,
              struct stepper *s);
/* Forward and backward of samples [first, first + n) of an epoch: the flats hold their gradients. */
struct step_result step_gradients(struct stepper *s, int64_t epoch, int64_t first, int64_t n);
/* The same, then the update; control is set by the caller in engine->exec.control. */
struct step_result step_train(struct stepper *s, int64_t epoch, int64_t first, int64_t n);
/* Sequences [begin, end) of the dataset, forward only. */
double step_evaluate(struct stepper *s, int64_t begin, int64_t end,
                     int64_t *n_targets); /* mean nats per target */
/* Largest load / mean load over experts, of the moe_layer'th MoE layer; of the worst one (0: there is none). */
double step_load_ratio(const struct stepper *s, int moe_layer);
double step_worst_load_ratio(const struct stepper *s);
