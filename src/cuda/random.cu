/* random.cu - initial weights made on the device: the numbers of base/rng.h (Philox 4x32-10, Box-Muller in float64) at
 * (seed, stream, element); logarithm and cosine are the device's, so that about one float32 in 10^8 differs from the
 * CPU's by one unit in the last place. */
#include "cuda/random.cuh"

__device__ static void philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t c[4])
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    c[0] = (uint32_t)index, c[1] = (uint32_t)(index >> 32);
    c[2] = (uint32_t)stream, c[3] = (uint32_t)(stream >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t left = (uint64_t)0xD2511F53u * c[0], right = (uint64_t)0xCD9E8D57u * c[2];
        c[0] = (uint32_t)(right >> 32) ^ c[1] ^ k0;
        c[2] = (uint32_t)(left >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)right;
        c[3] = (uint32_t)left;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

__device__ static double unit(uint32_t low, uint32_t high)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

__device__ static float value(const struct rng_fill *f, int64_t i)
{
    uint32_t c[4];
    if (f->kind == FILL_ONE)
        return 1;
    philox(f->seed, f->stream, (uint64_t)(f->first + i), c);
    if (f->kind == FILL_UNIFORM)
        return (float)(f->scale * (2 * unit(c[0], c[1]) - 1));
    return (float)(f->scale * (sqrt(-2 * log(1 - unit(c[0], c[1]))) * cospi(2 * unit(c[2], c[3]))));
}

/* weight: bfloat16; low: what the master has beside it (ops/adamw.h), or NULL */
__global__ static void fill_kernel(struct rng_fill f, bf16 *weight, void *low, enum master master)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < f.n; i += step) {
        const float x = value(&f, i);
        if (master == MASTER_SPLIT) { /* ties as in the master, also where another rank has it */
            const uint32_t bits = __float_as_uint(x), top = (bits + 0x8000u) >> 16;
            ((uint16_t *)weight)[i] = (uint16_t)top;
            if (low)
                ((uint16_t *)low)[i] = (uint16_t)(bits - (top << 16));
            continue;
        }
        weight[i] = __float2bfloat16_rn(x);
        if (low && master == MASTER_FLOAT)
            ((float *)low)[i] = x;
    }
}

void cuda_fill(cudaStream_t stream, const struct rng_fill *f, void *weight, void *low, enum master master)
{
    enum { THREADS = 256, MOST_BLOCKS = 132 * 16 };
    const int64_t blocks = cut_parts(f->n, THREADS);
    if (f->n == 0)
        return;
    fill_kernel<<<(unsigned)(blocks < (int64_t)MOST_BLOCKS ? blocks : (int64_t)MOST_BLOCKS), THREADS, 0,
                  stream>>>(*f, (bf16 *)weight, low, master);
    LAUNCHED();
}
