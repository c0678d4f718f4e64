/* generate.h - sampling text from a model directory. The whole context is computed anew for every token: meant
 * to look at a model, not to serve it. */
#pragma once
#include "config/config.h"
#include "run/setup.h"
bool generate_run(struct arena *a, const struct config *c, struct err *e); /* prints to standard output */
