/* chain_data.cuh - what chain_probe.cu computes with: tokens, their copies' rows, weights and gradients of some layers, and how
 * rows are gathered. All of it is device memory that lives as long as the program. */
#pragma once
#include "src/cuda/grouped.cuh"
#include "src/ops/rows.cuh"
#include "tests/probe/energy.cuh"
#include "tests/probe/normals.cuh"
#include <math.h>
#include <stdio.h>
#include <string.h>
enum {
    N_EXPERTS = 64,
    N_TOKENS = 8192,
    COPIES = 6,
    WIDTH = 2048,
    HIDDEN = 1408,
    TILE = 128,
    LAYERS = 2,
    MOST_STREAMS = 4,
    W_UP = 2 * HIDDEN * WIDTH, /* elements of an expert */
    W_DOWN = WIDTH * HIDDEN,
    AHEAD = 12 /* layers in the queue */
};
/* Of all that a pass writes: dx, dw of up, dw of down. */
enum { RESULTS = 3 };
struct layer {
    bf16 *x, *dz;             /* [N_TOKENS, WIDTH] */
    bf16 *w_up, *w_down;      /* [e][2 HIDDEN, WIDTH], [e][WIDTH, HIDDEN] */
    bf16 *h;                  /* [n_rows, 2 HIDDEN] */
    bf16 *result[RESULTS];    /* [n_rows, WIDTH], as the weights */
    bf16 *reference[RESULTS]; /* what `whole` gave */
};
static struct data {
    struct layer layer[LAYERS];
    int32_t end[N_EXPERTS];
    int64_t edge[N_EXPERTS + 1], n_rows;
    int32_t *row, *place;   /* [n_rows]: the copy in each, -1 in padding; [N_TOKENS, COPIES] */
    int32_t *group_end;     /* [N_EXPERTS], of each expert from its group's first row on */
    float *gate;            /* [n_rows] */
    bf16 *dz_rows, *x_rows; /* [n_rows, WIDTH] */
    bf16 *scratch;
    int64_t scratch_elements;
    unsigned long long *count;
    cudaStream_t stream[MOST_STREAMS];
    cudaEvent_t fork, join[MOST_STREAMS], done[AHEAD];
    struct energy energy;
    size_t kept_bytes, window_bytes; /* of the cache, at most; that a window can have */
} t;

/* -- kernels -- */
/* Rows of tokens to the rows of their copies, zeros to padding; a warp per row, blockIdx.y of two. Unlike
 * rows_spread(): what is written may stay in the caches. */
struct gather {
    bf16 *to[2];         /* [n_rows, WIDTH] */
    const bf16 *from[2]; /* [N_TOKENS, WIDTH] */
    const int32_t *row;
    int64_t n_rows;
    bool clear; /* false: padding stays what it is, which is wrong */
};
__global__ static void __launch_bounds__(ROW_THREADS) gather_kernel(const struct gather g)
{
    enum { HELD = WIDTH / VEC / 32 };
    const int64_t r = row_warp();
    if (r >= g.n_rows)
        return;
    const bool other = blockIdx.y > 0; /* no index: a copy of g would lie in local memory */
    const int copy = g.row[r], lane = threadIdx.x % 32;
    const int64_t token = copy < 0 ? 0 : copy / COPIES;
    const uint4 *from = (const uint4 *)((other ? g.from[1] : g.from[0]) + token * WIDTH);
    uint4 *to = (uint4 *)((other ? g.to[1] : g.to[0]) + r * WIDTH), held[HELD];
    if (copy < 0 && !g.clear)
        return;
#pragma unroll
    for (int i = 0; i < HELD; i++)
        held[i] = copy < 0 ? make_uint4(0, 0, 0, 0) : from[lane + 32 * i];
#pragma unroll
    for (int i = 0; i < HELD; i++)
        to[lane + 32 * i] = held[i];
}

__global__ static void gate_kernel(float *gate, const int32_t *row, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        gate[i] = row[i] < 0 ? 0 : normal(100, (uint64_t)i);
}
__global__ static void clear_padding_kernel(bf16 *p, const int32_t *row, int64_t width)
{
    for (int64_t i = threadIdx.x; row[blockIdx.x] < 0 && i < width; i += blockDim.x)
        p[blockIdx.x * width + i] = __float2bfloat16_rn(0);
}

/* -- data -- */
static void *allocate(int64_t bytes)
{
    void *p = NULL;
    CUDA_DO(cudaMalloc(&p, (size_t)bytes));
    return p;
}
static void *uploaded(const void *from, int64_t bytes)
{
    void *p = allocate(bytes);
    CUDA_DO(cudaMemcpy(p, from, (size_t)bytes, cudaMemcpyHostToDevice));
    return p;
}
static double uniform(void)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (double)(x >> 11) * 0x1p-53;
}

