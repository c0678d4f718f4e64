/* chain_probe.cu - the backward products of the experts of one layer of DeepSeek-V2-Lite (8,192 tokens, 6 copies each, natural
 * ends), over all experts one after the other or for groups of experts in small scratch buffers that may stay in the
 * second-level cache: time and energy without a pause. `make probe` builds it.
 *   chain_probe [WORD...]   those whose name has one of the words; "whole" is what the others are compared with
 *   whole        rows of dz and x spread from tokens, dh and y, dw of down, dx, dw of up: buffers of full size, one stream
 *   gathered     the same without the spreading
 *   chain_gG_sS  groups of G experts, which S streams take in turn; dz, x, dh and y of a group in scratch of its stream
 *     _out       dz and x are spread at full size, before
 *     _late      x is gathered behind dw of down, to where dz was
 *     _split     each stream's products take their part of the multiprocessors instead of all
 *     _kept      a part of the cache is set aside for scratch
 *   chain_g64_s1 is `whole` but for the way of gathering.
 * A layer is a CUDA graph; two layers in turn, each with tokens, h, weights and gradients of its own. A line: MB of scratch, ms and
 * J per layer, W, ms and J against the first `whole`, and whether dx, dw of up and dw of down have the bits that the calls
 * of `whole` gave without a graph. The gradient of the rows' weights is left out everywhere. */
/* PROBE=-DCHAIN_NO_LIMIT: as in training. With the limit BACK spills 164 bytes of registers, in all variants alike. */
#ifndef CHAIN_NO_LIMIT
#define BARRIER_LIMIT_NS 3000000000
#endif
#include "src/cuda/grouped_hopper.cu"
#include "tests/probe/chain_data.cuh"
extern "C" {
#include "device/device.h"
}
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static const double HEATING_S = 1.5, SUSTAINED_S = 2, VARIANT_S = 3.7, LIMIT_S = 108;

