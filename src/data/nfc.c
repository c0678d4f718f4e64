/* nfc.c - utf8proc decomposes characters and composes them again; the ordering of combining marks in between is
 * ours, because utf8proc's is quadratic in a run of marks. Hugging Face's library normalizes with the tables of
 * Unicode 9; marks that came later are characters like any other there, and so they are here. */
#include "data/nfc.h"
#include "base/arena.h"
#include "base/err.h"
#include "data/utf8.h"
#include <string.h>
#include <utf8proc.h>

bool nfc_is_plain(uint32_t c)
{
    return c < 0x300 || (c >= 0x400 && c < 0x483) || (c >= 0x2010 && c < 0x2027) ||
           (c >= 0x3001 && c < 0x302a) || (c >= 0x3041 && c < 0x3097) || (c >= 0x30a1 && c < 0x30fb) ||
           (c >= 0x4e00 && c < 0xa000) || (c >= 0xac00 && c < 0xd7a4) || (c >= 0xff01 && c < 0xff9e);
}

/* Combining characters and second halves of compositions since Unicode 10. */
static bool is_young(uint32_t c)
{
    static const uint32_t young[][2] = {
        { 0x7fd, 0x7fd },     { 0x898, 0x89f },     { 0x8ca, 0x8d3 },     { 0x9fe, 0x9fe },
        { 0xc3c, 0xc3c },     { 0xd3b, 0xd3c },     { 0xeba, 0xeba },     { 0x1715, 0x1715 },
        { 0x1abf, 0x1ace },   { 0x1df6, 0x1dfa },   { 0xa82c, 0xa82c },   { 0x10d24, 0x10d27 },
        { 0x10eab, 0x10eac }, { 0x10efd, 0x10eff }, { 0x10f46, 0x10f50 }, { 0x10f82, 0x10f85 },
        { 0x11070, 0x11070 }, { 0x1133b, 0x1133b }, { 0x1145e, 0x1145e }, { 0x11839, 0x1183a },
        { 0x11930, 0x11930 }, { 0x1193d, 0x1193e }, { 0x11943, 0x11943 }, { 0x119e0, 0x119e0 },
        { 0x11a34, 0x11a34 }, { 0x11a47, 0x11a47 }, { 0x11a99, 0x11a99 }, { 0x11d42, 0x11d42 },
        { 0x11d44, 0x11d45 }, { 0x11d97, 0x11d97 }, { 0x11f41, 0x11f42 }, { 0x16ff0, 0x16ff1 },
        { 0x1e08f, 0x1e08f }, { 0x1e130, 0x1e136 }, { 0x1e2ae, 0x1e2ae }, { 0x1e2ec, 0x1e2ef },
        { 0x1e4ec, 0x1e4ef },
    };
    for (size_t i = 0; c >= young[0][0] && i < sizeof young / sizeof *young; i++)
        if (c >= young[i][0] && c <= young[i][1])
            return true;
    return false;
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
    if (bytes == 0)
        return;
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

/* From `start` up to a character of ASCII, which starts afresh, or past a young one, which stands alone. */
static size_t normalize_to_border(struct buffer *out, const char *text, size_t bytes, size_t start)
{
    size_t end = start;
    do {
        const size_t n = (size_t)utf8_bytes((unsigned char)text[end]);
        if (is_young(utf8_get(text + end))) {
            normalize(out, text + start, end - start);
            buffer_add(out, text + end, n);
            return end + n;
        }
        end += n;
    } while (end < bytes && (unsigned char)text[end] >= 0x80);
    normalize(out, text + start, end - start);
    return end;
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
        i = normalize_to_border(out, text, bytes, plain);
    }
}
