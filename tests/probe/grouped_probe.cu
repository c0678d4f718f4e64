/* grouped_probe.cu - speed and results of the grouped products (cuda/grouped.cuh) at the sizes of DeepSeek-V2-Lite, each
 * in a process of its own: a kernel that hangs or dies ends its own line only. `make probe` builds it.
 *   grouped_probe [WORD...]   those whose name has one of the words
 * A line: name, rows, the median of 30 runs in ms, TFLOP/s, ms and TFLOP/s of SUSTAINED_S seconds without a pause, when the
 * power limit holds the clock down as in training, and the largest error of a few hundred elements against a float64 sum, in units of what the product's rounding may cost (FAIL above 1). "dense" is one cuBLASLt product of the
 * same number of operations. "back_fused" is also compared, every element, with "back_apart" and with a second run.
 * grouped_at_once_probe: the same, with results that leave before the next tile is multiplied. */
#define BARRIER_LIMIT_NS 3000000000
#include "src/cuda/grouped_hopper.cu"
#include "src/cuda/library.cuh"
#include "tests/probe/grouped_host.cuh"
#include "tests/probe/grouped_model.cuh"
#include "tests/probe/probe.cuh"
extern "C" {
#include "device/device.h"
}
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
enum {
    N_EXPERTS = 64,
    WIDTH = 2048,
    HIDDEN = 1408,
    TILE = 128,
    WARM = 10,
    RUNS = 30,
    SAMPLES = 300,
    HEATING_S = 1,
    SUSTAINED_S = 1,
    LIMIT_S = 30
};
/* BACK: grouped_back(); APART: the same by grouped_back_apart(). */
enum probed { DENSE, UP_FWD, DOWN_FWD, UP_DX, DOWN_DY, BACK_FUSED, BACK_APART, UP_DW, DOWN_DW, PRODUCTS };
static const char *const product_names[PRODUCTS] = { "dense",      "up_fwd",  "down_fwd",
                                                     "up_dx",      "down_dy", "back_fused",
                                                     "back_apart", "up_dw",   "down_dw" };
struct variant {
    enum probed product;
    int64_t rows; /* that hold data; DENSE: of one matrix */
    bool skewed, wide, add;
};
static const struct variant variants[] = {
    { DENSE, 49152, false, false, false },      { DENSE, 98304, false, false, false },
    { UP_FWD, 49152, false, false, false },     { UP_FWD, 98304, false, false, false },
    { UP_FWD, 49152, true, false, false },      { DOWN_FWD, 49152, false, false, false },
    { DOWN_FWD, 98304, false, false, false },   { DOWN_FWD, 49152, true, false, false },
    { UP_DX, 49152, false, false, false },      { UP_DX, 98304, false, false, false },
    { UP_DX, 49152, true, false, true },        { DOWN_DY, 49152, false, false, false },
    { DOWN_DY, 98304, false, false, false },    { DOWN_DY, 49152, true, false, true },
    { BACK_FUSED, 49152, false, false, false }, { BACK_APART, 49152, false, false, false },
    { BACK_FUSED, 98304, false, false, false }, { BACK_APART, 98304, false, false, false },
    { BACK_FUSED, 49152, true, false, true },   { BACK_APART, 49152, true, false, true },
    { UP_DW, 49152, false, false, false },      { UP_DW, 98304, false, false, false },
    { UP_DW, 49152, false, false, true },       { UP_DW, 98304, false, false, true },
    { UP_DW, 49152, false, true, false },       { UP_DW, 98304, false, true, false },
    { UP_DW, 49152, false, true, true },        { UP_DW, 98304, false, true, true },
    { UP_DW, 49152, true, true, true },         { DOWN_DW, 49152, false, false, false },
    { DOWN_DW, 98304, false, false, false },    { DOWN_DW, 49152, false, true, true },
    { DOWN_DW, 98304, false, true, true },      { DOWN_DW, 49152, true, false, true },
    { DOWN_DW, 49152, false, false, true },
};

/* -- data -- */
/* Rows of padding (behind end[e], up to the tile) get zeros; `end` NULL: there are none. */
__global__ static void fill_kernel(bf16 *p, int64_t n, int64_t width, float scale, const int32_t *end,
                                   uint64_t seed)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        bool zero = false;
        for (int e = 0; end && e < N_EXPERTS; e++)
            zero |= i / width >= end[e] && i / width < round_up(end[e], TILE);
        p[i] = __float2bfloat16_rn(zero ? 0 : scale * normal(seed, (uint64_t)i));
    }
}
__global__ static void fill_floats_kernel(float *p, int64_t n, const int32_t *end, uint64_t seed)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        bool zero = false;
        for (int e = 0; end && e < N_EXPERTS; e++)
            zero |= i >= end[e] && i < round_up(end[e], TILE);
        p[i] = zero ? 0 : normal(seed, (uint64_t)i);
    }
}
__global__ static void gather_kernel(float *to, const void *from, bool wide, int64_t first, int64_t step,
                                     int64_t n)
{
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        to[i] = grad_load(from, wide, first + i * step);
}

