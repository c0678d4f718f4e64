/* sqsum.cu - sum of squares of each chunk of h elements, in float64 but for the squares of eight bfloat16 numbers
 * (each exact in float32). Element i of a chunk has the same place in the sum whatever the chunk's address. */
#include "cuda/cuda.cuh"
enum { G, SUM, C = 0, H };
enum {
    THREADS = 256,
    EACH = 4,     /* groups of 8 elements in flight per thread */
    SMALL = 2048, /* elements of a chunk that some lanes of a warp add */
    PIECE = 32768 /* elements that a block adds, of longer chunks */
};

__device__ static inline double squares8(const float x[VEC])
{
    float s[VEC];
#pragma unroll
    for (int j = 0; j < VEC; j++)
        s[j] = __fmul_rn(x[j], x[j]);
    return __fadd_rn(__fadd_rn(__fadd_rn(s[0], s[1]), __fadd_rn(s[2], s[3])),
                     __fadd_rn(__fadd_rn(s[4], s[5]), __fadd_rn(s[6], s[7])));
}

/* Square in float64, which is exact. */
__device__ static inline double squares8_wide(const float x[VEC])
{
    double s[VEC];
#pragma unroll
    for (int j = 0; j < VEC; j++)
        s[j] = (double)x[j] * (double)x[j];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* One group, any address and length. */
__device__ static double squares_slow(const void *g, bool wide, int64_t at, int64_t n)
{
    float x[VEC];
#pragma unroll
    for (int j = 0; j < VEC; j++)
        x[j] = at + j < n ? grad_load(g, wide, at + j) : 0;
    return wide ? squares8_wide(x) : squares8(x);
}

/* Groups i, i + step, ... as long as EACH of them are whole; moves i. */
__device__ static inline double squares_narrow(const bf16 *g, int64_t n, int64_t *at, int step)
{
    double sum = 0;
    int64_t i = *at;
    for (; (i + (EACH - 1) * step + 1) * VEC <= n; i += EACH * step) {
        uint4 raw[EACH];
        float x[VEC];
#pragma unroll
        for (int k = 0; k < EACH; k++)
            raw[k] = ((const uint4 *)g)[i + k * step];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            unpack8(x, raw[k]);
            sum += squares8(x);
        }
    }
    *at = i;
    return sum;
}

__device__ static inline double squares_wide(const float *g, int64_t n, int64_t *at, int step)
{
    double sum = 0;
    int64_t i = *at;
    for (; (i + (EACH - 1) * step + 1) * VEC <= n; i += EACH * step) {
        float4 a[EACH], b[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            a[k] = ((const float4 *)g)[2 * (i + k * step)];
            b[k] = ((const float4 *)g)[2 * (i + k * step) + 1];
        }
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            const float x[VEC] = { a[k].x, a[k].y, a[k].z, a[k].w, b[k].x, b[k].y, b[k].z, b[k].w };
            sum += squares8_wide(x);
        }
    }
    *at = i;
    return sum;
}

/* Groups first, first + step, ... of the n elements from g on. */
__device__ static double squares(const void *g, bool wide, int64_t n, int first, int step)
{
    int64_t i = first;
    double sum = 0;
    if ((uintptr_t)g % 16 == 0)
        sum =
            wide ? squares_wide((const float *)g, n, &i, step) : squares_narrow((const bf16 *)g, n, &i, step);
    for (; i * VEC < n; i += step)
        sum += squares_slow(g, wide, i * VEC, n);
    return sum;
}

__device__ static inline const void *element(const void *g, bool wide, int64_t i)
{
    return wide ? (const void *)((const float *)g + i) : (const void *)((const bf16 *)g + i);
}

/* Over `lanes` neighbouring lanes, a power of two. */
__device__ static inline double lanes_sum(double x, int lanes)
{
    for (int step = lanes / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* `lanes` threads per chunk. */
__global__ static void __launch_bounds__(THREADS)
    sqsum_small(double *sum, const void *g, bool wide, int64_t n_chunks, int64_t h, int lanes)
{
    const int64_t chunk = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / lanes;
    const int lane = threadIdx.x % lanes;
    double x = 0;
    if (chunk < n_chunks)
        x = squares(element(g, wide, chunk * h), wide, h, lane, lanes);
    x = lanes_sum(x, lanes);
    if (chunk < n_chunks && lane == 0)
        sum[chunk] = x;
}

/* One block per piece of a chunk; out [chunks, pieces]. */
__global__ static void __launch_bounds__(THREADS)
    sqsum_pieces(double *out, const void *g, bool wide, int64_t h, int64_t pieces)
{
    __shared__ double room[THREADS / 32];
    const int64_t chunk = blockIdx.x / pieces, from = blockIdx.x % pieces * PIECE;
    const int64_t n = h - from < PIECE ? h - from : PIECE;
    double x = lanes_sum(squares(element(g, wide, chunk * h + from), wide, n, threadIdx.x, THREADS), 32);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (int i = 1; i < THREADS / 32; i++)
        x += room[i];
    out[blockIdx.x] = x;
}

/* One warp per chunk. */
__global__ static void __launch_bounds__(THREADS)
    sqsum_add_pieces(double *sum, const double *part, int64_t n_chunks, int64_t pieces)
{
    const int64_t chunk = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    double x = 0;
    if (chunk >= n_chunks)
        return;
#pragma unroll 4
    for (int64_t i = threadIdx.x % 32; i < pieces; i += 32)
        x += part[chunk * pieces + i];
    x = lanes_sum(x, 32);
    if (threadIdx.x % 32 == 0)
        sum[chunk] = x;
}

extern "C" void sqsum_fwd_cuda(const struct call *c)
{
    const int64_t n = c->dim[C], h = c->dim[H], pieces = cut_parts(h, PIECE);
    const bool wide = is_wide(c, G);
    double *sum = (double *)c->arg[SUM], *part = pieces > 1 ? (double *)c->work : sum;
    if (n == 0)
        return;
    if (h <= SMALL) {
        int lanes = 1;
        while (lanes < 32 && lanes * VEC < h)
            lanes *= 2;
        sqsum_small<<<blocks_for(n, THREADS / lanes), THREADS, 0, stream_of(c)>>>(sum, c->arg[G], wide, n, h,
                                                                                  lanes);
        LAUNCHED();
        return;
    }
    sqsum_pieces<<<blocks_for(n * pieces, 1), THREADS, 0, stream_of(c)>>>(part, c->arg[G], wide, h, pieces);
    LAUNCHED();
    if (pieces == 1)
        return;
    sqsum_add_pieces<<<blocks_for(n, THREADS / 32), THREADS, 0, stream_of(c)>>>(sum, part, n, pieces);
    LAUNCHED();
}

extern "C" void sqsum_work_cuda(const struct call *c, size_t bytes[2])
{
    const int64_t pieces = cut_parts(c->dim[H], PIECE);
    bytes[0] = pieces > 1 ? (size_t)(c->dim[C] * pieces) * sizeof(double) : 0;
    bytes[1] = 0;
}
