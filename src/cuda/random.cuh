/* random.cuh - see random.cu. */
#pragma once
#include "cuda/cuda.cuh"
extern "C" {
#include "base/rng.h"
}
void cuda_fill(cudaStream_t stream, const struct rng_fill *f, void *weight, void *low, enum master master);
