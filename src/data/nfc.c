/* nfc.c - utf8proc decomposes characters and composes them again; the ordering of combining marks in between is
 * ours, because utf8proc's is quadratic in a run of marks. */
#include "data/nfc.h"
#include "base/arena.h"
#include "base/err.h"
#include "data/utf8.h"
#include <string.h>
#include <utf8proc.h>

bool nfc_is_plain(uint32_t c)
{
    return c < 0x300 || (c >= 0x400 && c < 0x483) || (c >= 0x2010 && c < 0x2027) || (c >= 0x3001 && c < 0x302a) ||
           (c >= 0x3041 && c < 0x3097) || (c >= 0x30a1 && c < 0x30fb) || (c >= 0x4e00 && c < 0xa000) ||
           (c >= 0xac00 && c < 0xd7a4) || (c >= 0xff01 && c < 0xff9e);
}

static int class_of(int32_t c)
{
    return utf8proc_get_property(c)->combining_class;
}

/* Stable order by combining class: insertion for the usual two or three marks, counting for long runs. */
static void order_marks(int32_t *c, int64_t n, int32_t *spare)
{
    if (n < 32) {
        for (int64_t i = 1; i < n; i++)
            for (int64_t k = i; k > 0 && class_of(c[k - 1]) > class_of(c[k]); k--) {
                const int32_t t = c[k];
                c[k] = c[k - 1];
                c[k - 1] = t;
            }
        return;
    }
    int64_t start[257] = { 0 };
    for (int64_t i = 0; i < n; i++)
        start[class_of(c[i]) + 1]++;
    for (int k = 0; k < 256; k++)
        start[k + 1] += start[k];
    for (int64_t i = 0; i < n; i++)
        spare[start[class_of(c[i])]++] = c[i];
    memcpy(c, spare, (size_t)n * sizeof *c);
}

static void order_all(int32_t *c, int64_t n, int32_t *spare)
{
    for (int64_t i = 0; i < n;) {
        int64_t end = i;
        while (end < n && class_of(c[end]) != 0)
            end++;
        order_marks(c + i, end - i, spare);
        i = end + 1;
    }
}

static int64_t decompose(int32_t *out, int64_t capacity, const char *text, size_t bytes)
{
    int64_t n = 0;
    int boundary = 0;
    for (size_t i = 0; i < bytes; i += (size_t)utf8_bytes((unsigned char)text[i])) {
        n += utf8proc_decompose_char((int32_t)utf8_get(text + i), out + n, capacity - n, UTF8PROC_DECOMPOSE,
                                     &boundary);
        CHECK(n <= capacity, "a character decomposes into more than 4");
    }
    return n;
}

static void normalize(struct buffer *out, const char *text, size_t bytes)
{
    struct buffer memory = { 0 };
    const int64_t capacity = 4 * (int64_t)bytes;
    int32_t *c = buffer_room(&memory, 2 * (size_t)capacity * sizeof *c);
    int64_t n = decompose(c, capacity, text, bytes);
    order_all(c, n, c + capacity);
    n = utf8proc_normalize_utf32(c, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    char *to = buffer_room(out, 4 * (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        const int put = utf8_put(to, (uint32_t)c[i]);
        to += put;
        out->bytes += (size_t)put;
    }
    buffer_free(&memory);
}

/* End of the stretch of plain characters at i. */
static size_t plain_end(const char *text, size_t bytes, size_t i)
{
    while (i < bytes && nfc_is_plain(utf8_get(text + i)))
        i += (size_t)utf8_bytes((unsigned char)text[i]);
    return i;
}

void nfc_append(struct buffer *out, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes;) {
        size_t plain = plain_end(text, bytes, i);
        if (plain == bytes) {
            buffer_add(out, text + i, bytes - i);
            return;
        }
        while (plain > i && ((unsigned char)text[--plain] & 0xc0) == 0x80) /* the last one may combine */
            ;
        buffer_add(out, text + i, plain - i);
        size_t end = plain + (size_t)utf8_bytes((unsigned char)text[plain]);
        while (end < bytes && (unsigned char)text[end] >= 0x80)
            end += (size_t)utf8_bytes((unsigned char)text[end]);
        normalize(out, text + plain, end - plain); /* up to a character of ASCII, which starts afresh */
        i = end;
    }
}
