/* cuda_fixture.h - what the tests of CUDA kernels share: the device or the reason to skip, and buffers with a guard
 * behind them. MOEC_PORTABLE=1: the kernels of compute capability 8.0, whatever the device. */
#pragma once
#include "device/device.h"
#include "tests/opcall.h"

static bool have_device(void)
{
    static int state; /* 0 unknown, 1 yes, 2 no */
    static struct err e;
    if (state == 0) {
        if (!device_cuda_open)
            err_set(&e, "built without nvcc");
        else if (getenv("MOEC_PORTABLE"))
            device_cuda_portable();
        state = device_cuda_open && device_cuda_open(0, &e) ? 1 : 2;
        if (state == 1)
            printf("  %s\n", device_cuda_description());
    }
    if (state == 2)
        test_skip("%s", e.text);
    return state == 1;
}

static void *device_buffer(size_t bytes)
{
    char guard[GUARD];
    char *p = device_cuda()->allocate(bytes + GUARD);
    memset(guard, 0xa5, GUARD);
    device_cuda()->put(p + bytes, guard, GUARD);
    return p;
}

static bool device_guarded(const void *p, size_t bytes)
{
    unsigned char guard[GUARD];
    device_cuda()->get(guard, (const char *)p + bytes, GUARD);
    for (int i = 0; i < GUARD; i++)
        if (guard[i] != 0xa5)
            return false;
    return true;
}
