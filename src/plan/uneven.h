/* uneven.h - what experts that are chosen unevenly cost: everybody waits for the rank whose experts have the most rows. */
#pragma once
#include <stdint.h>
/* Rows of the fullest of n_ranks ranks over their mean, with n_experts / n_ranks experts on each, when those of the fullest
 * expert are `load` times the mean (at most 1: even). Rows of experts are taken for independent normal numbers, of which the
 * largest of n lies about Phi^-1(0.5264^(1/n)) deviations above the mean (Chen and Tyler, "Accurate approximation to the
 * extreme order statistics of Gaussian samples", 1999). */
double uneven_ranks(double load, int64_t n_experts, int n_ranks);
