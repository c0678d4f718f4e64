/* arena.c - blocks in a list; those behind the current one are empty and wait to be used again, so that a
 * program that repeats itself between mark and reset asks the machine for nothing. An offset counts the
 * whole capacity of earlier blocks, so that a mark is one number. */
#include "base/arena.h"
#include "base/err.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(WITH_ASAN)
#include <sanitizer/asan_interface.h>
enum { RED_ZONE = 64 };
#else
#define ASAN_POISON_MEMORY_REGION(p, bytes)   ((void)(p), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(p, bytes) ((void)(p), (void)(bytes))
enum { RED_ZONE = 0 };
#endif
enum { ALIGN = 64, FIRST_BYTES = 1 << 14, SLAB_ALIGN = 4096 };
static const size_t most_growth_bytes = (size_t)1 << 26;

struct block {
    struct block *next;
    char *data; /* aligned; zero from `touched` on */
    size_t start, capacity, used, touched;
};
struct arena {
    const char *name;
    struct block *first, *current;
    size_t total_bytes;
};
static atomic_size_t n_mallocs;

size_t arena_n_mallocs(void)
{
    return atomic_load(&n_mallocs);
}

static void *zeroed(size_t bytes, const char *name)
{
    void *p = calloc(1, bytes);
    atomic_fetch_add(&n_mallocs, 1);
    if (!p)
        die("out of memory: %s asks for %zu bytes", name, bytes);
    return p;
}

struct arena *arena_new(const char *name)
{
    struct arena *a = zeroed(sizeof *a, name);
    a->name = name;
    return a;
}

void arena_free(struct arena *a)
{
    if (!a)
        return;
    for (struct block *b = a->first, *next; b; b = next) {
        next = b->next;
        ASAN_UNPOISON_MEMORY_REGION(b->data, b->capacity);
        free(b);
    }
    free(a);
}

static struct block *new_block(struct arena *a, size_t bytes)
{
    size_t capacity = a->total_bytes < FIRST_BYTES ? FIRST_BYTES : a->total_bytes;
    if (capacity > most_growth_bytes)
        capacity = most_growth_bytes;
    if (capacity < bytes)
        capacity = bytes;
    struct block *b = zeroed(sizeof *b + ALIGN + capacity, a->name);
    const uintptr_t behind = (uintptr_t)(b + 1);
    b->data = (char *)(b + 1) + (ALIGN - behind % ALIGN) % ALIGN;
    b->capacity = capacity;
    a->total_bytes += capacity;
    ASAN_POISON_MEMORY_REGION(b->data, b->capacity);
    return b;
}

/* Takes the first waiting block that is large enough out of the list behind `current`; NULL when none is. */
static struct block *take_waiting(struct arena *a, size_t bytes)
{
    struct block **link = a->current ? &a->current->next : &a->first;
    while (*link && (*link)->capacity < bytes)
        link = &(*link)->next;
    struct block *b = *link;
    if (b)
        *link = b->next;
    return b;
}

static void next_block(struct arena *a, size_t bytes)
{
    struct block *b = take_waiting(a, bytes);
    if (!b)
        b = new_block(a, bytes);
    struct block **link = a->current ? &a->current->next : &a->first;
    b->next = *link;
    b->start = a->current ? a->current->start + a->current->capacity : 0;
    b->used = 0;
    *link = b;
    a->current = b;
}

/* clear: zero; else what lay there before, which the caller writes over. */
static void *take(struct arena *a, size_t bytes, bool clear)
{
    if (bytes > SIZE_MAX / 4)
        die("out of memory: %s asks for %zu bytes", a->name, bytes);
    const size_t whole = (bytes + RED_ZONE + ALIGN - 1) / ALIGN * ALIGN;
    if (!a->current || a->current->capacity - a->current->used < whole)
        next_block(a, whole);
    struct block *b = a->current;
    char *p = b->data + b->used;
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    if (clear && b->used < b->touched)
        memset(p, 0, bytes < b->touched - b->used ? bytes : b->touched - b->used);
    b->used += whole;
    if (b->touched < b->used)
        b->touched = b->used;
    return p;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    return take(a, bytes, true);
}

size_t arena_mark(const struct arena *a)
{
    return a->current ? a->current->start + a->current->used : 0;
}

size_t arena_used_bytes(const struct arena *a)
{
    return arena_mark(a);
}

void arena_reset(struct arena *a, size_t mark)
{
    CHECK(mark <= arena_mark(a), "%s: mark %zu lies beyond %zu", a->name, mark, arena_mark(a));
    if (!a->current)
        return;
    struct block *b = a->first;
    for (; mark > b->start + b->capacity; b = b->next)
        ;
    for (struct block *later = b; later; later = later->next) {
        const size_t keep = later == b ? mark - b->start : 0;
        ASAN_POISON_MEMORY_REGION(later->data + keep, later->capacity - keep);
        later->used = keep;
        if (later == a->current)
            break;
    }
    a->current = b;
}

char *arena_strndup(struct arena *a, const char *text, size_t bytes)
{
    char *copy = arena_alloc(a, bytes + 1);
    if (bytes)
        memcpy(copy, text, bytes);
    return copy;
}

char *arena_strdup(struct arena *a, const char *text)
{
    return arena_strndup(a, text, strlen(text));
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    char few[192]; /* most texts are shorter */
    va_start(ap, fmt);
    const int bytes = vsnprintf(few, sizeof few, fmt, ap);
    va_end(ap);
    CHECK(bytes >= 0, "cannot format '%s'", fmt);
    if ((size_t)bytes < sizeof few)
        return arena_strndup(a, few, (size_t)bytes);
    char *text = arena_alloc(a, (size_t)bytes + 1);
    va_start(ap, fmt);
    vsnprintf(text, (size_t)bytes + 1, fmt, ap);
    va_end(ap);
    return text;
}

static size_t bytes_of(const struct arena *a, int64_t n, size_t item_bytes)
{
    size_t bytes;
    CHECK(n >= 0, "%s: %lld items", a->name, (long long)n);
    CHECK(!__builtin_mul_overflow((size_t)n, item_bytes, &bytes), "%s: %lld items of %zu bytes overflow",
          a->name, (long long)n, item_bytes);
    return bytes;
}

void *arena_array(struct arena *a, int64_t n, size_t item_bytes)
{
    return arena_alloc(a, bytes_of(a, n, item_bytes));
}

void *arena_grow(struct arena *a, void *items, int n, int *capacity, int first, size_t item_bytes)
{
    if (n < *capacity)
        return items;
    *capacity = *capacity ? 2 * *capacity : first;
    void *more = take(a, bytes_of(a, *capacity, item_bytes), false);
    return n ? memcpy(more, items, (size_t)n * item_bytes) : more;
}

/* calloc rather than mmap: as lazy, and ASan watches its ends. The start of the block lies just before it. */
void *arena_slab(size_t bytes)
{
    if (bytes > SIZE_MAX / 4)
        die("out of memory: the slab asks for %zu bytes", bytes);
    char *block = zeroed(bytes + 2 * SLAB_ALIGN, "the slab");
    char *slab = block + 2 * SLAB_ALIGN - (uintptr_t)block % SLAB_ALIGN;
    memcpy(slab - sizeof block, &block, sizeof block);
    if (bytes >= SLAB_ALIGN)
        madvise(slab, bytes / SLAB_ALIGN * SLAB_ALIGN, MADV_HUGEPAGE); /* a hint: failing is fine */
    return slab;
}

void arena_slab_free(void *slab)
{
    char *block;
    if (!slab)
        return;
    memcpy(&block, (char *)slab - sizeof block, sizeof block);
    free(block);
}