static void *allocate(int64_t bytes)
{
    void *p = NULL;
    CUDA_DO(cudaMalloc(&p, (size_t)bytes));
    return p;
}
static bf16 *normals(int64_t rows, int64_t width, float scale, const int32_t *end, uint64_t seed)
{
    bf16 *p = (bf16 *)allocate(rows * width * 2);
    fill_kernel<<<2048, 256>>>(p, rows * width, width, scale, end, seed);
    LAUNCHED();
    return p;
}
/* n elements, `step` apart, on the host. */
static const float *take(const void *from, bool wide, int64_t first, int64_t step, int64_t n, int slot)
{
    enum { MOST = 1 << 17 };
    static float *device, *host[4];
    CHECK(n <= MOST, "%lld elements", (long long)n);
    device = device ? device : (float *)allocate(MOST * 4);
    host[slot] = host[slot] ? host[slot] : (float *)malloc(MOST * 4);
    gather_kernel<<<1, 1024>>>(device, from, wide, first, step, n);
    LAUNCHED();
    CUDA_DO(cudaMemcpy(host[slot], device, (size_t)n * 4, cudaMemcpyDeviceToHost));
    return host[slot];
}

/* -- one variant -- */
struct data {
    struct variant v;
    struct groups g;
    int32_t ends[N_EXPERTS];
    bf16 *a, *b, *out, *y;         /* out: also the gradient, float32 when wide */
    float *weight;                 /* UP_FWD, BACK */
    bf16 *h;                       /* BACK; out is dh */
    float *dweight, *partial;      /* BACK */
    bf16 *before;                  /* a copy of out, where the product adds */
    int64_t m, n, k, out_elements; /* of one expert's product: m is 0 where it is its rows */
};

static void set_ends(struct data *t)
{
    int64_t at = 0;
    for (int e = 0; e < N_EXPERTS; e++) {
        /* Skewed: from none at all to about four times the mean, never whole tiles. */
        const int64_t mean = t->v.rows / N_EXPERTS,
                      n = t->v.skewed ? e % 4 * (e % 7) * mean / 4 - e % 4 : mean;
        t->ends[e] = (int32_t)(at + (n > 0 ? n : 0));
        at = round_up(t->ends[e], TILE);
    }
    t->g.n_rows = at;
    t->g.n_experts = N_EXPERTS;
    t->g.n_sources = 1;
    t->g.tile = TILE;
    t->g.end = (int32_t *)allocate(sizeof t->ends);
    CUDA_DO(cudaMemcpy((void *)t->g.end, t->ends, sizeof t->ends, cudaMemcpyHostToDevice));
}

static bool is_back(const struct data *t)
{
    return t->v.product == BACK_FUSED || t->v.product == BACK_APART;
}

static float *weights(const struct data *t, uint64_t seed)
{
    float *p = (float *)allocate(t->g.n_rows * 4);
    fill_floats_kernel<<<2048, 256>>>(p, t->g.n_rows, t->g.end, seed);
    LAUNCHED();
    return p;
}

