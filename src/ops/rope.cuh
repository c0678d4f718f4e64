/* rope.cuh - turning pairs on CUDA, for the operators that do it (rope.h says what the table holds). */
#pragma once
#include "cuda/cuda.cuh"

/* Four pairs; cosine: of the first, 16-byte aligned; the sines stand `half` behind. sign -1 turns back. */
__device__ static inline void rope_turn8(float x[VEC], const float *cosine, int half, float sign)
{
    const float4 c4 = *(const float4 *)cosine, s4 = *(const float4 *)(cosine + half);
    const float c[4] = { c4.x, c4.y, c4.z, c4.w };
    const float s[4] = { sign * s4.x, sign * s4.y, sign * s4.z, sign * s4.w };
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float a = x[2 * j], b = x[2 * j + 1];
        x[2 * j] = a * c[j] - b * s[j];
        x[2 * j + 1] = b * c[j] + a * s[j];
    }
}