enum gathers { OUTSIDE, IN_GROUP, NOWHERE };
struct variant {
    int each, streams; /* experts of a group */
    enum gathers gathers;
    bool late, split, kept;
};
/* The most promising first. */
static const struct variant variants[] = {
    { 64, 1, OUTSIDE, false, false, false },  { 4, 2, IN_GROUP, false, false, false },
    { 8, 2, IN_GROUP, false, false, false },  { 4, 3, IN_GROUP, false, false, false },
    { 8, 3, IN_GROUP, false, false, false },  { 2, 4, IN_GROUP, false, false, false },
    { 16, 2, IN_GROUP, false, false, false }, { 8, 1, IN_GROUP, false, false, false },
    { 4, 2, IN_GROUP, true, false, false },   { 2, 4, IN_GROUP, true, false, false },
    { 4, 2, OUTSIDE, false, false, false },   { 2, 2, IN_GROUP, true, false, false },
    { 64, 1, NOWHERE, false, false, false },  { 64, 1, OUTSIDE, false, false, false },
    { 2, 2, IN_GROUP, false, false, false },  { 2, 3, IN_GROUP, false, false, false },
    { 4, 4, IN_GROUP, false, false, false },  { 2, 4, IN_GROUP, true, true, false },
    { 8, 2, OUTSIDE, false, false, false },   { 1, 4, IN_GROUP, true, false, false },
    { 64, 1, IN_GROUP, false, false, false }, { 4, 1, IN_GROUP, false, false, false },
    { 2, 2, IN_GROUP, true, false, true },    { 8, 4, IN_GROUP, false, false, false },
    { 32, 2, IN_GROUP, false, false, false }, { 16, 3, IN_GROUP, false, false, false },
    { 2, 1, IN_GROUP, false, false, false },  { 16, 1, IN_GROUP, false, false, false },
    { 32, 1, IN_GROUP, false, false, false }, { 16, 4, IN_GROUP, false, false, false },
    { 64, 1, OUTSIDE, false, false, false },
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

/* -- one pass -- */
/* Buffers of a group: rows of its own, from its first one on. */
struct buffers {
    bf16 *dz, *x, *dh, *y;
    float *partial;
};

static int64_t group_rows(const struct variant *v, int group)
{
    return t.edge[(group + 1) * v->each] - t.edge[group * v->each];
}
static int64_t most_rows(const struct variant *v)
{
    int64_t most = 0;
    for (int i = 0; i < N_EXPERTS / v->each; i++)
        most = group_rows(v, i) > most ? group_rows(v, i) : most;
    return most;
}

/* Those of stream s, for a group that begins at row `first`. Returns the end of the scratch that is used. */
static bf16 *scratch_of(const struct variant *v, int s, int64_t first, struct buffers *b)
{
    const int64_t rows = most_rows(v), partials = 2 * grouped_back_partials(rows, HIDDEN);
    const int64_t copies = v->gathers != IN_GROUP ? 0 : v->late ? 1 : 2;
    bf16 *at = t.scratch + s * (rows * (copies * WIDTH + 3 * HIDDEN) + partials);
    b->dh = at;
    b->y = b->dh + rows * 2 * HIDDEN;
    b->dz = b->y + rows * HIDDEN;
    b->x = v->late ? b->dz : b->dz + rows * WIDTH;
    at = b->dz + copies * rows * WIDTH;
    b->partial = (float *)at;
    if (copies == 0) {
        b->dz = t.dz_rows + first * WIDTH;
        b->x = t.x_rows + first * WIDTH;
    }
    CHECK(at + partials <= t.scratch + t.scratch_elements, "%lld rows", (long long)rows);
    return at + partials;
}
static size_t scratch_bytes(const struct variant *v)
{
    struct buffers b;
    return (size_t)(scratch_of(v, v->streams - 1, 0, &b) - t.scratch) * 2;
}

static void gather(cudaStream_t stream, const struct gather *g, unsigned n)
{
    gather_kernel<<<dim3(blocks_for(g->n_rows, ROW_WARPS), n), ROW_THREADS, 0, stream>>>(*g);
    LAUNCHED();
}

static void spread(const bf16 *from, bf16 *to)
{
    const struct row_spread s = { to,       from,     t.place, t.row, NULL, NULL,
                                  N_TOKENS, t.n_rows, COPIES,  WIDTH, false };
    rows_spread(t.stream[0], &s);
}

static void run_group(const struct variant *v, const struct layer *l, int group, bool clear)
{
    const int64_t e = (int64_t)group * v->each, first = t.edge[e];
    const cudaStream_t stream = t.stream[group % v->streams];
    const struct groups g = { t.group_end + e, v->each, 1, TILE, group_rows(v, group) };
    struct buffers b;
    scratch_of(v, group % v->streams, first, &b);
    struct gather both = { { b.dz, b.x }, { l->dz, l->x }, t.row + first, g.n_rows, clear };
    const struct grouped_back back = {
        b.dz, l->w_down + e * W_DOWN, l->h + first * 2 * HIDDEN, t.gate + first, b.dh, b.y, NULL, b.partial,
        false
    };
    if (v->gathers == IN_GROUP)
        gather(stream, &both, v->late ? 1 : 2);
    grouped_back(stream, &g, WIDTH, HIDDEN, &back);
    grouped_gradient(stream, &g, 1, WIDTH, HIDDEN, b.dz, b.y, true, l->result[2] + e * W_DOWN, false);
    if (v->gathers == IN_GROUP && v->late) {
        both.to[0] = b.x;
        both.from[0] = l->x;
        gather(stream, &both, 1);
    }
    grouped_rows(stream, &g, NO, WIDTH, 2 * HIDDEN, b.dh, l->w_up + e * W_UP, false,
                 l->result[0] + first * WIDTH);
    grouped_gradient(stream, &g, 1, 2 * HIDDEN, WIDTH, b.dh, b.x, true, l->result[1] + e * W_UP, false);
}

/* In t.stream[0], and others that begin and end there. */
static void run_layer(const struct variant *v, const struct layer *l, bool clear)
{
    if (v->gathers == OUTSIDE) {
        spread(l->dz, t.dz_rows);
        spread(l->x, t.x_rows);
    }
    CUDA_DO(cudaEventRecord(t.fork, t.stream[0]));
    for (int s = 1; s < v->streams; s++)
        CUDA_DO(cudaStreamWaitEvent(t.stream[s], t.fork, 0));
    for (int i = 0; i < N_EXPERTS / v->each; i++)
        run_group(v, l, i, clear);
    for (int s = 1; s < v->streams; s++) {
        CUDA_DO(cudaEventRecord(t.join[s], t.stream[s]));
        CUDA_DO(cudaStreamWaitEvent(t.stream[0], t.join[s], 0));
    }
}

/* What a variant needs beside its calls. */
static void begin_variant(const struct variant *v)
{
    int32_t end[N_EXPERTS];
    for (int e = 0; e < N_EXPERTS; e++)
        end[e] = (int32_t)(t.end[e] - t.edge[e / v->each * v->each]);
    CUDA_DO(cudaMemcpy(t.group_end, end, sizeof end, cudaMemcpyHostToDevice));
    const int all = multiprocessors();
    device_cuda()->lanes(0, v->split ? all - all / v->streams : 0);
    if (v->kept)
        CUDA_DO(cudaDeviceSetLimit(cudaLimitPersistingL2CacheSize, t.kept_bytes));
}
static void end_variant(const struct variant *v)
{
    device_cuda()->lanes(0, 0);
    if (v->kept) {
        CUDA_DO(cudaCtxResetPersistingL2Cache());
        CUDA_DO(cudaDeviceSetLimit(cudaLimitPersistingL2CacheSize, 0));
    }
}

/* All kernels of the graph keep scratch in the part of the cache that is set aside, as far as it has room. */
static void keep_scratch(cudaGraph_t graph, size_t bytes)
{
    enum { MOST = 4096 };
    static cudaGraphNode_t node[MOST];
    size_t n = MOST;
    cudaKernelNodeAttrValue a = {};
    bytes = bytes < t.window_bytes ? bytes : t.window_bytes;
    const double ratio = (double)t.kept_bytes / (double)bytes;
    a.accessPolicyWindow.base_ptr = t.scratch;
    a.accessPolicyWindow.num_bytes = bytes;
    a.accessPolicyWindow.hitRatio = ratio < 1 ? (float)ratio : 1;
    a.accessPolicyWindow.hitProp = cudaAccessPropertyPersisting;
    a.accessPolicyWindow.missProp = cudaAccessPropertyNormal;
    CUDA_DO(cudaGraphGetNodes(graph, node, &n));
    for (size_t i = 0; i < n; i++) {
        cudaGraphNodeType type;
        CUDA_DO(cudaGraphNodeGetType(node[i], &type));
        if (type == cudaGraphNodeTypeKernel)
            CUDA_DO(cudaGraphKernelNodeSetAttribute(node[i], cudaKernelNodeAttributeAccessPolicyWindow, &a));
    }
}

static cudaGraphExec_t recorded(const struct variant *v, const struct layer *l)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t record = NULL;
    CUDA_DO(cudaStreamBeginCapture(t.stream[0], cudaStreamCaptureModeRelaxed));
    run_layer(v, l, true);
    CUDA_DO(cudaStreamEndCapture(t.stream[0], &graph));
    if (v->kept)
        keep_scratch(graph, scratch_bytes(v));
    CUDA_DO(cudaGraphInstantiate(&record, graph, 0));
    CUDA_DO(cudaGraphDestroy(graph));
    CUDA_DO(cudaGraphUpload(record, t.stream[0]));
    return record;
}

