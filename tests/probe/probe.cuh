/* probe.cuh - what the probes share: random numbers, times, and which variants are asked for. */
#pragma once
#include "cuda/cuda.cuh"
#include <string.h>

__device__ static inline uint64_t scrambled(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Number i of a sequence of independent normal ones. */
__device__ static inline float normal(uint64_t seed, uint64_t i)
{
    const uint64_t x = scrambled((seed << 40) + i);
    const float u = ((uint32_t)x >> 8) * 0x1p-24f + 0x1p-25f, v = (uint32_t)(x >> 40) * 0x1p-24f;
    return sqrtf(-2 * logf(u)) * cospif(2 * v);
}

/* Between two points of a stream. */
struct stopwatch {
    cudaStream_t stream;
    cudaEvent_t begin, end;
};
static inline struct stopwatch stopwatch_new(cudaStream_t stream)
{
    struct stopwatch w = { stream, NULL, NULL };
    CUDA_DO(cudaEventCreate(&w.begin));
    CUDA_DO(cudaEventCreate(&w.end));
    return w;
}
static inline void stopwatch_start(const struct stopwatch *w)
{
    CUDA_DO(cudaEventRecord(w->begin, w->stream));
}
/* Waits for the work; ms since the start. */
static inline float stopwatch_stop(const struct stopwatch *w)
{
    float ms = 0;
    CUDA_DO(cudaEventRecord(w->end, w->stream));
    CUDA_DO(cudaEventSynchronize(w->end));
    CUDA_DO(cudaEventElapsedTime(&ms, w->begin, w->end));
    return ms;
}

/* Is `name` among the words of the command line? Without words all are. */
static inline bool is_asked(const char *name, int n_arguments, char **arguments)
{
    for (int i = 1; i < n_arguments; i++)
        if (strstr(name, arguments[i]))
            return true;
    return n_arguments == 1;
}