static void set_data(struct data *t)
{
    const enum probed p = t->v.product;
    const int64_t d = WIDTH, f = HIDDEN;
    set_ends(t);
    const int64_t r = t->g.n_rows;
    if (p == DENSE || p == UP_FWD)
        t->n = 2 * f, t->k = d;
    else if (p == DOWN_FWD)
        t->n = d, t->k = f;
    else if (p == UP_DX)
        t->n = d, t->k = 2 * f;
    else if (p == DOWN_DY || is_back(t))
        t->n = f, t->k = d;
    else
        t->m = p == UP_DW ? 2 * f : d, t->n = p == UP_DW ? d : f;
    t->a = normals(r, t->m ? t->m : t->k, 1, t->g.end, 1);
    t->b = t->m ? normals(r, t->n, 1, t->g.end, 2) : normals(N_EXPERTS, t->n * t->k, 0.02f, NULL, 2);
    t->out_elements = t->m ? N_EXPERTS * t->m * t->n : r * t->n;
    t->out = normals(t->out_elements, t->v.wide ? 2 : 1, 1, NULL, 3);
    if (t->v.wide)
        fill_floats_kernel<<<2048, 256>>>((float *)t->out, t->out_elements, NULL, 3);
    if (t->v.add) {
        const size_t bytes = (size_t)t->out_elements * (t->v.wide ? 4 : 2);
        t->before = (bf16 *)allocate((int64_t)bytes);
        CUDA_DO(cudaMemcpy(t->before, t->out, bytes, cudaMemcpyDeviceToDevice));
    }
    if (p == UP_FWD || is_back(t)) {
        t->y = normals(r, f, 1, NULL, 4);
        t->weight = weights(t, 5);
    }
    if (is_back(t)) {
        t->out = normals(r, 2 * f, 1, NULL, 3);
        t->h = normals(r, 2 * f, 1, t->g.end, 6);
        t->dweight = weights(t, 7);
        t->partial = (float *)allocate(grouped_back_partials(r, f) * 4);
    }
    LAUNCHED();
    CUDA_DO(cudaDeviceSynchronize());
}

static void run_back(const struct data *t, bool fused)
{
    const struct grouped_back b = { t->a, t->b,       t->h,       t->weight, t->out,
                                    t->y, t->dweight, t->partial, t->v.add };
    if (fused)
        grouped_back(0, &t->g, t->k, t->n, &b);
    else
        grouped_back_apart(0, &t->g, t->k, t->n, &b);
}

static void run(const struct data *t)
{
    static void *work;
    const bool add = t->v.add;
    if (t->v.product == DENSE) {
        work = work ? work : allocate(GEMM_WORK);
        cuda_gemm(0, NO, TR, t->g.n_rows, t->n, t->k, t->a, t->k, t->b, t->k, 0, t->out, false, t->n, work);
    } else if (t->v.product == UP_FWD) {
        grouped_up(0, &t->g, t->k, t->n / 2, t->a, t->weight, t->b, t->out, t->y);
    } else if (is_back(t)) {
        run_back(t, t->v.product == BACK_FUSED);
    } else if (t->m) {
        grouped_gradient(0, &t->g, 1, t->m, t->n, t->a, t->b, add, t->out, t->v.wide);
    } else {
        grouped_rows(0, &t->g, t->v.product == DOWN_FWD ? TR : NO, t->n, t->k, t->a, t->b, add, t->out);
    }
}

static double dot64(const float *x, const float *y, int64_t n, double *sum_squares)
{
    double sum = 0;
    *sum_squares = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i] * y[i];
        *sum_squares += (double)x[i] * y[i] * x[i] * y[i];
    }
    return sum;
}

/* |got - want| in units of: 2^-8 of want (rounding to bfloat16, twice when adding), and what float32 sums lose. */
static double error_of(double got, double want, double old, double sum_squares)
{
    const double allowed = 0x1p-8 * (fabs(want) + fabs(want - old)) + 0x1p-16 * sqrt(sum_squares) + 1e-30;
    return fabs(got - want) / allowed;
}

static int64_t expert_of(const struct data *t, int64_t row)
{
    int64_t e = 0;
    while (row >= round_up(t->ends[e], TILE))
        e++;
    return e;
}

/* Of element `sample` of the output. */
static double check_element(const struct data *t, int64_t sample)
{
    const int64_t row = sample / t->n, column = sample % t->n, begin_m = t->m ? row / t->m : 0;
    double old = 0, squares = 0, sum;
    if (t->m) {
        const int64_t from = begin_m ? round_up(t->ends[begin_m - 1], TILE) : 0, n = t->ends[begin_m] - from;
        sum = n <= 0 ? 0
                     : dot64(take(t->a, false, from * t->m + row % t->m, t->m, n, 0),
                             take(t->b, false, from * t->n + column, t->n, n, 1), n, &squares);
    } else {
        const int64_t w = t->v.product == DENSE ? 0 : expert_of(t, row) * t->n * t->k;
        const bool other = t->v.product == UP_DX || t->v.product == DOWN_DY;
        sum = dot64(take(t->a, false, row * t->k, 1, t->k, 0),
                    take(t->b, false, w + (other ? column : column * t->k), other ? t->n : 1, t->k, 1), t->k,
                    &squares);
    }
    if (t->v.add)
        old = *take(t->before, t->v.wide, sample, 1, 1, 2);
    return error_of(*take(t->out, t->v.wide, sample, 1, 1, 3), old + sum, old, squares);
}