/* -- the same bits -- */
__global__ static void differ_kernel(const uint4 *a, const uint4 *b, int64_t n, unsigned long long *count)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        const uint4 x = a[i], y = b[i];
        if (x.x != y.x || x.y != y.y || x.z != y.z || x.w != y.w)
            atomicAdd(count, 1ull);
    }
}
/* Elements that are no numbers, and zeros. */
__global__ static void odd_kernel(const bf16 *p, int64_t n, unsigned long long count[2])
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        const float x = __bfloat162float(p[i]);
        if (!isfinite(x) || x == 0)
            atomicAdd(&count[x == 0], 1ull);
    }
}

/* Zero gradients; no numbers where a pass must write before it reads. */
static void clear_results(const struct variant *v, const struct layer *l)
{
    if (v->gathers == NOWHERE) {
        spread(l->dz, t.dz_rows);
        spread(l->x, t.x_rows);
    } else {
        CUDA_DO(cudaMemset(t.dz_rows, 0xff, (size_t)(t.n_rows * WIDTH) * 2));
        CUDA_DO(cudaMemset(t.x_rows, 0xff, (size_t)(t.n_rows * WIDTH) * 2));
    }
    CUDA_DO(cudaMemset(t.scratch, 0xff, scratch_bytes(v)));
    for (int i = 0; i < RESULTS; i++)
        CUDA_DO(cudaMemset(l->result[i], i == 0 ? 0xff : 0, (size_t)result_elements(i) * 2));
    CUDA_DO(cudaDeviceSynchronize());
}

