/* energy.cuh - what a device used, by the counter of its driver's management library, which is opened at run time. The counter
 * moves in steps of some tens of ms: power is what lies between two of its steps. */
#pragma once
#include "tests/probe/probe.cuh"
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>
static inline double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct energy {
    void *device; /* NULL: there is no counter */
    int (*read)(void *device, unsigned long long *millijoules);
};

/* Of the CUDA device in use: by its address on the bus, or else the library's first. */
static struct energy energy_open(void)
{
    struct energy e = { NULL, NULL };
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    char bus[32] = "";
    int device = 0;
    unsigned long long millijoules;
    if (!library) {
        printf("no energy: %s\n", dlerror());
        return e;
    }
    int (*init)(void) = (int (*)(void))dlsym(library, "nvmlInit_v2");
    int (*by_bus)(const char *, void **) =
        (int (*)(const char *, void **))dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2");
    int (*by_index)(unsigned, void **) =
        (int (*)(unsigned, void **))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    e.read = (int (*)(void *, unsigned long long *))dlsym(library, "nvmlDeviceGetTotalEnergyConsumption");
    CUDA_DO(cudaGetDevice(&device));
    CUDA_DO(cudaDeviceGetPCIBusId(bus, (int)sizeof bus, device));
    if (!init || !by_index || !e.read || init() != 0 ||
        ((!by_bus || by_bus(bus, &e.device) != 0) && by_index(0, &e.device) != 0) ||
        e.read(e.device, &millijoules) != 0) {
        printf("no energy: the library does not give it\n");
        e.device = NULL;
    }
    return e;
}

/* Between the first and the last step of the counter that meter_look() saw. */
struct meter {
    struct energy from;
    unsigned long long last, first_step; /* millijoules */
    double first_s, last_s;
    int n_looks, n_steps;
};
static struct meter meter_new(struct energy from)
{
    struct meter m = { from, 0, 0, 0, 0, 0, 0 };
    return m;
}
static void meter_look(struct meter *m)
{
    unsigned long long now = 0;
    if (!m->from.device || m->from.read(m->from.device, &now) != 0)
        return;
    if (m->n_looks++ > 0 && now != m->last) {
        m->last_s = seconds_now();
        if (m->n_steps++ == 0) {
            m->first_s = m->last_s;
            m->first_step = now;
        }
    }
    m->last = now;
}
/* 0: not known */
static double meter_watts(const struct meter *m)
{
    return m->n_steps < 2 ? 0 : 1e-3 * (double)(m->last - m->first_step) / (m->last_s - m->first_s);
}
