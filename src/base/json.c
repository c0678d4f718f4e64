/* json.c - jansson behind a border. A jval is a json_t; lines, which jansson does not keep, are found again in
 * the text when an error needs one. Some names exist on both sides of the border; jansson's are renamed here. */
#define json_type   jansson_type
#define json_string jansson_string
#define JSON_OBJECT JANSSON_OBJECT
#define JSON_ARRAY  JANSSON_ARRAY
#define JSON_STRING JANSSON_STRING
#define JSON_REAL   JANSSON_REAL
#define JSON_NULL   JANSSON_NULL
#include <jansson.h>
#undef json_type
#undef json_string
#undef JSON_OBJECT
#undef JSON_ARRAY
#undef JSON_STRING
#undef JSON_REAL
#undef JSON_NULL
#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
struct json {
    struct arena *arena;
    json_t *root;
    const char *path, *text;
    size_t bytes;
};
static atomic_uint_fast64_t n_freed; /* an address may come again after json_free: then cursors are void */

static json_t *node(jval v)
{
    return (json_t *)(uintptr_t)v; /* jansson takes no const; nothing here changes a tree */
}

static void report(const char *path, const json_error_t *error, size_t bytes, struct err *e)
{
    if (bytes == 0)
        err_set(e, "%s:1: empty file, expected JSON", path);
    else if (strstr(error->text, "maximum parsing depth"))
        err_set(e, "%s:%d: JSON nested deeper than 2048", path, error->line);
    else
        err_set(e, "%s:%d: column %d: not JSON: %s", path, error->line, error->column, error->text);
}

/* The library would end at a NUL byte, or take it for a space. */
static bool has_no_nul(const char *text, size_t bytes, const char *path, struct err *e)
{
    const char *nul = bytes ? memchr(text, 0, bytes) : NULL;
    int line = 1;
    for (const char *c = text; nul && c < nul; c++)
        line += *c == '\n';
    return !nul || err_set(e, "%s:%d: a NUL byte (byte %td), expected JSON text", path, line, nul - text);
}

static struct json *parse_in(struct arena *a, const char *text, size_t bytes, const char *path, struct err *e)
{
    json_error_t error;
    struct json *j = ARENA_NEW(a, struct json, 1);
    *j = (struct json){ a, NULL, arena_strdup(a, path), text, bytes };
    if (!has_no_nul(text, bytes, path, e)) {
        arena_free(a);
        return NULL;
    }
    j->root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (j->root)
        return j;
    report(path, &error, bytes, e);
    arena_free(a);
    return NULL;
}

struct json *json_parse(const char *text, size_t bytes, const char *path, struct err *e)
{
    struct arena *a = arena_new("json");
    return parse_in(a, arena_strndup(a, text, bytes), bytes, path, e);
}

struct json *json_read(const char *path, size_t max_bytes, struct err *e)
{
    struct arena *a = arena_new("json");
    size_t bytes;
    const char *text = file_read(a, path, max_bytes, &bytes, e);
    if (text)
        return parse_in(a, text, bytes, path, e);
    arena_free(a);
    return NULL;
}

void json_free(struct json *j)
{
    if (!j)
        return;
    json_decref(j->root);
    atomic_fetch_add(&n_freed, 1);
    arena_free(j->arena);
}

jval json_root(const struct json *j)
{
    return (jval)j->root;
}

enum json_type json_type(jval v)
{
    static const enum json_type ours[] = {
        [JANSSON_OBJECT] = JSON_OBJECT, [JANSSON_ARRAY] = JSON_ARRAY, [JANSSON_STRING] = JSON_STRING,
        [JSON_INTEGER] = JSON_INT,      [JANSSON_REAL] = JSON_REAL,   [JSON_TRUE] = JSON_BOOL,
        [JSON_FALSE] = JSON_BOOL,       [JANSSON_NULL] = JSON_NULL
    };
    return v ? ours[json_typeof(node(v))] : JSON_ABSENT;
}

const char *json_type_name(enum json_type t)
{
    static const char *const names[] = {
        [JSON_NULL] = "null",        [JSON_BOOL] = "true or false", [JSON_INT] = "integer",
        [JSON_REAL] = "real number", [JSON_STRING] = "string",      [JSON_ARRAY] = "array",
        [JSON_OBJECT] = "object",    [JSON_ABSENT] = "nothing"
    };
    CHECK((unsigned)t <= JSON_ABSENT, "type %d", (int)t);
    return names[t];
}