static unsigned long long n_different(const struct layer *l)
{
    unsigned long long found = 0;
    CUDA_DO(cudaDeviceSynchronize());
    CUDA_DO(cudaMemset(t.count, 0, sizeof *t.count));
    for (int i = 0; i < RESULTS; i++) {
        differ_kernel<<<2048, 256>>>((const uint4 *)l->result[i], (const uint4 *)l->reference[i],
                                     result_elements(i) / VEC, t.count);
        LAUNCHED();
    }
    CUDA_DO(cudaMemcpy(&found, t.count, sizeof found, cudaMemcpyDeviceToHost));
    return found;
}

/* By calls of the first variant, `whole`; numbers, and few of them zero. */
static bool make_references(void)
{
    unsigned long long odd[2];
    int64_t n = 0;
    CUDA_DO(cudaMemset(t.count, 0, sizeof odd));
    begin_variant(&variants[0]);
    for (int k = 0; k < LAYERS; k++) {
        const struct layer *l = &t.layer[k];
        clear_results(&variants[0], l);
        run_layer(&variants[0], l, true);
        CUDA_DO(cudaDeviceSynchronize());
        for (int i = 0; i < RESULTS; i++) {
            n += result_elements(i);
            CUDA_DO(cudaMemcpy(l->reference[i], l->result[i], (size_t)result_elements(i) * 2,
                               cudaMemcpyDeviceToDevice));
            odd_kernel<<<2048, 256>>>(l->reference[i], result_elements(i), t.count);
            LAUNCHED();
        }
    }
    CUDA_DO(cudaMemcpy(odd, t.count, sizeof odd, cudaMemcpyDeviceToHost));
    end_variant(&variants[0]);
    const bool good = odd[0] == 0 && odd[1] < (unsigned long long)n / 20;
    printf("reference: of %lld elements %llu are no numbers, %llu zeros: %s\n", (long long)n, odd[0], odd[1],
           good ? "good" : "FAIL");
    return good;
}

/* Padding of scratch that is not cleared has to be seen. */
static bool sees_a_mistake(void)
{
    const struct variant *v = &variants[1];
    begin_variant(v);
    clear_results(v, &t.layer[0]);
    run_layer(v, &t.layer[0], false);
    const unsigned long long n = n_different(&t.layer[0]);
    end_variant(v);
    printf("padding not cleared: %llu vectors differ: %s\n", n, n ? "seen, good" : "FAIL");
    return n > 0;
}

/* -- times and energy -- */
struct result {
    double ms, watts;
    int n_pauses; /* the queue was empty */
};

static void wait_for(cudaEvent_t event, struct meter *m)
{
    cudaError_t status;
    while ((status = cudaEventQuery(event)) == cudaErrorNotReady) {
        meter_look(m);
        usleep(200);
    }
    CUDA_DO(status);
}

