/* buffer.c - doubling blocks of memory. */
#include "data/buffer.h"
#include "base/arena.h"
#include "base/err.h"
#include <stdint.h>
#include <string.h>

static void grow(struct buffer *b, size_t more)
{
    if (more > SIZE_MAX / 8 - b->bytes)
        die("out of memory: a buffer of %zu bytes needs %zu more", b->bytes, more);
    size_t capacity = b->capacity < 4096 ? 4096 : 2 * b->capacity;
    if (capacity < b->bytes + more)
        capacity = b->bytes + more;
    char *data = arena_slab(capacity);
    if (b->data)
        memcpy(data, b->data, b->bytes);
    arena_slab_free(b->data);
    b->data = data;
    b->capacity = capacity;
}

void *buffer_room(struct buffer *b, size_t more)
{
    if (more > b->capacity - b->bytes || !b->data)
        grow(b, more);
    return b->data + b->bytes;
}

void buffer_add(struct buffer *b, const void *data, size_t bytes)
{
    if (bytes == 0)
        return;
    memcpy(buffer_room(b, bytes), data, bytes);
    b->bytes += bytes;
}

void buffer_free(struct buffer *b)
{
    arena_slab_free(b->data);
    *b = (struct buffer){ 0 };
}
