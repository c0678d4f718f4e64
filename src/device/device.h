/* device.h - where the buffers of a rank lie and its kernels run: the CPU, or one CUDA device. All calls are
 * ordered with the kernels that were launched on .stream before; failures stop every rank. */
#pragma once
#include "base/err.h"
#include "base/num.h"
#include "base/rng.h"
#include "graph/op.h"
struct device {
    const char *name; /* "cpu", "cuda" */
    enum backend backend;
    void *(*allocate)(size_t bytes);                       /* contents undefined; 256-byte aligned */
    void (*release)(void *memory);                         /* what allocate gave; waits first */
    void (*put)(void *to, const void *from, size_t bytes); /* from the host; `from` may be reused on return */
    void (*get)(void *to, const void *from, size_t bytes); /* to the host; there on return */
    void (*copy)(void *to, const void *from, size_t bytes);
    void (*zero)(void *at, size_t bytes);
    void (*wait)(void); /* for everything before */
    void *(*stream)(void);
    /* Makes weights in place, with the low bits of the master (NULL: not wanted); NULL where the host does it. */
    void (*fill)(void *weight, void *low, enum master master, const struct rng_fill *f);
    int64_t (*memory)(void); /* bytes that can be allocated now, a reserve for the driver apart */
};
extern const struct device device_cpu;
/* NULL in a program that was built without nvcc. */
extern const struct device *device_cuda(void) __attribute__((weak));
/* Takes the CUDA device of this rank (`local_rank` modulo their number); false and the reason when there is none.
 * Nothing is allocated on the device but its context. */
bool device_cuda_open(int local_rank, struct err *e) __attribute__((weak));
/* "NVIDIA H200, compute capability 9.0, 139.8 GiB, driver 13.0, ..." */
const char *device_cuda_description(void) __attribute__((weak));
