/* jsonl.c - a validating scanner over one line: it accepts a line only when all of it is JSON. What it refuses goes
 * to the JSON library, which decides and explains. */
#include "data/jsonl.h"
#include "base/json.h"
#include "data/utf8.h"
#include <string.h>

enum { MAX_DEPTH = 100 };
struct scan {
    const unsigned char *at, *end;
};

static void skip_blanks(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static bool take(struct scan *s, char c)
{
    skip_blanks(s);
    if (s->at < s->end && *s->at == (unsigned char)c) {
        s->at++;
        return true;
    }
    return false;
}

static int hex4(const unsigned char *p)
{
    int x = 0;
    for (int i = 0; i < 4; i++) {
        const int c = p[i], digit = c >= '0' && c <= '9'                 ? c - '0'
                                    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                                         : -1;
        if (digit < 0)
            return -1;
        x = 16 * x + digit;
    }
    return x;
}

/* \uXXXX, or a surrogate pair of two; 0 on error (a NUL is refused too: the library decides). */
static uint32_t unicode_escape(struct scan *s)
{
    if (s->end - s->at < 4)
        return 0;
    const int high = hex4(s->at);
    s->at += 4;
    if (high < 0xd800 || high > 0xdfff)
        return high > 0 ? (uint32_t)high : 0;
    if (high > 0xdbff || s->end - s->at < 6 || s->at[0] != '\\' || s->at[1] != 'u')
        return 0;
    const int low = hex4(s->at + 2);
    s->at += 6;
    return low >= 0xdc00 && low <= 0xdfff
               ? 0x10000u + ((uint32_t)(high - 0xd800) << 10) + (uint32_t)(low - 0xdc00)
               : 0;
}

static bool escape(struct scan *s, struct buffer *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (s->at == s->end)
        return false;
    const char c = (char)*s->at++, *p = strchr(from, c);
    char text[4];
    int bytes = 1;
    if (c == 'u') {
        const uint32_t code = unicode_escape(s);
        if (!code)
            return false;
        bytes = utf8_put(text, code);
    } else if (c && p) {
        text[0] = to[p - from];
    } else {
        return false;
    }
    if (out)
        buffer_add(out, text, (size_t)bytes);
    return true;
}

/* A string whose opening quote is taken. out NULL: only checked. */
static bool string(struct scan *s, struct buffer *out)
{
    while (s->at < s->end) {
        const unsigned char *run = s->at;
        while (s->at < s->end && *s->at != '"' && *s->at != '\\' && *s->at >= 0x20)
            s->at++;
        const size_t bytes = (size_t)(s->at - run);
        if (utf8_valid((const char *)run, bytes) != bytes)
            return false;
        if (out)
            buffer_add(out, run, bytes);
        if (s->at == s->end || *s->at < 0x20)
            return false;
        if (*s->at++ == '"')
            return true;
        if (!escape(s, out))
            return false;
    }
    return false;
}

static bool digits(struct scan *s)
{
    const unsigned char *first = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > first;
}

/* Numbers with many digits are left to the library: it refuses those that overflow. */
static bool number(struct scan *s)
{
    const unsigned char *first = s->at;
    if (*s->at == '-')
        s->at++;
    if (s->at < s->end && *s->at == '0')
        s->at++;
    else if (!digits(s))
        return false;
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (!digits(s))
            return false;
    }
    if (s->at < s->end && (*s->at | 32) == 'e')
        return false;
    return s->at - first < 18;
}

static bool word(struct scan *s, const char *w)
{
    const size_t n = strlen(w);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, w, n) != 0)
        return false;
    s->at += n;
    return true;
}

static bool value(struct scan *s, int depth);

static bool members(struct scan *s, char close, bool named, int depth)
{
    if (take(s, close))
        return true;
    do {
        if (named && (!take(s, '"') || !string(s, NULL) || !take(s, ':')))
            return false;
        if (!value(s, depth))
            return false;
    } while (take(s, ','));
    return take(s, close);
}

static bool value(struct scan *s, int depth)
{
    skip_blanks(s);
    if (s->at == s->end || depth > MAX_DEPTH)
        return false;
    switch (*s->at) {
    case '"':
        s->at++;
        return string(s, NULL);
    case '{':
        s->at++;
        return members(s, '}', true, depth + 1);
    case '[':
        s->at++;
        return members(s, ']', false, depth + 1);
    case 't':
        return word(s, "true");
    case 'f':
        return word(s, "false");
    case 'n':
        return word(s, "null");
    default:
        return (*s->at == '-' && s->end - s->at > 1) || (*s->at >= '0' && *s->at <= '9') ? number(s) : false;
    }
}

/* One "name": value of the outer object. */
static bool member(struct scan *s, const char *key, struct buffer *out, size_t before, bool *found)
{
    const size_t n = strlen(key);
    if (!take(s, '"'))
        return false;
    const bool is_key = (size_t)(s->end - s->at) > n && memcmp(s->at, key, n) == 0 && s->at[n] == '"';
    if (!string(s, NULL) || !take(s, ':'))
        return false;
    if (!is_key)
        return value(s, 1);
    out->bytes = before;
    *found = true;
    return take(s, '"') && string(s, out);
}

bool jsonl_scan(const char *line, size_t bytes, const char *key, struct buffer *out)
{
    struct scan s = { (const unsigned char *)line, (const unsigned char *)line + bytes };
    const size_t before = out->bytes;
    bool found = false, ok = take(&s, '{') && !take(&s, '}') && !strpbrk(key, "\"\\");
    if (ok) {
        do
            ok = member(&s, key, out, before, &found);
        while (ok && take(&s, ','));
        ok = ok && take(&s, '}');
    }
    skip_blanks(&s);
    if (ok && found && s.at == s.end)
        return true;
    out->bytes = before;
    return false;
}

bool jsonl_text(const char *line, size_t bytes, const char *key, const char *place, struct buffer *out,
                struct err *e)
{
    if (jsonl_scan(line, bytes, key, out))
        return true;
    struct json *j = json_parse(line, bytes, place, e);
    if (!j)
        return false;
    const jval root = json_root(j), v = json_get(root, key);
    size_t n = 0;
    bool ok = true;
    if (json_type(root) != JSON_OBJECT)
        ok = err_set(e, "%s: expected an object, found %s", place, json_type_name(json_type(root)));
    else if (json_type(v) != JSON_STRING)
        ok = err_set(e, "%s: key \"%s\": expected a string, found %s", place, key,
                     json_type_name(json_type(v)));
    else {
        const char *text = json_string(v, &n);
        buffer_add(out, text, n);
    }
    json_free(j);
    return ok;
}
