/* states.h - masters and moments of what a rank owns, whatever the plan's numbers: float32, bfloat16, 8-bit with
 * scales per block, low bits beside the weights. What was read and is written back is the same. */
#pragma once
#include "run/source.h"
/* Places of the states of a parameter, from element `at` of what this rank owns of it on. */
struct ref states_weight_at(const struct exec *x, int param, int64_t at);
struct ref states_low_at(const struct exec *x, int param, int64_t at);
struct ref states_moment_at(const struct exec *x, int param, bool is_signed, int64_t at);
struct ref states_scale_at(const struct exec *x, int param, bool is_signed,
                           int64_t block);            /* of 8-bit moments */
enum dtype states_moment_dtype(const struct exec *x); /* of those that are not 8-bit */
/* n elements from `at` as floats: where they lie, or at the beginning of `room` (3 n floats). is_signed: exp_avg;
 * otherwise exp_avg_sq, which are not 8-bit here. */
const float *states_master(struct source *s, int param, int64_t at, int64_t n, float *room);
const float *states_moment(struct source *s, int param, bool is_signed, int64_t at, int64_t n, float *room);
/* n exact weights as bfloat16 weights and the low bits that MASTER_SPLIT keeps. */
void states_split(uint16_t *weight, uint16_t *low, const float *from, int64_t n);
