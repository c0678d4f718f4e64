/* bench_grouped.c - `bench grouped-gemm`: the table of the nnScaler example: gate, up, SwiGLU and down of all experts,
 * forward and backward, by the kernels of the operator `experts`, gradients added in the model's float. */
#include "base/num.h"
#include "base/rng.h"
#include "graph/registry.h"
#include "run/bench.h"
#include "run/exec.h"
#include <stdio.h>
#include <string.h>

enum { WIDTH = 2048, HIDDEN = 1408, COPIES = 6, TILE = 128, WARM = 5, RUNS = 20 };
static const int64_t table[][2] = { { 4096, 64 }, { 2048, 32 },  { 8192, 64 },
                                    { 2048, 16 }, { 16384, 64 }, { 2048, 8 } };

struct experts {
    const struct device *d;
    int64_t rows, n_experts, capacity;
    struct call call;
    void *memory[32];
    int n;
};

static void *room(struct experts *x, int64_t elements, int64_t each)
{
    return x->memory[x->n++] = x->d->allocate((size_t)(elements * each));
}

static void *numbers(struct experts *x, int64_t elements, double scale)
{
    void *p = room(x, elements, 2);
    const struct rng_fill f = { FILL_NORMAL, 1, (uint64_t)x->n, 0, elements, scale };
    x->d->fill(p, NULL, MASTER_NONE, &f);
    return p;
}

/* Rows of expert e: equal shares, shares that fall as 1 / (e + 1), or all for the first. */
static int64_t share(const struct experts *x, int routing, int64_t e)
{
    double sum = 0;
    for (int64_t i = 0; i < x->n_experts; i++)
        sum += 1 / (double)(i + 1);
    if (routing == ROUTING_ONE)
        return e == 0 ? x->rows : 0;
    return routing == ROUTING_UNIFORM ? x->rows / x->n_experts
                                      : (int64_t)((double)x->rows / sum / (double)(e + 1));
}

static void *segment_ends(struct arena *a, struct experts *x, int routing)
{
    int32_t *end = ARENA_NEW(a, int32_t, x->n_experts);
    int64_t at = 0, used = 0;
    for (int64_t e = 0; e < x->n_experts; e++) {
        const int64_t n = e + 1 == x->n_experts ? x->rows - used : share(x, routing, e);
        at = (at + TILE - 1) / TILE * TILE + n;
        used += n;
        end[e] = (int32_t)at;
    }
    void *p = room(x, x->n_experts, sizeof *end);
    x->d->put(p, end, (size_t)x->n_experts * sizeof *end);
    return p;
}

static void *gates(struct arena *a, struct experts *x)
{
    float *g = ARENA_NEW(a, float, x->capacity);
    for (int64_t i = 0; i < x->capacity; i++)
        g[i] = (float)rng_uniform(3, 0, (uint64_t)i);
    void *p = room(x, x->capacity, sizeof *g);
    x->d->put(p, g, (size_t)x->capacity * sizeof *g);
    return p;
}

static void make_call(struct arena *a, struct experts *x, int routing)
{
    const int64_t R = x->capacity, E = x->n_experts;
    size_t work[2];
    x->call = (struct call){
        .arg = { numbers(x, R * WIDTH, 1), gates(a, x), segment_ends(a, x, routing),
                 numbers(x, E * 2 * HIDDEN * WIDTH, 0.02), numbers(x, E * WIDTH * HIDDEN, 0.02),
                 room(x, R * 2 * HIDDEN, 2), room(x, R * WIDTH, 2) },
        .grad = { room(x, R * WIDTH, 2), room(x, R, 4), NULL, numbers(x, E * 2 * HIDDEN * WIDTH, 1),
                  numbers(x, E * WIDTH * HIDDEN, 1), NULL, numbers(x, R * WIDTH, 1) },
        .add = 1u << 3 | 1u << 4,
        .dim = { R, E, WIDTH, 1, 2, HIDDEN },
        .attr = { TILE, 1 },
        .stream = x->d->stream()
    };
    op_experts.work[CUDA](&x->call, work);
    x->call.work = room(x, (int64_t)(work[0] > work[1] ? work[0] : work[1]), 1);
}

static void forward(const struct experts *x)
{
    op_experts.fwd[CUDA](&x->call);
}

static void backward(const struct experts *x)
{
    op_experts.bwd[CUDA](&x->call);
}

static double seconds(const struct experts *x, void (*f)(const struct experts *x))
{
    for (int i = 0; i < WARM; i++)
        f(x);
    x->d->wait();
    const double begin = exec_now();
    for (int i = 0; i < RUNS; i++)
        f(x);
    x->d->wait();
    return (exec_now() - begin) / RUNS;
}

static void print_row(struct arena *a, const struct config *c, const struct device *d, int row)
{
    struct experts x = { .d = d, .rows = table[row][0] * COPIES, .n_experts = table[row][1] };
    x.capacity = (x.rows + x.n_experts * (TILE - 1)) / TILE * TILE;
    make_call(a, &x, c->routing);
    const double fwd = seconds(&x, forward), bwd = seconds(&x, backward);
    const double flops = 6.0 * (double)x.rows * WIDTH * HIDDEN, mfu = 3 * flops / (fwd + bwd) / 989e12;
    if (c->json)
        printf("%s{\"tokens\": %lld, \"experts\": %lld, \"forward_ms\": %.4f, \"backward_ms\": %.4f, "
               "\"mfu\": %.4f}",
               row ? ", " : "[", (long long)table[row][0], (long long)x.n_experts, 1e3 * fwd, 1e3 * bwd, mfu);
    else
        printf("%7lld %8lld %11.3f %12.3f %6.1f%%\n", (long long)table[row][0], (long long)x.n_experts,
               1e3 * fwd, 1e3 * bwd, 100 * mfu);
    while (x.n > 0)
        d->release(x.memory[--x.n]);
}

bool bench_grouped(struct arena *a, const struct config *c, struct err *e)
{
    const int n = sizeof table / sizeof *table;
    if (!device_cuda_open)
        return err_code(e, EXIT_USAGE,
                        "bench grouped-gemm times the CUDA device; this program was built without nvcc");
    if (c->portable)
        device_cuda_portable();
    if (!device_cuda_open(0, e))
        return false;
    if (!c->json)
        printf("%s\nMFU = 3 x forward FLOPs / (forward + backward) / 989e12; 6 rows per token, %d x %d; "
               "weight gradients "
               "added in bfloat16\n%7s %8s %11s %12s %7s\n",
               device_cuda_description(), WIDTH, HIDDEN, "tokens", "experts", "forward ms", "backward ms",
               "MFU");
    for (int i = 0; i < n; i++)
        print_row(a, c, device_cuda(), i);
    if (c->json)
        printf("]\n");
    return true;
}
