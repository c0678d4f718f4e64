/* config_file.c - options from a JSON object. One file may serve several commands: keys of other commands are
 * skipped, unknown keys are errors. */
#include "base/json.h"
#include "config/option.h"
#include <math.h>
#include <string.h>
struct place { /* where an error is */
    struct arena *arena;
    const struct json *json;
    const char *key;
};

static bool mistyped(const struct place *p, jval v, const char *expected, struct err *e)
{
    return json_err(p->json, json_root(p->json), p->key, e, "expected %s, found %s", expected,
                    json_type_name(json_type(v)));
}

static char *number_text(struct arena *a, jval v)
{
    if (json_type(v) == JSON_INT)
        return arena_printf(a, "%lld", (long long)json_int(v));
    return arena_printf(a, "%.17g", json_number(v));
}

static bool is_number(jval v)
{
    return json_type(v) == JSON_INT || json_type(v) == JSON_REAL;
}

static const char *pair_text(struct arena *a, jval v)
{
    if (json_type(v) != JSON_ARRAY || json_count(v) != 2 || !is_number(json_at(v, 0)) ||
        !is_number(json_at(v, 1)))
        return NULL;
    return arena_printf(a, "%s,%s", number_text(a, json_at(v, 0)), number_text(a, json_at(v, 1)));
}

/* The value as one would type it, if its JSON type fits the option; NULL otherwise. */
static const char *value_text(struct arena *a, const struct option *o, jval v)
{
    const enum json_type t = json_type(v);
    if (t == JSON_STRING && (o->kind == TEXT || o->kind == PAIR || o->kind == BYTES || o->kind == CHOICE))
        return arena_strdup(a, json_string(v, NULL));
    if (t == JSON_BOOL && o->kind == BOOL)
        return json_bool(v) ? "true" : "false";
    if (t == JSON_INT && (o->kind == INT || o->kind == BYTES || o->kind == REAL || o->kind == CHOICE))
        return number_text(a, v);
    if (t == JSON_REAL && o->kind == REAL)
        return number_text(a, v);
    return o->kind == PAIR ? pair_text(a, v) : NULL;
}

static const char *expected_type(const struct option *o)
{
    static const char *const names[] = { [TEXT] = "a string",
                                         [INT] = "an integer",
                                         [REAL] = "a number",
                                         [BOOL] = "true or false",
                                         [PAIR] = "an array of two numbers",
                                         [BYTES] = "an integer or a string like \"5GB\"",
                                         [CHOICE] = "a string" };
    return names[o->kind];
}

static bool holds_nul(jval v)
{
    size_t bytes;
    return json_type(v) == JSON_STRING && strlen(json_string(v, &bytes)) != bytes;
}

static bool set_one(const struct place *p, const struct option *o, jval v, struct config *out, struct err *e)
{
    struct err inner = { 0 };
    if (o->kind == TEXT && json_type(v) == JSON_NULL)
        return true;
    const char *text = holds_nul(v) ? NULL : value_text(p->arena, o, v);
    if (!text)
        return mistyped(p, v, expected_type(o), e);
    if (!option_set(out, o, text, "value", &inner))
        return json_err(p->json, json_root(p->json), p->key, e, "%s", inner.text);
    option_mark(out, o);
    return true;
}

static bool read_key(const struct place *p, const struct command *k, jval v, struct config *out,
                     struct err *e)
{
    const struct option *o = option_find(k, p->key, strlen(p->key));
    if (!strcmp(p->key, "config") || !strcmp(p->key, "help"))
        return json_err(p->json, json_root(p->json), p->key, e, "belongs to the command line only");
    if (o)
        return set_one(p, o, v, out, e);
    if (option_find_anywhere(p->key, strlen(p->key)))
        return true;
    const char *near = option_nearest(p->arena, k, p->key);
    return json_err(p->json, json_root(p->json), p->key, e, "unknown option%s%s%s",
                    near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static bool read_keys(struct arena *a, const struct json *j, const char *path, const struct command *k,
                      struct config *out, struct err *e)
{
    jval root = json_root(j);
    if (json_type(root) != JSON_OBJECT)
        return err_set(e, "%s:1: expected an object of options, found %s", path,
                       json_type_name(json_type(root)));
    for (int64_t i = 0, n = json_count(root); i < n; i++) {
        struct place p = { a, j, NULL };
        jval v = json_entry(root, i, &p.key);
        if (!read_key(&p, k, v, out, e))
            return false;
    }
    return true;
}

bool config_read_file(struct arena *a, const struct command *k, const char *path, struct config *out,
                      struct err *e)
{
    struct json *j = json_read(path, 1 << 20, e);
    const bool read = j && read_keys(a, j, path, k, out, e);
    if (!read)
        e->code = EXIT_USAGE; /* a config file is part of the command line */
    json_free(j);
    return read;
}