static struct result sustained(const cudaGraphExec_t record[LAYERS])
{
    const struct stopwatch w = stopwatch_new(t.stream[0]);
    const double begin = seconds_now();
    struct meter m = meter_new(t.energy);
    struct result r = { 0, 0, 0 };
    int first = -1, i = 0;
    for (double now = 0; now < HEATING_S + SUSTAINED_S; i++, now = seconds_now() - begin) {
        if (i >= AHEAD)
            wait_for(t.done[i % AHEAD], &m);
        if (first < 0 && now >= HEATING_S) {
            first = i;
            m = meter_new(t.energy);
            stopwatch_start(&w);
        }
        if (first >= 0 && cudaEventQuery(t.done[(i - 1) % AHEAD]) == cudaSuccess)
            r.n_pauses++;
        CUDA_DO(cudaGraphLaunch(record[i % LAYERS], t.stream[0]));
        CUDA_DO(cudaEventRecord(t.done[i % AHEAD], t.stream[0]));
    }
    r.ms = (double)stopwatch_stop(&w) / (i - first);
    r.watts = meter_watts(&m);
    CUDA_DO(cudaEventDestroy(w.begin));
    CUDA_DO(cudaEventDestroy(w.end));
    return r;
}

static void print_result(const struct result *r, const struct result *whole)
{
    printf("%7.3f ms ", r->ms);
    if (r->watts > 0)
        printf("%6.3f J %6.1f W ", r->ms * r->watts / 1e3, r->watts);
    else
        printf("     ? J      ? W ");
    if (whole->ms > 0)
        printf("%+6.2f %% ms ", 100 * (r->ms / whole->ms - 1));
    if (whole->ms > 0 && whole->watts > 0 && r->watts > 0)
        printf("%+6.2f %% J ", 100 * (r->ms * r->watts / whole->ms / whole->watts - 1));
    if (r->n_pauses)
        printf("(%d pauses) ", r->n_pauses);
}

/* Whether the results have the bits of the references. */
static bool probe(const struct variant *v, struct result *r)
{
    cudaGraphExec_t record[LAYERS];
    unsigned long long n = 0;
    begin_variant(v);
    for (int k = 0; k < LAYERS; k++) {
        record[k] = recorded(v, &t.layer[k]);
        clear_results(v, &t.layer[k]);
        CUDA_DO(cudaGraphLaunch(record[k], t.stream[0]));
        n += n_different(&t.layer[k]);
    }
    *r = sustained(record);
    for (int k = 0; k < LAYERS; k++)
        CUDA_DO(cudaGraphExecDestroy(record[k]));
    end_variant(v);
    return n == 0;
}

static void name_of(const struct variant *v, char *name, size_t bytes)
{
    if (v->each == N_EXPERTS && v->gathers != IN_GROUP)
        snprintf(name, bytes, "%s", v->gathers == OUTSIDE ? "whole" : "gathered");
    else
        snprintf(name, bytes, "chain_g%d_s%d%s%s%s%s", v->each, v->streams,
                 v->gathers == OUTSIDE ? "_out" : "", v->late ? "_late" : "", v->split ? "_split" : "",
                 v->kept ? "_kept" : "");
}
int main(int n_arguments, char **arguments)
{
    struct err e = { 0, "" };
    struct result whole = { 0, 0, 0 };
    const double begin = seconds_now();
    alarm((unsigned)LIMIT_S + 2);
    if (!device_cuda_open(0, &e))
        die_err(&e);
    CHECK(!cuda_portable(), "compute capability 9.0 is what this measures");
    set_data();
    int failed = !make_references() + !sees_a_mistake();
    fflush(stdout);
    for (int i = 0; i < N_VARIANTS; i++) {
        const struct variant *v = &variants[i];
        const double left = LIMIT_S - (seconds_now() - begin);
        struct result r;
        char name[64];
        name_of(v, name, sizeof name);
        if (!is_asked(name, n_arguments, arguments) || (v->kept && t.kept_bytes == 0))
            continue;
        printf("%-24s ", name);
        if (left < (i == N_VARIANTS - 1 ? 1 : 2) * VARIANT_S) { /* the last one is `whole` */
            printf("left out: no time\n");
            continue;
        }
        fflush(stdout);
        const bool same = probe(v, &r);
        if (strcmp(name, "whole") == 0 && whole.ms == 0)
            whole = r;
        printf("%7.1f MB ", (double)scratch_bytes(v) / 1e6);
        print_result(&r, &whole);
        printf("%s\n", same ? "same bits" : "FAIL: other bits");
        fflush(stdout);
        failed += !same;
    }
    printf("%d failed\n", failed);
    return failed != 0;
}
