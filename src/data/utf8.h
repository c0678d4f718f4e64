/* utf8.h - UTF-8 in and out. Text inside the tokenizer is always valid; utf8_repair makes it so. */
#pragma once
#include "data/buffer.h"
#include <stdbool.h>
#include <stdint.h>
/* Bytes of the character that starts with this byte, in valid text. */
static inline int utf8_bytes(unsigned char first)
{
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}
/* Code point at s, which is valid UTF-8. */
static inline uint32_t utf8_get(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80)
        return p[0];
    if (p[0] < 0xe0)
        return (uint32_t)((p[0] & 0x1f) << 6 | (p[1] & 0x3f));
    if (p[0] < 0xf0)
        return (uint32_t)((p[0] & 0x0f) << 12 | (p[1] & 0x3f) << 6 | (p[2] & 0x3f));
    return (uint32_t)((p[0] & 0x07) << 18 | (p[1] & 0x3f) << 12 | (p[2] & 0x3f) << 6 | (p[3] & 0x3f));
}
int utf8_put(char *out, uint32_t c); /* 1 to 4 bytes; c is a scalar value */
/* Length of the longest valid prefix. */
size_t utf8_valid(const char *text, size_t bytes);
/* Appends the text with every maximal invalid part (Unicode 15, 3.9, "substitution of maximal subparts")
 * replaced by U+FFFD: what Python's decoder with errors="replace" does. */
void utf8_repair(struct buffer *out, const char *text, size_t bytes);
