/* states.h - masters and moments as floats on the host, whatever the plan's numbers: float32, bfloat16, 8-bit with
 * scales per block, low bits beside the weights. What was read and is written back is the same, but for the
 * last bit of scales of 8-bit moments. */
#pragma once
#include "run/exec.h"
/* n elements from element `at` of what this rank owns of a parameter: the CPU's numbers themselves, or copies in
 * `room` (n floats). */
const float *states_master(const struct exec *x, int param, int64_t at, int64_t n, float *room);
void states_put_master(struct exec *x, int param, int64_t at, int64_t n, const float *from);
/* A moment of n_all elements: elements [at, at + n), as above. is_signed: exp_avg; otherwise exp_avg_sq. */
const float *states_moment(const struct exec *x, struct ref moment, int64_t n_all, int64_t at, int64_t n,
                           bool is_signed, float *room);
void states_put_moment(struct exec *x, struct ref moment, int64_t n_all, const float *from, bool is_signed);
