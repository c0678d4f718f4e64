/* ckpt_text.c - names of tensors and files, and the one field of config.json that export may change. */
#include "base/json.h"
#include "base/str.h"
#include "ckpt/ckpt_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
static const char *const kinds[STATE_KINDS] = { ".exp_avg", ".exp_avg_sq", ".master" };

const char *state_name_print(struct arena *a, const struct state_name *s)
{
    if (s->end < 0)
        return arena_printf(a, "%s%s", s->tensor, kinds[s->kind]);
    const char *skip = s->skip ? arena_printf(a, ":%d", s->skip) : "";
    const char *order = s->order.slices > 1 ? arena_printf(a, "@%lldx%lld", (long long)s->order.slices,
                                                           (long long)s->order.run)
                                            : "";
    return arena_printf(a, "%s%s[%lld:%lld%s%s]", s->tensor, kinds[s->kind], (long long)s->begin,
                        (long long)s->end, skip, order);
}

/* Decimal digits without sign, blanks or leading zeros; *at moves behind them. */
static bool parse_count(const char **at, int64_t *out)
{
    const char *text = *at;
    char *end;
    if (*text < '0' || *text > '9' || (text[0] == '0' && text[1] >= '0' && text[1] <= '9'))
        return false;
    errno = 0;
    *out = strtoll(text, &end, 10);
    *at = end;
    return errno == 0;
}

static bool step_over(const char **at, char c)
{
    if (**at != c)
        return false;
    ++*at;
    return true;
}

static bool parse_range(const char *bracket, struct state_name *out)
{
    const char *at = bracket + 1;
    struct ckpt_order *o = &out->order;
    int64_t skip = 0;
    if (!parse_count(&at, &out->begin) || !step_over(&at, ':') || !parse_count(&at, &out->end))
        return false;
    if (step_over(&at, ':') && (!parse_count(&at, &skip) || skip == 0 || skip >= CKPT_BLOCK))
        return false;
    out->skip = (int)skip;
    if (step_over(&at, '@') && (!parse_count(&at, &o->slices) || !step_over(&at, 'x') ||
                                !parse_count(&at, &o->run) || o->slices < 2 || o->run < 1))
        return false;
    return step_over(&at, ']') && *at == 0 && out->begin < out->end;
}

bool state_name_parse(struct arena *a, const char *text, struct state_name *out)
{
    size_t bytes = strlen(text);
    *out = (struct state_name){ .end = -1 };
    if (bytes && text[bytes - 1] == ']') {
        const char *bracket = strrchr(text, '[');
        if (!bracket || !parse_range(bracket, out))
            return false;
        bytes = (size_t)(bracket - text);
    }
    for (int k = 0; k < STATE_KINDS; k++) {
        const size_t suffix = strlen(kinds[k]);
        if (bytes <= suffix || memcmp(text + bytes - suffix, kinds[k], suffix) != 0)
            continue;
        out->kind = (enum state_kind)k;
        out->tensor = arena_strndup(a, text, bytes - suffix);
        return true;
    }
    return false;
}

bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/');
}

static bool ends_with(const char *text, const char *suffix)
{
    const size_t n = strlen(text), k = strlen(suffix);
    return n >= k && !strcmp(text + n - k, suffix);
}

bool is_buffer(const char *tensor)
{
    return ends_with(tensor, ".rotary_emb.inv_freq");
}

bool is_model_text(const char *name)
{
    static const char *const names[] = { "config.json",
                                         "generation_config.json",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "vocab.json",
                                         "vocab.txt",
                                         "merges.txt" };
    static const char *const prefixes[] = { "tokenizer", "chat_template" };
    if (strstr(name, ".tmp."))
        return false;
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (!strcmp(name, names[i]))
            return true;
    for (int i = 0; i < (int)(sizeof prefixes / sizeof *prefixes); i++)
        if (!strncmp(name, prefixes[i], strlen(prefixes[i])))
            return true;
    return ends_with(name, ".py"); /* model code that config.json may name in auto_map */
}

const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

const char *parent_of(struct arena *a, const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == path ? "/" : slash ? arena_strndup(a, path, (size_t)(slash - path)) : ".";
}

const char *without_slashes(struct arena *a, const char *path)
{
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    return arena_strndup(a, path, bytes);
}

const char *path_in(struct arena *a, const char *dir, const char *name)
{
    return arena_printf(a, "%s/%s", dir, name);
}

const char *optimizer_file(struct arena *a, int64_t rank, int64_t n_ranks)
{
    return arena_printf(a, "optimizer-%05lld-of-%05lld.safetensors", (long long)rank + 1, (long long)n_ranks);
}

const char *sums_file(struct arena *a, int64_t rank)
{
    return arena_printf(a, "sums-%05lld.json", (long long)rank + 1);
}

const char *seals_file(struct arena *a, int64_t rank)
{
    return arena_printf(a, "seals-%05lld.json", (long long)rank + 1);
}

/* Behind the string that begins at p (a quote); the text is known to be JSON. */
static const char *behind_string(const char *p)
{
    for (p++; *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p + 1;
}

/* The value of a key of the outermost object, found in its text; NULL when it is absent or not a string. */
static const char *find_text_value(const char *text, const char *key)
{
    int depth = 0;
    for (const char *p = text; *p;) {
        if (*p != '"') {
            depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
            p++;
            continue;
        }
        const char *end = behind_string(p), *colon = end + strspn(end, " \t\r\n");
        if (depth == 1 && *colon == ':' && (size_t)(end - p) == strlen(key) + 2 &&
            !memcmp(p + 1, key, strlen(key))) {
            const char *v = colon + 1 + strspn(colon + 1, " \t\r\n");
            return *v == '"' ? v : NULL;
        }
        p = end;
    }
    return NULL;
}

/* Older files say torch_dtype, newer ones dtype; without either there is nothing to change. */
char *replace_torch_dtype(struct arena *a, const char *text, size_t *bytes, const char *path,
                          const char *dtype, struct err *e)
{
    struct str out = str_new(a, max_text_bytes + 100);
    struct json *j = json_parse(text, *bytes, path, e);
    if (!j)
        return NULL;
    json_free(j);
    const char *at = find_text_value(text, "torch_dtype");
    if (!at)
        at = find_text_value(text, "dtype");
    if (at) {
        str_add_bytes(&out, text, (size_t)(at - text));
        str_addf(&out, "\"%s\"", dtype);
        at = behind_string(at);
    } else {
        at = text;
    }
    str_add_bytes(&out, at, *bytes - (size_t)(at - text));
    *bytes = out.bytes;
    return out.text;
}
