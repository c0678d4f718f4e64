/* pipeline.h - in which order the ranks of a pipeline stage run forward and backward of their parts of the model: one
 * forward, one backward (arXiv 2006.09503); with several parts per rank, interleaved (arXiv 2104.04473, section 2.2); and how long all of
 * them take.
 * Part c of stage s is virtual stage c * stages + s. Pure functions. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
struct pipeline_step {
    int part;
    int64_t micro; /* micro-batch */
    bool backward;
};
/* Fills 2 * parts * micro steps. With parts > 1, micro is a multiple of stages. */
void pipeline_order(int stages, int parts, int64_t micro, int stage, struct pipeline_step *out);
/* Microseconds from the first step of any stage to the last one of all: each begins when its stage is free and what it needs has
 * been computed. [stages][parts]: what a part's forward and backward take. */
double pipeline_us(int stages, int parts, int64_t micro, const double *forward_us, const double *backward_us);
/* Micro-batches of a part that are forward but not yet backward, at most: so often is kept what backward reads. */
int64_t pipeline_in_flight(const struct pipeline_step *order, int64_t n, int part);