/* y of the forward product, from the h that it wrote: but for the exponential it is the same arithmetic. */
static double check_y(const struct data *t, int64_t sample)
{
    const int64_t f = HIDDEN, row = sample / f, column = sample % f;
    const double gate = *take(t->out, false, row * 2 * f + column, 1, 1, 0),
                 up = *take(t->out, false, row * 2 * f + f + column, 1, 1, 1),
                 weight = *take(t->weight, true, row, 1, 1, 2), want = weight * gate / (1 + exp(-gate)) * up;
    return fabs(*take(t->y, false, sample, 1, 1, 3) - want) / (0x1p-8 * fabs(want) + 1e-30);
}

/* How many elements of a differ from those of b by more than relative |b| + slack (of each element, or 0), or are no
 * numbers. */
__global__ static void count_kernel(const void *a, const void *b, bool wide, int64_t n, float relative,
                                    const float *slack, unsigned long long *count)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        const float x = grad_load(a, wide, i), y = grad_load(b, wide, i);
        if (!(fabsf(x - y) <= relative * fabsf(y) + (slack ? slack[i] : 1e-6f * (relative > 0))))
            atomicAdd(count, 1ull);
    }
}
static int64_t count_far(const char *what, const void *a, const void *b, bool wide, int64_t n, float relative,
                         const float *slack)
{
    unsigned long long *count = (unsigned long long *)allocate(8), found = 0;
    CUDA_DO(cudaMemset(count, 0, 8));
    count_kernel<<<2048, 256>>>(a, b, wide, n, relative, slack, count);
    LAUNCHED();
    CUDA_DO(cudaMemcpy(&found, count, 8, cudaMemcpyDeviceToHost));
    if (found)
        printf("%s: %llu of %lld differ; ", what, found, (long long)n);
    return (int64_t)found;
}

/* What rounding every dy to bfloat16 may change in the gradient of a row's weight: eight standard deviations. The root of
 * the sum of the squares of its terms, <dy, silu(gate) up>, from dh of up and h. One block per row. */
__global__ static void weight_slack_kernel(const bf16 *dh, const bf16 *h, const float *weight, int64_t f,
                                           float *slack)
{
    const int64_t row = blockIdx.x;
    __shared__ float part[32];
    float sum = 0;
    for (int64_t i = threadIdx.x; i < f; i += blockDim.x) {
        const int64_t at = row * 2 * f + f + i;
        const float x = __bfloat162float(dh[at]) * __bfloat162float(h[at]);
        sum += x * x;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned i = 1; i < blockDim.x / 32; i++)
            sum += part[i];
        slack[row] = 0x1p-6f * sqrtf(sum) / (fabsf(weight[row]) + 1e-20f) + 1e-6f;
    }
}

/* The outputs of t against those of the same call into other memory: equal bits, or (apart) what rounding dy to
 * bfloat16 may cost; y is the same in both. */
static int64_t compare_back(const struct data *t, bool apart)
{
    const int64_t r = t->g.n_rows, f = t->n;
    struct data u = *t;
    u.out = normals(r, 2 * f, 1, NULL, 8);
    u.y = normals(r, f, 1, NULL, 9);
    u.dweight = weights(t, 7);
    float *slack = apart ? (float *)allocate(r * 4) : NULL;
    run_back(&u, !apart);
    if (apart) {
        weight_slack_kernel<<<(unsigned)r, 256>>>(u.out, t->h, t->weight, f, slack);
        LAUNCHED();
    }
    return count_far(apart ? "dh, apart" : "dh, again", t->out, u.out, false, r * 2 * f, apart ? 0x1p-7f : 0,
                     NULL) +
           count_far(apart ? "y, apart" : "y, again", t->y, u.y, false, r * f, 0, NULL) +
           count_far(apart ? "dweight, apart" : "dweight, again", t->dweight, u.dweight, true, r,
                     apart ? 0x1p-16f : 0, slack);
}

