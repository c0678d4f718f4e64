/* attention_probe.cu - the attention of DeepSeek-V2-Lite, 4 sequences of 2048: times of the ways, all that they launch
 * included (`attention_probe times`: that alone); then cuDNN's plans: of every one that it offers, whether it is deterministic, its workspace, its time without a pause, and whether dQ, dK and dV have the bits of the
 * first; then the parts in which backward may be cut. `make probe` builds it. Links none of dnn.cu and attention_dnn.cu: it
 * has them. */
#include "src/cuda/dnn.cu"
#include "src/ops/attention_dnn.cu"
#include "tests/probe/normals.cuh"
extern "C" {
#include "device/device.h"
}
#include <stdio.h>
enum { N = 4, S = 2048, A = 16, Q = 192, C = 256, V = 128, R = 64 };

__global__ static void hash_kernel(unsigned long long *sum, const bf16 *p, int64_t n)
{
    unsigned long long mine = 0;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        mine += scrambled(((uint64_t)i << 16) + ((const uint16_t *)p)[i] + 1);
    atomicAdd(sum, mine);
}

static struct {
    bf16 *q, *k, *kv, *o, *d_o, *dq, *dk, *dkv, *lse, *sum, *work;
    int64_t work_bytes;
} t;

static unsigned long long hash_of(bool backward)
{
    static unsigned long long *sum;
    unsigned long long all = 0;
    if (!sum)
        CUDA_DO(cudaMalloc((void **)&sum, sizeof *sum));
    CUDA_DO(cudaMemset(sum, 0, sizeof *sum));
    const int64_t rows = (int64_t)N * S * A;
    if (backward) {
        hash_kernel<<<1024, 256>>>(sum, t.dq, rows * Q);
        hash_kernel<<<1024, 256>>>(sum, t.dk, rows * Q);
        hash_kernel<<<1024, 256>>>(sum, t.dkv, rows * C);
    } else {
        hash_kernel<<<1024, 256>>>(sum, t.o, rows * V);
    }
    LAUNCHED();
    CUDA_DO(cudaMemcpy(&all, sum, sizeof all, cudaMemcpyDeviceToHost));
    return all;
}

static void bind(struct dnn_binding *b, const struct scalars *x, bool backward, int64_t row, int64_t head_row)
{
    b->n = 0;
    dnn_bind(b, Q_, t.q + row * Q);
    dnn_bind(b, K_, t.k + row * Q);
    dnn_bind(b, V_, t.kv + row * C + C - V);
    dnn_bind(b, O_, t.o + row * V);
    dnn_bind(b, LSE_, (float *)t.lse + head_row);
    if (backward) {
        dnn_bind(b, DO_, t.d_o + row * V);
        dnn_bind(b, DQ_, t.dq + row * Q);
        dnn_bind(b, DK_, t.dk + row * Q);
        dnn_bind(b, DV_, t.dkv + row * C + C - V);
        dnn_bind(b, SUM_, (float *)t.sum + head_row);
    }
    bind_scalars(b, x, backward);
}

/* One pass over all sequences and heads, n and h of them at a time. */
static void run_all(dnn_part plan, int64_t n, int64_t h, bool backward)
{
    const struct scalars x = { 0.1147f, -INFINITY, 1 };
    struct dnn_binding b;
    for (int64_t first = 0; first < N; first += n)
        for (int64_t head = 0; head < A; head += h) {
            bind(&b, &x, backward, first * S * A + head, (first * A + head) * S);
            dnn_run(plan, 0, &b, t.work);
        }
}

static double sustained_us(dnn_part plan, int64_t n, int64_t h, bool backward, double seconds)
{
    const struct stopwatch w = stopwatch_new(0);
    int runs = 0;
    for (const double end = seconds * 1e6 / 800; runs < end / 2; runs++)
        run_all(plan, n, h, backward);
    stopwatch_start(&w);
    for (runs = 0; runs < seconds * 1e6 / 800; runs++)
        run_all(plan, n, h, backward);
    return 1e3 * (double)stopwatch_stop(&w) / runs;
}

static void describe(dnn_part config)
{
    const struct cuda_library *l = cuda_library();
    dnn_part engine = new_part(CUDNN_BACKEND_ENGINE_DESCRIPTOR), knob[24];
    int64_t n = 0, index = -1, value = 0;
    check(l->dnn_get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine),
          "engine");
    l->dnn_get(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &n, &index);
    printf("engine %lld", (long long)index);
    for (int i = 0; i < 24; i++)
        knob[i] = new_part(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    if (l->dnn_get(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, 24, &n, knob) ==
        CUDNN_STATUS_SUCCESS)
        for (int i = 0; i < n && i < 24; i++) {
            int64_t one = 0;
            cudnnBackendKnobType_t kind = (cudnnBackendKnobType_t)0;
            l->dnn_get(knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &one, &kind);
            l->dnn_get(knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &one, &value);
            printf(" %d=%lld", (int)kind, (long long)value);
        }
}

