/* device_cpu.c - the host as a device: kernels run in the caller's pool, calls return when they are done. */
#include "base/arena.h"
#include "base/err.h"
#include "base/pool.h"
#include "device/device_impl.h"
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
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

enum { GONE_S = 60 };
/* Of another process; the kernel copies from it. */
struct attached {
    pid_t process;
    char *memory;
};

static bool share(void *memory, struct device_ticket *t)
{
    const struct attached a = { getpid(), memory };
    memcpy(t->bytes, &a, sizeof a);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); /* where only its parent may read a process */
    return true;
}

static bool read_from(const struct attached *a, void *to, int64_t at, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        const struct iovec here = { (char *)to + done, bytes - done },
                           there = { a->memory + at + done, bytes - done };
        const ssize_t n = process_vm_readv(a->process, &here, 1, &there, 1, 0);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static void *attach(const struct device_ticket *t)
{
    char byte;
    struct attached *a = arena_slab(sizeof *a);
    memcpy(a, t->bytes, sizeof *a);
    if (read_from(a, &byte, 0, 1))
        return a;
    arena_slab_free(a);
    return NULL;
}

static void fetch(void *to, void *attached, int64_t at, size_t bytes)
{
    const struct attached *a = attached;
    if (read_from(a, to, at, bytes))
        return;
    const int why = errno;
    for (unsigned left = GONE_S; left > 0; left = sleep(left)) /* signals end a sleep */
        ; /* that rank is ending: the watch says why, or it is stopping all ranks, this one too */
    die("process %d: %zu bytes cannot be read: %s", (int)a->process, bytes, strerror(why));
}

static bool see(void *host, size_t bytes)
{
    (void)host, (void)bytes;
    return true;
}

static bool (*work)(void);

static void meanwhile(bool (*f)(void))
{
    work = f;
    pool_meanwhile(f);
}

static void meet(uint32_t *const *word, int n, int mine, uint32_t call)
{
    __atomic_store_n(word[mine], call, __ATOMIC_RELEASE);
    for (int i = 0; i < n; i++)
        while ((int32_t)(__atomic_load_n(word[i], __ATOMIC_ACQUIRE) - call) < 0)
            if (!work || !work())
                sched_yield();
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
    .meanwhile = meanwhile,
    .wait = wait,
    .host_allocate = arena_slab,
    .host_release = arena_slab_free,
    .put_later = copy,
    .get_later = copy,
    .mark = mark,
    .reach = mark,
    .stream = stream,
    .share = share,
    .attach = attach,
    .detach = arena_slab_free,
    .fetch = fetch,
    .see = see,
    .meet = meet,
    .sum = device_sum_cpu,
    .move = device_move_cpu,
    .twins = device_twins_cpu,
    .memory = memory,
};
