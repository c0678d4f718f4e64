/* optim.h - the learning rate of a step. */
#pragma once
#include <stdint.h>
struct lr_options {
    double lr, min_lr;
    int64_t warmup_steps, total_steps;
    int schedule; /* LR_CONSTANT, LR_COSINE, LR_LINEAR of config.h */
};
/* Step 1 is the first. Warm-up is linear: lr * step / warmup_steps; then constant, or a decay that reaches
 * min_lr at total_steps. */
double optim_lr(const struct lr_options *o, int64_t step);
