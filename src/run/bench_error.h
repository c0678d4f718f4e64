/* bench_error.h - how far the kernels of a device are from those of the CPU, from an operator's record alone. */
#pragma once
#include "device/device.h"
struct bench_error {
    double output, gradient; /* largest relative L2 error of an argument; -1 = nothing to compare */
};
/* At the largest of the record's sizes for CUDA, with the same inputs, exact in bfloat16. Bit i of `of`: output i has
 * a gradient; of `by`: input i gets one. */
struct bench_error bench_error(const struct device *d, const struct op *op, uint32_t of, uint32_t by);