static void probe(int64_t n, int64_t h, bool backward, int most)
{
    static const cudnnBackendHeurMode_t modes[] = { CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B,
                                                    CUDNN_HEUR_MODE_FALLBACK };
    unsigned long long first = 0;
    int taken = 0;
    for (int m = 0; m < 3; m++) {
        struct dnn_graph g;
        dnn_part config[CONFIGS];
        int64_t found = 0;
        memset(&g, 0, sizeof g);
        const struct key k = { n, h, S, A, Q, C, V, backward };
        (backward ? bwd_graph : fwd_graph)(&g, &k);
        const dnn_part graph = close_graph(&g, "graph"),
                       heuristic = new_part(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
        set_part(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
        set(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &modes[m]);
        if (cuda_library()->dnn_finalize(heuristic) != CUDNN_STATUS_SUCCESS) {
            printf("mode %d: none\n", (int)modes[m]);
            continue;
        }
        for (int i = 0; i < CONFIGS; i++)
            config[i] = new_part(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
        if (cuda_library()->dnn_get(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                    CONFIGS, &found, config) != CUDNN_STATUS_SUCCESS)
            continue;
        for (int i = 0; i < found && i < CONFIGS && i < most; i++) {
            int64_t bytes = 0;
            printf("%s %lld x %lld mode %d %2d: ", backward ? "bwd" : "fwd", (long long)n, (long long)h,
                   (int)modes[m], i);
            describe(config[i]);
            const bool same_always = is_deterministic(config[i]);
            const dnn_part plan = plan_of(config[i], &bytes);
            if (!plan || bytes > t.work_bytes) {
                printf(": %s (%lld bytes)\n", plan ? "too large" : "no plan", (long long)bytes);
                continue;
            }
            run_all(plan, n, h, backward);
            const unsigned long long hash = hash_of(backward);
            first = taken++ ? first : hash;
            const double us = sustained_us(plan, n, h, backward, 0.25);
            const bool again = hash_of(backward) == hash;
            printf(": %s %s, %.1f MB, %7.1f us, bits %s\n",
                   same_always ? "deterministic" : "NOT deterministic", again ? "" : "(seen)",
                   (double)bytes / 1e6, us, hash == first ? "of the first" : "other");
            fflush(stdout);
        }
    }
}

/* A way of attention: of a call, forward or backward. */
typedef void way(const struct call *c, const struct attention *z);

static double way_ms(way *f, const struct call *c, const struct attention *z, int runs)
{
    const struct stopwatch w = stopwatch_new(0);
    for (int i = 0; i < runs / 2; i++)
        f(c, z);
    stopwatch_start(&w);
    for (int i = 0; i < runs; i++)
        f(c, z);
    return (double)stopwatch_stop(&w) / runs;
}

/* TFLOP/s: of the products under the diagonal, 5 of them backward, whatever is computed again. */
static void time_way(const char *name, way *fwd, way *bwd, const struct call *c, int runs)
{
    const double products = (double)N * A * S * S * 1e-9;
    struct attention z;
    z.b = N, z.s = S, z.a = A, z.q = Q, z.c = C, z.r = R, z.v = V, z.nope = Q - R, z.scale = 0.1147f;
    const double ms = way_ms(fwd, c, &z, runs), back_ms = way_ms(bwd, c, &z, runs);
    printf("%-6s forward %8.3f ms %6.1f TFLOP/s, backward %8.3f ms %6.1f TFLOP/s\n", name, ms,
           products * (Q + V) / ms, back_ms, products * (3 * Q + 2 * V) / back_ms);
    fflush(stdout);
}

static void time_ways(void)
{
    struct call c;
    memset(&c, 0, sizeof c);
    c.arg[QUERY] = t.q, c.arg[KV] = t.kv, c.arg[K_ROPE] = t.k, c.arg[O] = t.o, c.arg[LSE] = t.lse;
    c.grad[QUERY] = t.dq, c.grad[KV] = t.dkv, c.grad[K_ROPE] = t.dk, c.grad[O] = t.d_o, c.work = t.work;
    time_way("cuDNN", attention_dnn_fwd, attention_dnn_bwd, &c, 100);
    time_way("wgmma", attention_dnn_fwd, attention_hopper_bwd, &c, 100);
    time_way("mma", attention_mma_fwd, attention_mma_bwd, &c, 100);
    time_way("plain", attention_plain_fwd, attention_plain_bwd, &c, 1);
}

int main(int n_args, char **args)
{
    struct err e = { 0, "" };
    if (!device_cuda_open(0, &e))
        die_err(&e);
    const int64_t rows = (int64_t)N * S * A;
    t.q = normals(rows * Q, 1, 1), t.k = normals(rows * Q, 2, 1), t.kv = normals(rows * C, 3, 1);
    t.o = normals(rows * V, 4, 1), t.d_o = normals(rows * V, 5, 1);
    t.dq = normals(rows * Q, 6, 1), t.dk = normals(rows * Q, 7, 1), t.dkv = normals(rows * C, 8, 1);
    t.lse = normals(rows * 2, 9, 1), t.sum = normals(rows * 2, 10, 1);
    t.work_bytes = (int64_t)2 << 30;
    t.work = normals(t.work_bytes / 2, 11, 1);
    time_ways();
    if (n_args > 1 && strcmp(args[1], "times") == 0)
        return 0;
    probe(N, A, false, 99);
    probe(N, A, true, 99);
    probe(2, A, true, 2);
    probe(1, A, true, 2);
    probe(1, A / 2, true, 2);
    return 0;
}
