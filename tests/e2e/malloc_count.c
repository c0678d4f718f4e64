/* malloc_count.c - preloaded by memory_test.sh: counts allocations that the program itself makes (not those inside
 * libraries) and writes the count to $MALLOC_COUNT_LOG whenever the program flushes a stream, as it does after
 * every step. */
/* NOLINTBEGIN(bugprone-reserved-identifier,readability-inconsistent-declaration-parameter-name) */
#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static atomic_long n;
static char *begin, *end; /* code of the program */

static int first_object(struct dl_phdr_info *info, size_t bytes, void *unused)
{
    (void)bytes, (void)unused;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X)) {
            begin = (char *)info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            end = begin + info->dlpi_phdr[i].p_memsz;
        }
    return 1; /* the program is the first */
}

__attribute__((constructor)) static void start(void)
{
    dl_iterate_phdr(first_object, NULL);
}

static void note(const void *caller)
{
    if ((const char *)caller >= begin && (const char *)caller < end)
        atomic_fetch_add(&n, 1);
}
#define NOTE() note(__builtin_return_address(0))
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

void *malloc(size_t bytes)
{
    NOTE();
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    NOTE();
    return __libc_calloc(count, bytes);
}

void *realloc(void *p, size_t bytes)
{
    NOTE();
    return __libc_realloc(p, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
    NOTE();
    return __libc_memalign(align, bytes);
}

int posix_memalign(void **p, size_t align, size_t bytes)
{
    NOTE();
    *p = __libc_memalign(align, bytes);
    return *p ? 0 : 12;
}

void *mmap(void *at, size_t bytes, int prot, int flags, int file, off_t offset)
{
    static void *(*real)(void *, size_t, int, int, int, off_t);
    NOTE();
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "mmap");
    return real(at, bytes, prot, flags, file, offset);
}

int fflush(FILE *f)
{
    static int (*real)(FILE *);
    const char *path = getenv("MALLOC_COUNT_LOG");
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fflush");
    if (path && f == stdout) {
        FILE *log = fopen(path, "a");
        if (log) {
            fprintf(log, "%ld\n", atomic_load(&n));
            fclose(log);
        }
    }
    return real(f);
}
/* NOLINTEND(bugprone-reserved-identifier,readability-inconsistent-declaration-parameter-name) */
