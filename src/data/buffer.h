/* buffer.h - a growing array of bytes outside any arena, for what lives long and grows far (ids, text). */
#pragma once
#include <stddef.h>
struct buffer {
    char *data;
    size_t bytes, capacity;
};
/* Makes room for `more` bytes behind the content and returns where they go; the caller adds to ->bytes. */
void *buffer_room(struct buffer *b, size_t more);
void buffer_add(struct buffer *b, const void *data, size_t bytes);
void buffer_free(struct buffer *b); /* leaves an empty buffer that can be used again */
