/* regex_parse.c - a recursive descent parser for the part of Oniguruma's Ruby syntax that tokenizers use. */
#include "data/regex_impl.h"
enum { MOST_DEPTH = 100, MOST_COUNT = 1000, MOST_BYTES = 1 << 16 };
static struct rx *parse_alternatives(struct parser *s);

static struct rx *node(struct parser *s, enum rx_kind kind)
{
    struct rx *x = ARENA_NEW(s->a, struct rx, 1);
    x->kind = kind;
    return x;
}

static struct rx *assertion(struct parser *s, char letter)
{
    struct rx *x = node(s, RX_ASSERT);
    x->assertion = letter;
    return x;
}

static struct rx *parse_escape(struct parser *s)
{
    if (!more(s))
        return fail(s, "backslash at the end");
    if (strchr("AzZbB", *s->p) && *s->p)
        return assertion(s, *s->p++);
    return rx_parse_escape(s);
}

/* Flags as in (?i-m:...) and (?i)...; the "(?" has been read. */
static bool parse_flags(struct parser *s)
{
    for (bool on = true; more(s) && *s->p != ':' && *s->p != ')'; s->p++) {
        if (*s->p == '-')
            on = false;
        else if (*s->p == 'i')
            s->fold = on;
        else if (*s->p == 'm')
            s->dot_all = on;
        else
            return fail(s, "unsupported group (?...") != NULL;
    }
    return true;
}

static struct rx *look(struct parser *s, bool behind, bool negative)
{
    struct rx *x = node(s, RX_LOOK);
    x->behind = behind;
    x->negative = negative;
    x->child = parse_alternatives(s);
    return x->child ? x : NULL;
}

/* Behind "(?" up to, not including, the closing parenthesis. */
static struct rx *parse_special_group(struct parser *s)
{
    if (eat(s, "="))
        return look(s, false, false);
    if (eat(s, "!"))
        return look(s, false, true);
    if (eat(s, "<="))
        return look(s, true, false);
    if (eat(s, "<!"))
        return look(s, true, true);
    if (eat(s, ">")) {
        struct rx *x = node(s, RX_ATOMIC);
        x->child = parse_alternatives(s);
        return x->child ? x : NULL;
    }
    if (!parse_flags(s))
        return NULL;
    if (!eat(s, ":"))
        return fail(s, "flags that change in the middle of a group are not supported");
    return parse_alternatives(s);
}

static struct rx *parse_group(struct parser *s)
{
    const bool fold = s->fold, dot_all = s->dot_all;
    if (++s->depth > MOST_DEPTH)
        return fail(s, "groups nested too deep");
    s->previous = NULL;
    struct rx *x = eat(s, "?") ? parse_special_group(s) : parse_alternatives(s);
    if (!x)
        return NULL;
    if (!eat(s, ")"))
        return fail(s, "group without )");
    s->depth--;
    s->fold = fold;
    s->dot_all = dot_all;
    s->previous = NULL;
    return x;
}

static struct rx *parse_atom(struct parser *s)
{
    if (eat(s, "("))
        return parse_group(s);
    if (eat(s, "["))
        return rx_parse_bracket(s);
    if (eat(s, "\\"))
        return parse_escape(s);
    if (eat(s, "^"))
        return assertion(s, '^');
    if (eat(s, "$"))
        return assertion(s, '$');
    if (eat(s, "."))
        return rx_parse_dot(s);
    if (at(s, "*") || at(s, "+") || at(s, "?"))
        return fail(s, "repeat of nothing");
    return rx_parse_character(s);
}

static bool parse_number(struct parser *s, int *out)
{
    const char *start = s->p;
    for (*out = 0; more(s) && *s->p >= '0' && *s->p <= '9' && *out <= MOST_COUNT; s->p++)
        *out = *out * 10 + (*s->p - '0');
    return s->p > start;
}

/* {n}, {n,}, {,m}, {n,m}: 1; 0 when the brace stands for itself; -1 on error. */
static int parse_braces(struct parser *s, int *min, int *max)
{
    const char *start = s->p;
    s->p++;
    const bool has_min = parse_number(s, min), comma = eat(s, ",");
    bool has_max = comma && parse_number(s, max);
    if (!comma)
        *max = *min;
    else if (!has_max)
        *max = -1;
    if (!(has_min || has_max) || !eat(s, "}")) {
        s->p = start;
        return 0;
    }
    if (*min > MOST_COUNT || *max > MOST_COUNT || (*max >= 0 && *max < *min)) {
        fail(s, "unsupported repeat count");
        return -1;
    }
    return 1;
}

