/* init.h - `init`: a model directory with the random weights that training from config.json alone starts from. */
#pragma once
#include "config/config.h"
bool init_run(struct arena *a, const struct config *c, struct err *e);
