/* config_value.c - values of options: from text, with their range, and back to text. */
#include "config/option.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void *field(struct config *c, const struct option *o)
{
    return (char *)c + o->offset;
}

static const void *field_of(const struct config *c, const struct option *o)
{
    return (const char *)c + o->offset;
}

static bool refuse(const char *what, const char *text, const char *expected, struct err *e)
{
    return err_code(e, EXIT_USAGE, "%s: '%.80s' is not %s", what, text, expected);
}

/* lo..hi as people write it; hi of 2^53 stands for none. */
static bool out_of_range(const struct option *o, const char *what, const char *text, struct err *e)
{
    if (o->hi > 9e15)
        return err_code(e, EXIT_USAGE, "%s: %.80s is out of range, expected at least %.17g", what, text,
                        o->lo);
    return err_code(e, EXIT_USAGE, "%s: %.80s is out of range, expected %.10g to %.10g", what, text, o->lo,
                    o->hi);
}

static bool set_int(int64_t *out, const struct option *o, const char *text, const char *what, struct err *e)
{
    char *end;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end || text[strspn(text, "+-0123456789")])
        return refuse(what, text, "an integer", e);
    if (errno == ERANGE || (double)value < o->lo || (double)value > o->hi)
        return out_of_range(o, what, text, e);
    *out = value;
    return true;
}

static bool set_real(double *out, const struct option *o, const char *text, const char *what, struct err *e)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end || text[strspn(text, "+-.0123456789eE")])
        return refuse(what, text, "a number", e);
    if (!isfinite(value) || value < o->lo || value > o->hi)
        return out_of_range(o, what, text, e);
    *out = value == 0 ? 0 : value; /* -0 would be stored as -0 and read as 0 */
    return true;
}

static bool set_bool(bool *out, const char *text, const char *what, struct err *e)
{
    const bool yes = !strcasecmp(text, "true") || !strcasecmp(text, "yes") || !strcmp(text, "1");
    const bool no = !strcasecmp(text, "false") || !strcasecmp(text, "no") || !strcmp(text, "0");
    if (!yes && !no)
        return refuse(what, text, "true or false", e);
    *out = yes;
    return true;
}

static bool set_pair(double out[2], const struct option *o, const char *text, const char *what, struct err *e)
{
    char first[64];
    const char *comma = strchr(text, ',');
    if (!comma || comma - text >= (ptrdiff_t)sizeof first)
        return refuse(what, text, "two numbers with a comma between them", e);
    memcpy(first, text, (size_t)(comma - text));
    first[comma - text] = 0;
    double pair[2];
    if (!set_real(&pair[0], o, first, what, e) || !set_real(&pair[1], o, comma + 1, what, e))
        return false;
    memcpy(out, pair, sizeof pair);
    return true;
}

static const struct {
    const char *name;
    int64_t bytes;
} byte_units[] = { { "TB", 1000000000000 },
                   { "GB", 1000000000 },
                   { "MB", 1000000 },
                   { "KB", 1000 },
                   { "TiB", (int64_t)1 << 40 },
                   { "GiB", 1 << 30 },
                   { "MiB", 1 << 20 },
                   { "KiB", 1 << 10 },
                   { "B", 1 },
                   { "", 1 } };

static bool set_bytes(int64_t *out, const struct option *o, const char *text, const char *what, struct err *e)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || text[0] == '-' || strspn(text, "+.0123456789") != (size_t)(end - text))
        return refuse(what, text, "a number of bytes like 5GB or 500MB", e);
    for (size_t i = 0; i < sizeof byte_units / sizeof *byte_units; i++) {
        if (strcasecmp(end, byte_units[i].name) != 0)
            continue;
        const double bytes = value * (double)byte_units[i].bytes;
        if (!(bytes >= o->lo && bytes <= o->hi))
            return out_of_range(o, what, text, e);
        *out = (int64_t)bytes;
        return true;
    }
    return refuse(what, text, "a number of bytes like 5GB or 500MB", e);
}

