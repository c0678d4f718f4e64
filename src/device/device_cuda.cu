/* device_cuda.cu - one CUDA device per rank: a stream, plain allocations, copies through the driver. */
extern "C" {
#include "base/arena.h"
#include "base/pool.h"
#include "device/device_impl.h"
#include "device/watch.h"
}
#include "cuda/library.cuh"
#include "cuda/random.cuh"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static cudaStream_t lanes[LANES];
static thread_local int in_use; /* lane, of this thread's calls */
static cudaEvent_t *places_;
static int n_places, blocks_left_;
static cudaEvent_t marks[DEVICE_MARKS];
static int device_; /* the current one of every thread that copies */
static char description[512];
static bool portable; /* asked for, or the device is no Hopper */

static void *allocate(size_t bytes)
{
    void *memory = NULL;
    const cudaError_t status = cudaMalloc(&memory, bytes ? bytes : 1);
    if (status != cudaSuccess) {
        size_t available = 0, total = 0;
        cudaMemGetInfo(&available, &total);
        die("the CUDA device gives no %zu bytes (%zu of %zu are free): %s", bytes, available, total,
            cudaGetErrorString(status));
    }
    return memory;
}

static bool (*work)(void);

static void meanwhile(bool (*f)(void))
{
    work = f;
}

/* Works until `status` is not "not ready"; failures are told by the call that follows. */
#define WORK_WHILE_NOT_READY(status)                                                                         \
    while (work && work() && (status) == cudaErrorNotReady)                                                  \
    (void)cudaGetLastError()

static void wait_for(cudaStream_t lane)
{
    watch_device("cudaStreamSynchronize"); /* NCCL's kernels wait for other ranks */
    WORK_WHILE_NOT_READY(cudaStreamQuery(lane));
    CUDA_DO(cudaStreamSynchronize(lane));
    watch_leave();
}

static void wait_(void)
{
    wait_for(lanes[LANE_COMPUTE]);
    wait_for(lanes[LANE_SIDE]);
}

static void wait_for_all(void)
{
    for (int i = 0; i < LANES; i++)
        wait_for(lanes[i]);
}

static void release(void *memory)
{
    wait_for_all();
    CUDA_DO(cudaFree(memory));
}

static void put_later(void *to, const void *from, size_t bytes)
{
    CUDA_DO(cudaSetDevice(device_));
    CUDA_DO(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, lanes[in_use]));
}

static void get_later(void *to, const void *from, size_t bytes)
{
    CUDA_DO(cudaSetDevice(device_));
    CUDA_DO(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, lanes[in_use]));
}

static void mark(int which)
{
    CUDA_DO(cudaEventRecord(marks[which], lanes[in_use]));
}

static void reach(int which)
{
    watch_device("cudaEventSynchronize");
    WORK_WHILE_NOT_READY(cudaEventQuery(marks[which]));
    CUDA_DO(cudaEventSynchronize(marks[which]));
    watch_leave();
}

static void put(void *to, const void *from, size_t bytes)
{
    put_later(to, from, bytes);
    wait_for(lanes[in_use]);
}

static void get(void *to, const void *from, size_t bytes)
{
    get_later(to, from, bytes);
    wait_for(lanes[in_use]);
}

static void copy(void *to, const void *from, size_t bytes)
{
    CUDA_DO(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, lanes[in_use]));
}

static void zero(void *at, size_t bytes)
{
    CUDA_DO(cudaMemsetAsync(at, 0, bytes, lanes[in_use]));
}

static void *stream(void)
{
    return lanes[in_use];
}

static void lane(enum device_lane which)
{
    in_use = which;
}

static enum device_lane lane_now(void)
{
    return (enum device_lane)in_use;
}

static void fetch(void *to, void *attached, int64_t at, size_t bytes)
{
    copy(to, (const char *)attached + at, bytes);
}

static const void *reach_at(void *attached, int64_t at)
{
    return (const char *)attached + at;
}

static void pull(const struct device_pull *p)
{
    device_pull_cuda(p, lanes[in_use]);
}

static void sum_of(const struct device_sum_of *s)
{
    device_sum_of_cuda(s, lanes[in_use]);
}

static void meet(uint32_t *const *word, int n, int mine, uint32_t call)
{
    device_meet_cuda(word, n, mine, call, lanes[in_use]);
}

extern "C" int cuda_blocks_left(void)
{
    return blocks_left_;
}

