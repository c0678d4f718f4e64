/* source.h - where a checkpoint reads the states of a rank from: the device, or a copy in host memory that was taken at
 * one moment, so that training goes on. First `want` is told every place that will be read, then room is made once. */
#pragma once
#include "run/exec.h"
struct extent { /* bytes of the slab, and where their copy lies */
    struct ref at;
    int64_t bytes;
    char *copy;
};
struct source {
    struct arena *arena;
    const struct exec *exec;
    enum { SOURCE_DEVICE, SOURCE_WANT, SOURCE_COPY } from;
    int64_t n, capacity;
    struct extent *extent; /* after source_sort: ascending and apart */
    int64_t bytes;         /* of the copy */
    char *memory;          /* NULL = no copy */
};
void source_new(struct arena *a, const struct exec *x, struct source *s); /* .from is SOURCE_WANT */
void source_sort(struct source *s);                                       /* joins extents, counts bytes */
void source_reserve(struct source *s); /* memory for the copy; counts on the machine having it */
void source_copy(struct source *s);    /* waits for the device; afterwards .from is SOURCE_COPY */
void source_free(struct source *s);
/* The bytes at r: where they lie, or in `room`. NULL while they are only wanted. */
const void *source_bytes(struct source *s, struct ref r, int64_t bytes, void *room);
