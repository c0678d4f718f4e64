/* str.c - string builder, JSON quoting, edit distance. */
#include "base/str.h"
#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct str str_new(struct arena *a, size_t max_bytes)
{
    struct str s = { .arena = a, .max = max_bytes };
    s.capacity = max_bytes < 255 ? max_bytes : 255;
    s.text = arena_alloc(a, s.capacity + 1);
    return s;
}

/* Room for `more` bytes and the terminating 0. */
static void reserve(struct str *s, size_t more)
{
    CHECK(more <= s->max - s->bytes, "a text of %zu + %zu bytes passes its maximum of %zu", s->bytes, more,
          s->max);
    if (more <= s->capacity - s->bytes)
        return;
    size_t capacity = s->capacity < s->max / 2 ? 2 * s->capacity : s->max;
    if (capacity < s->bytes + more)
        capacity = s->bytes + more;
    char *text = arena_alloc(s->arena, capacity + 1);
    memcpy(text, s->text, s->bytes);
    s->text = text;
    s->capacity = capacity;
}

void str_add_bytes(struct str *s, const void *text, size_t bytes)
{
    reserve(s, bytes);
    if (bytes)
        memcpy(s->text + s->bytes, text, bytes);
    s->bytes += bytes;
    s->text[s->bytes] = 0;
}

void str_add(struct str *s, const char *text)
{
    str_add_bytes(s, text, strlen(text));
}

void str_addf(struct str *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const int bytes = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(bytes >= 0, "cannot format '%s'", fmt);
    reserve(s, (size_t)bytes);
    va_start(ap, fmt);
    vsnprintf(s->text + s->bytes, (size_t)bytes + 1, fmt, ap);
    va_end(ap);
    s->bytes += (size_t)bytes;
}

void str_clear(struct str *s)
{
    s->bytes = 0;
    s->text[0] = 0;
}

/* Bytes of the UTF-8 character at p, 0 when it is none. */
static size_t utf8_bytes(const unsigned char *p, size_t bytes)
{
    const unsigned c = p[0];
    const size_t n = c < 0x80                ? 1
                     : c >= 0xc2 && c < 0xe0 ? 2
                     : c >= 0xe0 && c < 0xf0 ? 3
                     : c >= 0xf0 && c < 0xf5 ? 4
                                             : 0;
    if (n == 0 || n > bytes)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) || (c == 0xf0 && p[1] < 0x90) ||
        (c == 0xf4 && p[1] > 0x8f))
        return 0; /* overlong, surrogate or above U+10FFFF */
    return n;
}

static void add_escaped(struct str *s, unsigned char c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = strchr(from, c);
    if (c && at)
        str_addf(s, "\\%c", to[at - from]);
    else
        str_addf(s, "\\u%04x", c);
}

/* A byte that is not UTF-8 (a file name may hold one) becomes U+FFFD, so that the text is always JSON. */
void str_add_json(struct str *s, const char *text, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + bytes;
    str_add(s, "\"");
    while (p < end) {
        const unsigned char *plain = p;
        size_t n = 0;
        while (p < end && *p >= ' ' && *p != '"' && *p != '\\' && (n = utf8_bytes(p, (size_t)(end - p))) > 0)
            p += n;
        str_add_bytes(s, plain, (size_t)(p - plain));
        if (p == end)
            break;
        if (*p < 0x80)
            add_escaped(s, *p);
        else
            str_add(s, "\\ufffd");
        p++;
    }
    str_add(s, "\"");
}

enum { LONGEST_WORD = 255 };

int str_distance(const char *a, const char *b)
{
    int row[LONGEST_WORD + 1];
    const int n_a = (int)strnlen(a, LONGEST_WORD), n_b = (int)strnlen(b, LONGEST_WORD);
    for (int j = 0; j <= n_b; j++)
        row[j] = j;
    for (int i = 1; i <= n_a; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n_b; j++) {
            const int above = row[j];
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best)
                best = above + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[n_b];
}

const char *str_nearest(const char *word, const char *const *names, int n)
{
    const char *nearest = NULL;
    int best = (int)strnlen(word, LONGEST_WORD) / 2 + 1;
    for (int i = 0; i < n; i++) {
        const int d = str_distance(word, names[i]);
        if (d < best) {
            best = d;
            nearest = names[i];
        }
    }
    return nearest;
}
