/* normals.cuh - arrays of normal numbers in device memory. */
#pragma once
#include "tests/probe/probe.cuh"
__global__ static void fill_kernel(bf16 *p, int64_t n, uint64_t seed, float scale)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        p[i] = __float2bfloat16_rn(scale * normal(seed, (uint64_t)i));
}

static inline bf16 *normals(int64_t n, uint64_t seed, float scale)
{
    bf16 *p = NULL;
    CUDA_DO(cudaMalloc((void **)&p, (size_t)n * sizeof *p));
    fill_kernel<<<2048, 256>>>(p, n, seed, scale);
    LAUNCHED();
    return p;
}