/* The words of `unit` are separated by '|'. */
static bool set_choice(int *out, const struct option *o, const char *text, const char *what, struct err *e)
{
    const char *word = o->unit;
    for (int i = 0;; i++) {
        const size_t bytes = strcspn(word, "|");
        if (strlen(text) == bytes && !memcmp(word, text, bytes)) {
            *out = i;
            return true;
        }
        if (!word[bytes])
            break;
        word += bytes + 1;
    }
    return err_code(e, EXIT_USAGE, "%s: '%.80s' is not one of %s", what, text, o->unit);
}

static void add_choice(struct str *s, const struct option *o, int which)
{
    const char *word = o->unit;
    for (; which > 0; which--)
        word += strcspn(word, "|") + 1;
    str_add_bytes(s, word, strcspn(word, "|"));
}

bool option_set(struct config *c, const struct option *o, const char *text, const char *what, struct err *e)
{
    void *to = field(c, o);
    switch (o->kind) {
    case TEXT:
        if (!o->default_text && !strcmp(text, "none"))
            text = NULL;
        memcpy(to, &text, sizeof text);
        return true;
    case INT:
        return set_int(to, o, text, what, e);
    case REAL:
        return set_real(to, o, text, what, e);
    case BOOL:
        return set_bool(to, text, what, e);
    case PAIR:
        return set_pair(to, o, text, what, e);
    case BYTES:
        return set_bytes(to, o, text, what, e);
    case CHOICE:
        return set_choice(to, o, text, what, e);
    case HEADING:
        break;
    }
    return err_code(e, EXIT_USAGE, "%s: is no option", what);
}

void option_default(struct config *c, const struct option *o)
{
    struct err e = { 0 };
    const char *text = o->default_text == option_required ? NULL : o->default_text;
    if (o->kind == TEXT)
        memcpy(field(c, o), &text, sizeof text);
    else
        CHECK(text && option_set(c, o, text, o->name, &e), "default of %s", e.text);
}

bool option_is_none(const struct config *c, const struct option *o)
{
    return o->kind == TEXT && *(const char *const *)field_of(c, o) == NULL;
}

/* The fewest digits that read back as the same number. */
static void add_real(struct str *s, double x)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x)
            break;
    }
    str_add(s, text);
}

static void add_text(struct str *s, const char *text, bool json)
{
    if (text && json)
        str_add_json(s, text, strlen(text));
    else if (text || json)
        str_add(s, text ? text : "null");
}

static void add_pair(struct str *s, const double *pair, bool json)
{
    str_add(s, json ? "[" : "");
    add_real(s, pair[0]);
    str_add(s, json ? ", " : ",");
    add_real(s, pair[1]);
    str_add(s, json ? "]" : "");
}

void option_add_value(struct str *s, const struct config *c, const struct option *o, bool json)
{
    const void *from = field_of(c, o);
    switch (o->kind) {
    case TEXT:
        add_text(s, *(const char *const *)from, json);
        break;
    case INT:
    case BYTES:
        str_addf(s, "%lld", (long long)*(const int64_t *)from);
        break;
    case REAL:
        add_real(s, *(const double *)from);
        break;
    case BOOL:
        str_add(s, *(const bool *)from ? "true" : "false");
        break;
    case PAIR:
        add_pair(s, from, json);
        break;
    case CHOICE:
        str_add(s, json ? "\"" : "");
        add_choice(s, o, *(const int *)from);
        str_add(s, json ? "\"" : "");
        break;
    case HEADING:
        break;
    }
}

bool option_is_default(const struct config *c, const struct option *o)
{
    struct config usual = { 0 };
    struct arena *a = arena_new("option");
    struct str x = str_new(a, 1 << 24), y = str_new(a, 1 << 24);
    option_default(&usual, o);
    option_add_value(&x, c, o, true);
    option_add_value(&y, &usual, o, true);
    const bool same = !strcmp(x.text, y.text);
    arena_free(a);
    return same;
}
