/* tensor.h - rows of tokens between the ranks of a tensor group: all of them to everybody, and sums of everybody's
 * partial rows back to those whose tokens they are. */
#pragma once
#include "run/exec.h"
void tensor_gather(struct exec *x, const struct instr *in);
void tensor_scatter(struct exec *x, const struct instr *in);