/* Each token's copies go to different experts, some of them likelier than others by a tenth or two. */
static void draw_experts(int *expert)
{
    double bound[N_EXPERTS], sum = 0;
    for (int e = 0; e < N_EXPERTS; e++) {
        double spread = -6;
        for (int i = 0; i < 12; i++)
            spread += uniform();
        bound[e] = sum += exp(0.12 * spread);
    }
    for (int i = 0; i < N_TOKENS * COPIES; i++)
        for (bool taken = true; taken;) {
            const double u = uniform() * sum;
            for (expert[i] = 0; expert[i] < N_EXPERTS - 1 && bound[expert[i]] <= u;)
                expert[i]++;
            taken = false;
            for (int j = i / COPIES * COPIES; j < i; j++)
                taken |= expert[j] == expert[i];
        }
}

/* As sort leaves them: rows of an expert in the order of copies, then padding up to the tile. */
static void set_rows(void)
{
    static int expert[N_TOKENS * COPIES];
    static int32_t place[N_TOKENS * COPIES], row[N_TOKENS * COPIES + N_EXPERTS * TILE];
    int least = N_TOKENS, most = 0;
    draw_experts(expert);
    memset(row, 0xff, sizeof row);
    for (int e = 0; e < N_EXPERTS; e++) {
        int64_t at = t.edge[e];
        for (int i = 0; i < N_TOKENS * COPIES; i++)
            if (expert[i] == e) {
                row[at] = i;
                place[i] = (int32_t)at++;
            }
        const int n = (int)(at - t.edge[e]);
        least = n < least ? n : least;
        most = n > most ? n : most;
        t.end[e] = (int32_t)at;
        t.edge[e + 1] = round_up(at, TILE);
    }
    t.n_rows = t.edge[N_EXPERTS];
    t.row = (int32_t *)uploaded(row, t.n_rows * 4);
    t.place = (int32_t *)uploaded(place, sizeof place);
    printf("%d to %d rows of an expert, %lld with padding\n", least, most, (long long)t.n_rows);
}

static int64_t result_elements(int i)
{
    return i == 0 ? t.n_rows * WIDTH : (int64_t)N_EXPERTS * (i == 1 ? W_UP : W_DOWN);
}

static void set_layer(struct layer *l, uint64_t seed)
{
    l->x = normals((int64_t)N_TOKENS * WIDTH, seed, 1);
    l->dz = normals((int64_t)N_TOKENS * WIDTH, seed + 1, 1);
    l->w_up = normals((int64_t)N_EXPERTS * W_UP, seed + 2, 0.02f);
    l->w_down = normals((int64_t)N_EXPERTS * W_DOWN, seed + 3, 0.02f);
    l->h = normals(t.n_rows * 2 * HIDDEN, seed + 4, 1);
    clear_padding_kernel<<<(unsigned)t.n_rows, 256>>>(l->h, t.row, 2 * HIDDEN);
    LAUNCHED();
    for (int i = 0; i < RESULTS; i++) {
        l->result[i] = (bf16 *)allocate(result_elements(i) * 2);
        l->reference[i] = (bf16 *)allocate(result_elements(i) * 2);
    }
}

static void set_data(void)
{
    cudaDeviceProp p;
    CUDA_DO(cudaGetDeviceProperties(&p, 0));
    const bool can = cudaDeviceSetLimit(cudaLimitPersistingL2CacheSize, 0) == cudaSuccess;
    cudaGetLastError(); /* it is left out then */
    t.kept_bytes = can ? (size_t)p.persistingL2CacheMaxSize : 0;
    t.window_bytes = (size_t)p.accessPolicyMaxWindowSize;
    printf("%s, cache %.1f MB, of which %.1f can be set aside\n", p.name, p.l2CacheSize / 1e6,
           (double)t.kept_bytes / 1e6);
    t.energy = energy_open();
    set_rows();
    for (int i = 0; i < LAYERS; i++)
        set_layer(&t.layer[i], 10 * (uint64_t)(i + 1));
    t.gate = (float *)allocate(t.n_rows * 4);
    gate_kernel<<<blocks_for(t.n_rows, 256), 256>>>(t.gate, t.row, t.n_rows);
    LAUNCHED();
    t.group_end = (int32_t *)allocate(sizeof t.end);
    t.dz_rows = (bf16 *)allocate(t.n_rows * WIDTH * 2);
    t.x_rows = (bf16 *)allocate(t.n_rows * WIDTH * 2);
    t.scratch_elements = 2 * t.n_rows * (2 * WIDTH + 4 * HIDDEN);
    t.scratch = (bf16 *)allocate(t.scratch_elements * 2);
    t.count = (unsigned long long *)allocate(2 * sizeof *t.count);
    for (int s = 0; s < MOST_STREAMS; s++) {
        CUDA_DO(cudaStreamCreateWithFlags(&t.stream[s], cudaStreamNonBlocking));
        CUDA_DO(cudaEventCreateWithFlags(&t.join[s], cudaEventDisableTiming));
    }
    for (int i = 0; i < AHEAD; i++)
        CUDA_DO(cudaEventCreateWithFlags(&t.done[i], cudaEventDisableTiming));
    CUDA_DO(cudaEventCreateWithFlags(&t.fork, cudaEventDisableTiming));
    CUDA_DO(cudaDeviceSynchronize());
}