static struct rx *repeat(struct parser *s, struct rx *child, int min, int max, enum rx_greed greed)
{
    struct rx *x = node(s, RX_REPEAT);
    x->child = child;
    x->min = min;
    x->max = max;
    x->greed = greed;
    return x;
}

/* Reads one quantifier: 1 and fills, 0 = there is none, -1 = error. Ruby knows {n,m}? but neither {n,m}+ as
 * possessive nor {n}? as lazy: the second sign is a quantifier of its own there. */
static int parse_quantifier(struct parser *s, int *min, int *max, enum rx_greed *greed)
{
    *greed = GREEDY;
    if (at(s, "{")) {
        const int found = parse_braces(s, min, max);
        if (found == 1 && *min != *max && eat(s, "?"))
            *greed = LAZY;
        return found;
    }
    if (!at(s, "*") && !at(s, "+") && !at(s, "?"))
        return 0;
    *min = *s->p == '+';
    *max = *s->p == '?' ? 1 : -1;
    s->p++;
    *greed = eat(s, "?") ? LAZY : eat(s, "+") ? POSSESSIVE : GREEDY;
    return 1;
}

static struct rx *parse_piece(struct parser *s)
{
    int min, max, found;
    enum rx_greed greed;
    struct rx *x = parse_atom(s);
    for (int n = 0; x && (found = parse_quantifier(s, &min, &max, &greed)) != 0; n++) {
        if (found < 0)
            return NULL;
        if (n >= MOST_DEPTH)
            return fail(s, "too many repeats of a repeat");
        if (x->kind == RX_ASSERT || x->kind == RX_LOOK)
            return fail(s, "repeat of an assertion is not supported");
        x = repeat(s, x, min, max, greed);
        s->previous = NULL;
    }
    return x;
}

static struct rx *parse_sequence(struct parser *s)
{
    struct rx *x = node(s, RX_CAT), **last = &x->child;
    s->previous = NULL;
    while (more(s) && !at(s, "|") && !at(s, ")")) {
        *last = parse_piece(s);
        if (!*last)
            return NULL;
        last = &(*last)->next;
    }
    return x;
}

static struct rx *parse_alternatives(struct parser *s)
{
    struct rx *x = node(s, RX_ALT), **last = &x->child;
    do {
        *last = parse_sequence(s);
        if (!*last)
            return NULL;
        last = &(*last)->next;
    } while (eat(s, "|"));
    return x;
}

struct rx *rx_parse(struct arena *a, const char *pattern, size_t bytes, struct err *e)
{
    struct parser s = { .a = a, .e = e, .start = pattern, .p = pattern, .end = pattern + bytes };
    if (bytes > MOST_BYTES)
        return fail(&s, "pattern too long");
    /* (?i) in front of everything is the same as (?i:...) around it. */
    const char *close = bytes > 3 ? memchr(pattern, ')', bytes) : NULL;
    if (close && at(&s, "(?") && (s.p[2] == 'i' || s.p[2] == 'm' || s.p[2] == '-') &&
        !memchr(pattern, ':', (size_t)(close - pattern))) {
        s.p += 2;
        if (!parse_flags(&s))
            return NULL;
        s.p++;
    }
    struct rx *x = parse_alternatives(&s);
    if (x && more(&s))
        return fail(&s, "unexpected )");
    return x;
}

struct rx *rx_literal(struct arena *a, const char *text, size_t bytes)
{
    struct rx *x = ARENA_NEW(a, struct rx, 1), **last = &x->child;
    x->kind = RX_CAT;
    for (size_t i = 0; i < bytes; i += (size_t)utf8_bytes((unsigned char)text[i])) {
        *last = rx_set(a, charset_one(a, utf8_get(text + i)));
        last = &(*last)->next;
    }
    return x;
}

bool rx_nullable(const struct rx *x)
{
    if (x->kind == RX_SET)
        return false;
    if (x->kind == RX_REPEAT)
        return x->min == 0 || rx_nullable(x->child);
    if (x->kind == RX_ATOMIC)
        return rx_nullable(x->child);
    if (x->kind == RX_CAT || x->kind == RX_ALT) {
        for (const struct rx *c = x->child; c; c = c->next)
            if (rx_nullable(c) != (x->kind == RX_CAT))
                return x->kind == RX_ALT;
        return x->kind == RX_CAT;
    }
    return true;
}
