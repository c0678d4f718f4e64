/* collect.h - what ends a step between the ranks: sums of gradients, the norm, the way of new weights to those who
 * need them. The same on every device: comm.h moves, device.h adds. */
#pragma once
#include "run/exec.h"
enum { COLLECT_BLOCK = 1 << 26 }; /* bytes of a range that pass through the host at once, where they must */
void collect_staging(struct exec *x); /* reserves the host memory that the lists of x->program need */
void collect_parts(struct exec *x, const struct instr *in);
void collect_reduce(struct exec *x, const struct instr *reduce, bool first); /* first: see instr_add */
void collect_mirror(struct exec *x, const struct instr *in);
void collect_ends(struct exec *x, const struct instr *in);
void collect_gather(struct exec *x, const struct instr *in);
bool collect_norm(struct exec *x, const struct instr *in); /* false: nothing may be updated */
