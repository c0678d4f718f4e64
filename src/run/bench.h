/* bench.h - times of what training does, with the same plan, lists and kernels. */
#pragma once
#include "config/config.h"
bool bench_step(struct arena *a, const struct config *c, struct err *e); /* a whole step, and by operator */
bool bench_grouped(struct arena *a, const struct config *c, struct err *e); /* the experts' products */
/* The algorithms of dense products on CUDA: a line, or `"products": [...]`. On the CPU no line, an empty list. */
void bench_products_print(void);
void bench_products_json(void);
bool bench_ops(struct arena *a, const struct config *c, struct err *e); /* each operator by itself */
/* A cluster description, config.output, and its table of rates (doc/formats/rates.md): the same calls on all ranks at once,
 * and the links between them. One rank has no links: those of the built-in description are written. */
bool bench_profile(struct arena *a, const struct config *c, struct err *e);