/* dh and y at a row and a column of y, against float64. */
static double check_back(const struct data *t, int64_t sample)
{
    const int64_t f = t->n, row = sample / f, column = sample % f, h = row * 2 * f + column;
    double squares;
    const double dy =
        dot64(take(t->a, false, row * t->k, 1, t->k, 0),
              take(t->b, false, expert_of(t, row) * f * t->k + column, f, t->k, 1), t->k, &squares);
    const double gate = *take(t->h, false, h, 1, 1, 0), up = *take(t->h, false, h + f, 1, 1, 1);
    const double weight = *take(t->weight, true, row, 1, 1, 2), sigma = 1 / (1 + exp(-gate));
    const double by_gate = weight * up * sigma * (1 + gate * (1 - sigma)), by_up = weight * gate * sigma;
    const double y = by_up * up, off = 0x1p-7 * fabs(dy) + 0x1p-16 * sqrt(squares);
    const double error[3] = { fabs(*take(t->out, false, h, 1, 1, 3) - by_gate * dy) /
                                  (fabs(by_gate) * off + 1e-6 * fabs(weight * up * dy) + 1e-30),
                              fabs(*take(t->out, false, h + f, 1, 1, 3) - by_up * dy) /
                                  (fabs(by_up) * off + 1e-30),
                              fabs(*take(t->y, false, sample, 1, 1, 3) - y) / (0x1p-8 * fabs(y) + 1e-30) };
    return fmax(error[0], fmax(error[1], error[2]));
}

static double check_samples(const struct data *t, int64_t *worst)
{
    double most = 0;
    uint64_t x = 12345;
    for (int i = 0; i < SAMPLES; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        const int64_t n = t->out_elements;
        /* Also the first and the last element. */
        const int64_t at = i == 0 ? 0 : i == 1 ? n - 1 : (int64_t)((x >> 11) % (uint64_t)n);
        double error = is_back(t) ? check_back(t, at) : check_element(t, at);
        if (t->v.product == UP_FWD)
            error = fmax(error, check_y(t, at / 2));
        if (!(error <= most)) {
            most = error;
            *worst = at;
        }
    }
    return most;
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double median_ms(const struct data *t)
{
    static float ms[RUNS];
    const struct stopwatch w = stopwatch_new(0);
    for (int i = -WARM; i < RUNS; i++) {
        stopwatch_start(&w);
        run(t);
        const float one = stopwatch_stop(&w);
        if (i >= 0)
            ms[i] = one;
    }
    qsort(ms, RUNS, sizeof *ms, compare_floats);
    return ms[RUNS / 2];
}

/* Of a run, in a queue that is never empty. */
static double sustained_ms(const struct data *t, double ms)
{
    const struct stopwatch w = stopwatch_new(0);
    const int heating = (int)(1e3 * HEATING_S / ms) + 1, n = (int)(1e3 * SUSTAINED_S / ms) + 1;
    for (int i = 0; i < heating + n; i++) {
        if (i == heating)
            stopwatch_start(&w);
        run(t);
    }
    return (double)stopwatch_stop(&w) / n;
}

static int probe(const struct variant *v)
{
    static struct data t;
    struct err e = { 0, "" };
    int64_t worst = 0;
    alarm(LIMIT_S);
    if (!device_cuda_open(0, &e))
        die_err(&e);
    t.v = *v;
    set_data(&t);
    run(&t);
    CUDA_DO(cudaDeviceSynchronize());
    double error = check_samples(&t, &worst);
    if (t.v.product == BACK_FUSED && compare_back(&t, false) + compare_back(&t, true) > 0)
        error = INFINITY;
    const double ms = median_ms(&t), sustained = sustained_ms(&t, ms);
    int64_t rows = 0;
    for (int i = 0; i < N_EXPERTS; i++)
        rows += t.ends[i] - (i ? round_up(t.ends[i - 1], TILE) : 0);
    const double flops = 2.0 * (double)rows * (double)t.n * (double)(t.m ? t.m : t.k);
    printf("%8.3f ms %7.1f TFLOP/s  sustained %8.3f ms %7.1f TFLOP/s  error %.3f", ms, flops / ms / 1e9,
           sustained, flops / sustained / 1e9, error);
    if (!(error <= 1))
        printf(" FAIL at row %lld column %lld", (long long)(worst / t.n), (long long)(worst % t.n));
    printf("\n");
    return error <= 1 ? 0 : 1;
}

int main(int n_arguments, char **arguments)
{
    int failed = check_plan() + check_addresses() + check_barriers();
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const struct variant *v = &variants[i];
        char name[64];
        int status = 0;
        snprintf(name, sizeof name, "%s%s%s%s", product_names[v->product], v->wide ? "_wide" : "",
                 v->add ? "_add" : "", v->skewed ? "_skewed" : "");
        if (!is_asked(name, n_arguments, arguments))
            continue;
        printf("%-24s %6lld ", name, (long long)v->rows);
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0)
            exit(probe(v));
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status))
            printf("ended by signal %d (%s)\n", WTERMSIG(status),
                   WTERMSIG(status) == SIGALRM ? "too slow" : "died");
        failed += status != 0;
        fflush(stdout);
    }
    printf("%d failed\n", failed);
    return failed != 0;
}
