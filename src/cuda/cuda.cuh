/* cuda.cuh - what all CUDA kernels share: checks, 16-byte loads and stores, sums with a fixed order.
 * C with the few words of C++ that nvcc needs; no templates where a parameter does. No floating-point atomics:
 * the bits of a result depend on the inputs and sizes only. */
#pragma once
extern "C" {
#include "base/err.h"
#include "base/num.h"
#include "graph/op.h"
}
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>
typedef __nv_bfloat16 bf16;

/* While calls are recorded, a failure ends the recording, not the program: notes it and says yes. */
extern "C" bool cuda_forgives(const char *failure);
#define CUDA_DO(call_)                                                                                       \
    do {                                                                                                     \
        const cudaError_t status_ = (call_);                                                                 \
        CHECK(status_ == cudaSuccess || cuda_forgives(cudaGetErrorString(status_)), "%s",                    \
              cudaGetErrorString(status_));                                                                  \
    } while (0)
/* After every <<<...>>>. */
#define LAUNCHED() CUDA_DO(cudaGetLastError())

extern "C" int cuda_blocks_left(void); /* multiprocessors that kernels that stay on theirs leave alone */
extern "C" bool cuda_portable(void);   /* kernels of compute capability 9.0 do not run, or are not wanted */

static inline cudaStream_t stream_of(const struct call *c)
{
    return (cudaStream_t)c->stream;
}
static inline bool adds(const struct call *c, int arg)
{
    return (c->add >> arg & 1) != 0;
}
/* dtype of grad[arg]: float32 where the plan says so, bfloat16 otherwise (arguments of the model's float) */
static inline bool is_wide(const struct call *c, int arg)
{
    return (c->wide >> arg & 1) != 0;
}
__host__ __device__ static inline int64_t cut_parts(int64_t n, int64_t each)
{
    return (n + each - 1) / each;
}
__host__ __device__ static inline int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}
/* Blocks for n items, `each` per block. */
static inline unsigned blocks_for(int64_t n, int64_t each)
{
    const int64_t blocks = cut_parts(n, each);
    CHECK(blocks < (int64_t)1 << 31, "%lld blocks", (long long)blocks);
    return (unsigned)(blocks > 0 ? blocks : 1);
}

/* Two bfloat16 numbers, the first in the lower half. */
__device__ static inline uint32_t pack_pair(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&pair;
}
__device__ static inline float low_of(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
__device__ static inline float high_of(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

enum { VEC = 8 }; /* bfloat16 numbers in 16 bytes */
__device__ static inline void unpack8(float x[VEC], uint4 raw)
{
    const uint32_t w[4] = { raw.x, raw.y, raw.z, raw.w };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = low_of(w[i]);
        x[2 * i + 1] = high_of(w[i]);
    }
}
__device__ static inline uint4 pack8(const float x[VEC])
{
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        w[i] = pack_pair(x[2 * i], x[2 * i + 1]);
    return make_uint4(w[0], w[1], w[2], w[3]);
}
/* Of these, p must be 16-byte aligned. */
__device__ static inline void load8(float x[VEC], const bf16 *p)
{
    unpack8(x, *(const uint4 *)p);
}
__device__ static inline void store8(bf16 *p, const float x[VEC])
{
    *(uint4 *)p = pack8(x);
}
/* One element of a gradient that is float32 (wide) or bfloat16. */
__device__ static inline float grad_load(const void *p, bool wide, int64_t i)
{
    return wide ? ((const float *)p)[i] : __bfloat162float(((const bf16 *)p)[i]);
}
__device__ static inline void grad_store(void *p, bool wide, int64_t i, float x)
{
    if (wide)
        ((float *)p)[i] = x;
    else
        ((bf16 *)p)[i] = __float2bfloat16_rn(x);
}
/* grad[i] = x, or += x */
__device__ static inline void grad_put(void *p, bool wide, bool add, int64_t i, float x)
{
    grad_store(p, wide, i, add ? grad_load(p, wide, i) + x : x);
}
/* The same for eight elements from i on, a multiple of 8; p is 16-byte aligned. */
__device__ static inline void grad_put8(void *p, bool wide, bool add, int64_t i, const float x[VEC])
{
    float y[VEC] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    float4 *at = (float4 *)((float *)p + i);
    if (add && wide) {
        const float4 a = at[0], b = at[1];
        y[0] = a.x, y[1] = a.y, y[2] = a.z, y[3] = a.w, y[4] = b.x, y[5] = b.y, y[6] = b.z, y[7] = b.w;
    } else if (add) {
        load8(y, (const bf16 *)p + i);
    }
#pragma unroll
    for (int j = 0; j < VEC; j++)
        y[j] += x[j];
    if (wide)
        at[0] = make_float4(y[0], y[1], y[2], y[3]), at[1] = make_float4(y[4], y[5], y[6], y[7]);
    else
        store8((bf16 *)p + i, y);
}
/* The n elements of grad[arg] before anything flows into them: zero, unless they are added to or not wanted. */
static inline void grad_clear(const struct call *c, int arg, int64_t n)
{
    if (c->grad[arg] && !adds(c, arg))
        CUDA_DO(cudaMemsetAsync(c->grad[arg], 0, (size_t)n * (is_wide(c, arg) ? 4 : 2), stream_of(c)));
}

/* Butterfly: every lane gets the same bits. */
__device__ static inline float warp_sum(float x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
__device__ static inline float warp_max(float x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}
/* Over a block of up to 1024 threads (a multiple of 32); every thread gets the result. `room`: 33 floats of shared
 * memory, which may be used again at once. */
__device__ static inline float block_sum(float x, float *room)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = warp_sum(lane < n_warps ? room[lane] : 0);
        if (lane == 0)
            room[32] = x;
    }
    __syncthreads();
    return room[32];
}
__device__ static inline float block_max(float x, float *room)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = warp_max(lane < n_warps ? room[lane] : -INFINITY);
        if (lane == 0)
            room[32] = x;
    }
    __syncthreads();
    return room[32];
}
