/* arena.h - bump allocator; the only caller of malloc(). Nothing is freed one by one.
 * Every block is zeroed, aligned to 64 bytes and, under ASan, followed by a red zone. */
#pragma once
#include <stddef.h>
#include <stdint.h>
struct arena;
struct arena *arena_new(const char *name); /* grows in blocks; dies when the machine has no memory */
void arena_free(struct arena *a);          /* NULL is fine */
void *arena_alloc(struct arena *a, size_t bytes);
size_t arena_mark(const struct arena *a);
void arena_reset(struct arena *a, size_t mark); /* forgets everything allocated since mark */
size_t arena_used_bytes(const struct arena *a);
char *arena_strdup(struct arena *a, const char *text);
char *arena_strndup(struct arena *a, const char *text, size_t bytes);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void *arena_array(struct arena *a, int64_t n, size_t item_bytes); /* CHECKs n >= 0 and the product */
#define ARENA_NEW(a, type, n) ((type *)arena_array((a), (int64_t)(n), sizeof(type)))
/* Room for one more behind n items: `items`, or, where *capacity is n, a copy of them in twice the room (at first `first` items).
 * The room is not zero: whoever adds an item writes all of it. */
void *arena_grow(struct arena *a, void *items, int n, int *capacity, int first, size_t item_bytes);
size_t arena_n_mallocs(void); /* mallocs made through this header by the whole program, so far */
/* One large zeroed block outside any arena: the slab of the CPU device. Dies when it cannot be had. */
void *arena_slab(size_t bytes);
void arena_slab_free(void *slab);
