/* random.cuh - see random.cu. */
#pragma once
#include "cuda/cuda.cuh"
struct device_fill;
void cuda_fill(cudaStream_t stream, const struct device_fill *f, void *weight, void *low, enum master master);
