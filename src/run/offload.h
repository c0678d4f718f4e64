/* offload.h - the host's side of sched/offload.h: host memory for moments, and copies beside compute in a lane of the
 * device, where it has one. */
#pragma once
#include "run/exec.h"
int offload_places(const struct exec *x); /* that it uses; device.h: place */
/* Takes host memory. first_place: those from there on are its own. */
void offload_new(struct exec *x, int first_place);
void offload_free(struct exec *x);
void offload_run(struct exec *x, const struct instr *in); /* RUN_TO_HOST, RUN_FROM_HOST, RUN_AWAIT_HOST */