static void use_lanes(int n, int blocks_left)
{
    blocks_left_ = blocks_left;
    if (n <= n_places)
        return;
    cudaEvent_t *more = (cudaEvent_t *)arena_slab(sizeof *more * (size_t)n);
    if (n_places > 0)
        memcpy(more, places_, sizeof *more * (size_t)n_places);
    arena_slab_free(places_);
    for (places_ = more; n_places < n; n_places++)
        CUDA_DO(cudaEventCreateWithFlags(&places_[n_places], cudaEventDisableTiming));
}

static void place(int which)
{
    CUDA_DO(cudaEventRecord(places_[which], lanes[in_use]));
}

static void behind(int which)
{
    CUDA_DO(cudaStreamWaitEvent(lanes[in_use], places_[which], 0));
}

/* When the lane of compute came to a change of kind: a ring of those that are not counted yet. */
enum { CHANGES = 1 << 14 };
static struct change {
    cudaEvent_t event; /* NULL: not made yet */
    int kind;
} changes[CHANGES];
static int64_t first_change, n_changes; /* numbers: place modulo CHANGES */

static struct change *change_at(int64_t i)
{
    return &changes[i % CHANGES];
}

/* A full ring, whose beginning nobody asked for, forgets it. */
static void spend_on(int kind)
{
    if (n_changes > first_change && change_at(n_changes - 1)->kind == kind)
        return;
    if (n_changes - first_change == CHANGES)
        first_change++;
    struct change *c = change_at(n_changes++);
    if (!c->event)
        CUDA_DO(cudaEventCreate(&c->event));
    c->kind = kind;
    CUDA_DO(cudaEventRecord(c->event, lanes[LANE_COMPUTE]));
}

static void spent(double *seconds)
{
    for (; first_change + 1 < n_changes; first_change++) {
        float ms = 0;
        if (cudaEventQuery(change_at(first_change + 1)->event) == cudaErrorNotReady)
            return;
        CUDA_DO(
            cudaEventElapsedTime(&ms, change_at(first_change)->event, change_at(first_change + 1)->event));
        seconds[change_at(first_change)->kind] += 1e-3 * ms;
    }
}

enum { TOUCH_BYTES = 1 << 24 }; /* of a task */

static void touch(void *memory, int64_t task)
{
    memset((char *)memory + task * TOUCH_BYTES, 0, TOUCH_BYTES);
}

/* Pages are made by all threads first: pinning alone would make them one by one. Where the system pins no more, the
 * memory stays as it is. */
static void *host_allocate(size_t bytes)
{
    const size_t whole = (bytes + TOUCH_BYTES - 1) / TOUCH_BYTES * TOUCH_BYTES;
    void *memory = arena_slab(whole);
    pool_run((int64_t)(whole / TOUCH_BYTES), touch, memory);
    if (cudaHostRegister(memory, whole, cudaHostRegisterDefault) != cudaSuccess)
        (void)cudaGetLastError(); /* it is the memory's last, not a launch's */
    return memory;
}

static void host_release(void *memory)
{
    wait_for_all();
    if (cudaHostUnregister(memory) != cudaSuccess)
        (void)cudaGetLastError(); /* it was not pinned */
    arena_slab_free(memory);
}

/* The driver and libraries load code later: what they may take then is left alone. */
static int64_t memory(void)
{
    const size_t reserve = (size_t)512 << 20;
    size_t available = 0, total = 0;
    CUDA_DO(cudaMemGetInfo(&available, &total));
    return available > reserve ? (int64_t)(available - reserve) : 0;
}

static void fill(void *weight, void *low, enum master master, const struct rng_fill *f)
{
    cuda_fill(lanes[in_use], f, weight, low, master);
}

static void sum(const struct device_sum *s)
{
    device_sum_cuda(s, lanes[in_use]);
}

static void move(const struct device_move *m)
{
    device_move_cuda(m, lanes[in_use]);
}

static void twins(const struct device_twins *t)
{
    device_twins_cuda(t, lanes[in_use]);
}

static void identity(unsigned char id[16])
{
    int device = 0;
    cudaDeviceProp p;
    CUDA_DO(cudaGetDevice(&device));
    CUDA_DO(cudaGetDeviceProperties(&p, device));
    memcpy(id, p.uuid.bytes, 16);
}

static bool recording;
static char trouble[128]; /* of the recording: its first failure */

extern "C" bool cuda_forgives(const char *failure)
{
    if (recording && !trouble[0])
        snprintf(trouble, sizeof trouble, "%s", failure);
    return recording;
}

/* Relaxed: libraries may do on the way what a strict capture forbids. */
static void record_begin(void)
{
    trouble[0] = 0;
    CUDA_DO(cudaStreamBeginCapture(lanes[in_use], cudaStreamCaptureModeRelaxed));
    recording = true;
}

