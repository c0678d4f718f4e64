/* expert.cuh - expert numbers as the router wrote them: a wrong one ends the kernel before it is an index.
 * */
#pragma once
#include "cuda/cuda.cuh"
#include <stdio.h>
#define ALL_LANES 0xffffffffu
/* top[copy], which must be in 0..n_experts-1. */
__device__ static inline int expert_of(const int32_t *top, int64_t copy, int n_experts)
{
    const int expert = top[copy];
    if (expert < 0 || expert >= n_experts) {
        printf("copy %lld goes to expert %d of %d\n", (long long)copy, expert, n_experts);
        __trap();
    }
    return expert;
}
