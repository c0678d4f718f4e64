/* check.h - parity with a reference without Python: logits, loss, aux, every gradient, and training steps
 * against the numbers of a safetensors file (doc/formats/reference.md). One rank. */
#pragma once
#include "config/config.h"
bool check_run(struct arena *a, const struct config *c, struct err *e); /* prints a table, worst first */