jval json_get(jval object, const char *key)
{
    return json_type(object) == JSON_OBJECT ? (jval)json_object_get(node(object), key) : NULL;
}

int64_t json_count(jval v)
{
    const enum json_type t = json_type(v);
    return t == JSON_OBJECT  ? (int64_t)json_object_size(node(v))
           : t == JSON_ARRAY ? (int64_t)json_array_size(node(v))
                             : 0;
}

jval json_at(jval array, int64_t i)
{
    CHECK(json_type(array) == JSON_ARRAY && i >= 0 && i < json_count(array), "item %lld of %lld",
          (long long)i, (long long)json_count(array));
    return (jval)json_array_get(node(array), (size_t)i);
}

/* jansson can only step from entry to entry. The last position in each of the last few objects is remembered
 * per thread, so that nested loops over objects stay linear. */
struct cursor {
    jval object;
    int64_t i;
    void *at;
    uint64_t used;
};
enum { CURSORS = 8 };
static _Thread_local struct cursor cursors[CURSORS];
static _Thread_local uint64_t cursor_clock, cursors_valid_for;

static struct cursor *find_cursor(jval object)
{
    const uint64_t now = atomic_load(&n_freed);
    if (cursors_valid_for != now)
        memset(cursors, 0, sizeof cursors);
    cursors_valid_for = now;
    struct cursor *oldest = cursors;
    for (struct cursor *c = cursors; c < cursors + CURSORS; c++) {
        if (c->object == object)
            return c;
        if (c->used < oldest->used)
            oldest = c;
    }
    *oldest = (struct cursor){ .object = object };
    return oldest;
}

jval json_entry(jval object, int64_t i, const char **key)
{
    CHECK(json_type(object) == JSON_OBJECT && i >= 0 && i < json_count(object), "entry %lld of %lld",
          (long long)i, (long long)json_count(object));
    struct cursor *c = find_cursor(object);
    if (!c->at || i < c->i) {
        c->at = json_object_iter(node(object));
        c->i = 0;
    }
    for (; c->i < i; c->i++)
        c->at = json_object_iter_next(node(object), c->at);
    c->used = ++cursor_clock;
    *key = json_object_iter_key(c->at);
    return (jval)json_object_iter_value(c->at);
}

bool json_bool(jval v)
{
    CHECK(json_type(v) == JSON_BOOL, "%s", json_type_name(json_type(v)));
    return json_typeof(node(v)) == JSON_TRUE;
}

int64_t json_int(jval v)
{
    CHECK(json_type(v) == JSON_INT, "%s", json_type_name(json_type(v)));
    return json_integer_value(node(v));
}

double json_number(jval v)
{
    CHECK(json_type(v) == JSON_INT || json_type(v) == JSON_REAL, "%s", json_type_name(json_type(v)));
    return json_number_value(node(v));
}

const char *json_string(jval v, size_t *bytes)
{
    CHECK(json_type(v) == JSON_STRING, "%s", json_type_name(json_type(v)));
    if (bytes)
        *bytes = json_string_length(node(v));
    return json_string_value(node(v));
}

/* Containers are numbered as their brackets open in the text; the tree has the same order, because keys are
 * kept in order and never come twice. True when `want` was found; *n is then its number. */
static bool number_of(json_t *at, const json_t *want, int64_t *n)
{
    if (json_typeof(at) != JANSSON_OBJECT && json_typeof(at) != JANSSON_ARRAY)
        return false;
    if (at == want)
        return true;
    ++*n;
    for (size_t i = 0; i < json_array_size(at); i++)
        if (number_of(json_array_get(at, i), want, n))
            return true;
    for (void *i = json_object_iter(at); i; i = json_object_iter_next(at, i))
        if (number_of(json_object_iter_value(i), want, n))
            return true;
    return false;
}

struct scan { /* a walk over text that jansson has accepted */
    const char *at, *end;
    int line;
};

/* Steps over one string, bracket or other byte; returns its first byte. */
static char scan_step(struct scan *s)
{
    const char c = *s->at++;
    s->line += c == '\n';
    if (c != '"')
        return c;
    while (s->at < s->end && *s->at != '"')
        s->at += *s->at == '\\' ? 2 : 1;
    s->at++;
    return c;
}

