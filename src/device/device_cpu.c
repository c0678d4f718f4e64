/* device_cpu.c - the host as a device: kernels run in the caller's pool, calls return when they are done. */
#include "base/arena.h"
#include "device/device_impl.h"
#include <string.h>
#include <unistd.h>

static void copy(void *to, const void *from, size_t bytes)
{
    if (bytes)
        memcpy(to, from, bytes);
}

static void zero(void *at, size_t bytes)
{
    if (bytes)
        memset(at, 0, bytes);
}

static void wait(void)
{
}

static void mark(int which)
{
    (void)which; /* calls return when they are done */
}

static void *stream(void)
{
    return NULL;
}

static int64_t memory(void)
{
    return (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
}

const struct device device_cpu = {
    .name = "cpu",
    .backend = CPU,
    .allocate = arena_slab,
    .release = arena_slab_free,
    .put = copy,
    .get = copy,
    .copy = copy,
    .zero = zero,
    .wait = wait,
    .host_allocate = arena_slab,
    .host_release = arena_slab_free,
    .put_later = copy,
    .get_later = copy,
    .mark = mark,
    .reach = mark,
    .stream = stream,
    .sum = device_sum_cpu,
    .move = device_move_cpu,
    .memory = memory,
};
