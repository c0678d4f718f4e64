/* eval.h - mean loss of a model on a prepared dataset. Collective. */
#pragma once
#include "config/config.h"
#include "run/step.h"
bool eval_run(struct arena *a, const struct config *c, struct err *e); /* rank 0 prints */
