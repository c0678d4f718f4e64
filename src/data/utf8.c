/* utf8.c - validation after table 3-7 of the Unicode standard. */
#include "data/utf8.h"
#include <string.h>

int utf8_put(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    const int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00 >> n & 0xf0) | c);
    return n;
}

/* Bounds of the second byte after `first`, which is C2 to F4. */
static void second_bounds(unsigned char first, unsigned char *low, unsigned char *high)
{
    *low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    *high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
}

/* Bytes of the well-formed character at p, or minus the bytes of the maximal ill-formed part. */
static int character(const unsigned char *p, size_t bytes)
{
    unsigned char low, high;
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return -1;
    second_bounds(p[0], &low, &high);
    const int n = utf8_bytes(p[0]);
    for (int i = 1; i < n; i++, low = 0x80, high = 0xbf)
        if ((size_t)i >= bytes || p[i] < low || p[i] > high)
            return -i;
    return n;
}

size_t utf8_valid(const char *text, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;
    while (i < bytes) {
        uint64_t eight;
        if (p[i] < 0x80 && bytes - i >= 8 && (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        const int n = character(p + i, bytes - i);
        if (n < 0)
            break;
        i += (size_t)n;
    }
    return i;
}

void utf8_repair(struct buffer *out, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes;) {
        const size_t valid = utf8_valid(text + i, bytes - i);
        buffer_add(out, text + i, valid);
        i += valid;
        if (i == bytes)
            break;
        i += (size_t)-character((const unsigned char *)text + i, bytes - i);
        buffer_add(out, "\xef\xbf\xbd", 3);
    }
}
