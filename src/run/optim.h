/* optim.h - the learning rate of a step. */
#pragma once
#include <stdint.h>
enum lr_schedule { LR_CONSTANT, LR_COSINE, LR_LINEAR };
struct lr_options {
    double lr, min_lr;
    int64_t warmup_steps, total_steps;
    enum lr_schedule schedule;
};
/* Step 1 is the first. Warm-up is linear: lr * step / warmup_steps; then constant, or a decay that reaches
 * min_lr at total_steps. */
double optim_lr(const struct lr_options *o, int64_t step);