static void scan_to_container(struct scan *s, int64_t n)
{
    while (s->at < s->end) {
        const char c = *s->at;
        if ((c == '{' || c == '[') && n-- == 0)
            return;
        scan_step(s);
    }
}

/* Line of `key` in the object that opens at s; that of the bracket when the key is not there as written. */
static int line_of_key(struct scan s, const char *key)
{
    const int opening = s.line;
    const size_t bytes = strlen(key);
    int depth = 0;
    while (s.at < s.end) {
        const struct scan before = s;
        const char c = scan_step(&s);
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        if (depth == 0)
            break;
        if (c != '"' || depth != 1 || (size_t)(s.at - before.at) != bytes + 2 ||
            memcmp(before.at + 1, key, bytes) != 0)
            continue;
        const char *next = s.at + strspn(s.at, " \t\r\n");
        if (*next == ':')
            return before.line;
    }
    return opening;
}

static int find_line(const struct json *j, jval object, const char *key)
{
    int64_t n = 0;
    struct scan s = { j->text, j->text + j->bytes, 1 };
    if (!object || !number_of(j->root, node(object), &n))
        return object == json_root(j) ? 1 : 0;
    scan_to_container(&s, n);
    return s.at >= s.end ? 0 : key ? line_of_key(s, key) : s.line;
}

bool json_err(const struct json *j, jval object, const char *key, struct err *e, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(e, "%s:%d: %s%s%s", j->path, find_line(j, object, key), key ? key : "", key ? ": " : "",
                   text);
}

/* The error text of a value that is missing or of another type. */
static bool wrong(const struct json *j, jval object, const char *key, const char *expected, struct err *e)
{
    jval v = json_get(object, key);
    if (object && json_type(object) != JSON_OBJECT)
        return json_err(j, object, NULL, e, "expected an object with the key '%s', found %s", key,
                        json_type_name(json_type(object)));
    if (!v)
        return json_err(j, object, key, e, "missing, expected %s", expected);
    return json_err(j, object, key, e, "expected %s, found %s", expected, json_type_name(json_type(v)));
}

bool json_want_object(const struct json *j, jval object, const char *key, jval *out, struct err *e)
{
    *out = json_get(object, key);
    return json_type(*out) == JSON_OBJECT || wrong(j, object, key, "an object", e);
}

bool json_want_array(const struct json *j, jval object, const char *key, jval *out, struct err *e)
{
    *out = json_get(object, key);
    return json_type(*out) == JSON_ARRAY || wrong(j, object, key, "an array", e);
}

bool json_want_int(const struct json *j, jval object, const char *key, int64_t lo, int64_t hi, int64_t *out,
                   struct err *e)
{
    jval v = json_get(object, key);
    if (json_type(v) != JSON_INT)
        return wrong(j, object, key, "an integer", e);
    *out = json_int(v);
    if (*out < lo || *out > hi)
        return json_err(j, object, key, e, "%lld is out of range, expected %lld to %lld", (long long)*out,
                        (long long)lo, (long long)hi);
    return true;
}

bool json_want_version(const struct json *j, int version, struct err *e)
{
    const jval r = json_root(j);
    int64_t found = 0;
    if (json_type(r) != JSON_OBJECT)
        return json_err(j, r, "", e, "expected an object");
    if (!json_want_int(j, r, "version", 0, INT32_MAX, &found, e))
        return false;
    return found == version || json_err(j, r, "version", e, "this program reads version %d, found %lld",
                                        version, (long long)found);
}

bool json_want_number(const struct json *j, jval object, const char *key, double *out, struct err *e)
{
    jval v = json_get(object, key);
    if (json_type(v) != JSON_INT && json_type(v) != JSON_REAL)
        return wrong(j, object, key, "a number", e);
    *out = json_number(v);
    return true;
}

bool json_want_bool(const struct json *j, jval object, const char *key, bool *out, struct err *e)
{
    jval v = json_get(object, key);
    if (json_type(v) != JSON_BOOL)
        return wrong(j, object, key, "true or false", e);
    *out = json_bool(v);
    return true;
}

bool json_want_string(const struct json *j, jval object, const char *key, const char **out, struct err *e)
{
    size_t bytes;
    jval v = json_get(object, key);
    if (json_type(v) != JSON_STRING)
        return wrong(j, object, key, "a string", e);
    *out = json_string(v, &bytes);
    if (strlen(*out) != bytes)
        return json_err(j, object, key, e, "the string holds a NUL character");
    return true;
}
