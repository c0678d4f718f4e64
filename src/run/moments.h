/* moments.h - 8-bit moments on the host, block by block (ops/adamw.h says what codes and scales are). */
#pragma once
#include "ops/adamw.h"
/* Values of the 256 codes, ascending. is_signed: exp_avg; otherwise exp_avg_sq. */
void moments_values(bool is_signed, float values[256]);
/* Codes of the n (at most ADAMW_BLOCK) elements of a block; returns its scale. What was made from codes is found again
 * but for a rounding: where codes are stored they are taken as they are instead. */
float moments_encode(const float values[256], bool is_signed, const float *x, int64_t n,
                     unsigned char *codes);
