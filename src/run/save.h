/* save.h - checkpoints of a run. With room for a copy of the state in host memory, a save copies it and a thread of each
 * rank writes, hashes and syncs the files; the main threads learn between steps that all ranks are done; then files that
 * several ranks wrote together are hashed, and rank 0 publishes, on that thread too. Without room, training waits until
 * all is written. Either way one checkpoint is under way at a time, and what goes wrong stops all ranks with one line
 * (exit code 1) at the next step at the latest; nothing but temporary names is left then. All functions are collective
 * but save_describe and save_times. */
#pragma once
#include "run/train.h"
int64_t
save_budget(const struct run *r); /* bytes of host memory for a copy: before the engine takes its own */
void save_open(struct run *r, int64_t host_bytes);
void save_describe(const struct run *r); /* a line for the head of the output */
/* Checkpoint of the current step; waits for an earlier one. wait: until it is published. */
void save_start(struct run *r, bool wait);
void save_poll(struct run *r); /* between steps: takes the next stage when all ranks are ready for it */
void save_times(struct run *r, double *wait, double *write); /* seconds since the last call */
void save_close(struct run *r);                              /* waits for what is under way */