static void *record_end(struct err *e)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t record = NULL;
    cudaError_t status = cudaStreamEndCapture(lanes[in_use], &graph);
    recording = false;
    if (status == cudaSuccess && !trouble[0])
        status = cudaGraphInstantiate(&record, graph, 0);
    if (status == cudaSuccess && record)
        status = cudaGraphUpload(record, lanes[in_use]);
    if (graph)
        CUDA_DO(cudaGraphDestroy(graph));
    if (status == cudaSuccess && record)
        return record;
    cudaGetLastError(); /* the failure is dealt with */
    if (record)
        CUDA_DO(cudaGraphExecDestroy(record));
    err_set(e, "the launches cannot be recorded: %s", trouble[0] ? trouble : cudaGetErrorString(status));
    return NULL;
}

static void replay(void *record)
{
    CUDA_DO(cudaGraphLaunch((cudaGraphExec_t)record, lanes[in_use]));
}

static void forget(void *record)
{
    wait_for_all();
    CUDA_DO(cudaGraphExecDestroy((cudaGraphExec_t)record));
}

static int64_t used(void)
{
    size_t available = 0, total = 0;
    CUDA_DO(cudaMemGetInfo(&available, &total));
    return (int64_t)(total - available);
}

static const struct device cuda = { "cuda",
                                    CUDA,
                                    allocate,
                                    release,
                                    put,
                                    get,
                                    copy,
                                    zero,
                                    meanwhile,
                                    wait_,
                                    host_allocate,
                                    host_release,
                                    put_later,
                                    get_later,
                                    mark,
                                    reach,
                                    stream,
                                    lane,
                                    use_lanes,
                                    place,
                                    behind,
                                    lane_now,
                                    device_share_cuda,
                                    device_attach_cuda,
                                    device_detach_cuda,
                                    fetch,
                                    reach_at,
                                    pull,
                                    sum_of,
                                    device_see_cuda,
                                    meet,
                                    spend_on,
                                    spent,
                                    fill,
                                    sum,
                                    move,
                                    twins,
                                    identity,
                                    record_begin,
                                    record_end,
                                    replay,
                                    forget,
                                    used,
                                    memory };

extern "C" const struct device *device_cuda(void)
{
    return &cuda;
}

/* Blocks of communication go first where an SM is free: they are few, and others wait for them. */
static void open_lanes(void)
{
    int least = 0, most = 0;
    CUDA_DO(cudaDeviceGetStreamPriorityRange(&least, &most));
    CUDA_DO(cudaStreamCreateWithPriority(&lanes[LANE_COMPUTE], cudaStreamNonBlocking, least));
    for (int i = LANE_SIDE; i < LANES; i++)
        CUDA_DO(cudaStreamCreateWithPriority(&lanes[i], cudaStreamNonBlocking, most));
}

extern "C" bool device_cuda_open(int local_rank, struct err *e)
{
    int n = 0, driver = 0;
    cudaDeviceProp p;
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32",
           0); /* lanes that share a queue of the driver wait for each other */
    const cudaError_t status = cudaGetDeviceCount(&n);
    if (status != cudaSuccess || n == 0)
        return err_code(e, EXIT_WORLD, "no CUDA device: %s",
                        status == cudaSuccess ? "the driver lists none" : cudaGetErrorString(status));
    device_ = local_rank % n;
    CUDA_DO(cudaSetDevice(device_));
    CUDA_DO(cudaGetDeviceProperties(&p, device_));
    CUDA_DO(cudaDriverGetVersion(&driver));
    if (p.major < 8)
        return err_code(e, EXIT_WORLD, "%s has compute capability %d.%d, expected 8.0 or later", p.name,
                        p.major, p.minor);
    portable = portable || p.major != 9;
    open_lanes();
    for (int i = 0; i < DEVICE_MARKS; i++)
        CUDA_DO(cudaEventCreateWithFlags(&marks[i], cudaEventDisableTiming));
    if (!cuda_library_open(e))
        return false;
    snprintf(description, sizeof description,
             "%.100s, compute capability %d.%d, %.1f GiB, driver %d.%d, cuBLASLt %zu, cuDNN %zu%s", p.name,
             p.major, p.minor, (double)p.totalGlobalMem / (1 << 30), driver / 1000, driver % 1000 / 10,
             cuda_library()->matmul_version(), cuda_library()->dnn_version(),
             portable ? ", portable kernels" : "");
    return true;
}

extern "C" const char *device_cuda_description(void)
{
    return description;
}

extern "C" void device_cuda_portable(void)
{
    portable = true;
}

extern "C" bool cuda_portable(void)
{
    return portable;
}
