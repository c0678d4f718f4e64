/* regex_parse.c - a recursive descent parser for the part of Oniguruma's Ruby syntax that tokenizers use. */
#include "data/regex.h"
#include "data/utf8.h"
#include <string.h>
enum { MOST_DEPTH = 100, MOST_COUNT = 1000, MOST_BYTES = 1 << 16 };
struct parser {
    struct arena *a;
    struct err *e;
    const char *start, *p, *end;
    bool fold, dot_all; /* (?i), (?m) */
    int depth;
    const struct charset *previous; /* the folded set just before, for folds of two characters */
};
static struct rx *parse_alternatives(struct parser *s);

static void *fail(struct parser *s, const char *what)
{
    err_set(s->e, "%s at byte %d of the pattern", what, (int)(s->p - s->start));
    return NULL;
}

static struct rx *node(struct parser *s, enum rx_kind kind)
{
    struct rx *x = ARENA_NEW(s->a, struct rx, 1);
    x->kind = kind;
    return x;
}

static struct rx *set_node(struct arena *a, const struct charset *set)
{
    struct rx *x = ARENA_NEW(a, struct rx, 1);
    *x = (struct rx){ .kind = RX_SET, .set = set };
    return x;
}

static bool more(const struct parser *s)
{
    return s->p < s->end;
}

static bool at(const struct parser *s, const char *word)
{
    const size_t n = strlen(word);
    return (size_t)(s->end - s->p) >= n && memcmp(s->p, word, n) == 0;
}

static bool eat(struct parser *s, const char *word)
{
    if (!at(s, word))
        return false;
    s->p += strlen(word);
    return true;
}

static uint32_t next_character(struct parser *s)
{
    const uint32_t c = utf8_get(s->p);
    s->p += utf8_bytes((unsigned char)*s->p);
    return c;
}

static const struct charset *property(struct parser *s, const char *name)
{
    struct err inner = { 0 };
    const struct charset *x = rx_property(s->a, name, &inner);
    return x ? x : fail(s, inner.text);
}

/* \p{Name}, \p{^Name}, \P{Name}; the p has been read. */
static const struct charset *parse_property(struct parser *s, bool invert)
{
    char name[64];
    const char *close = more(s) ? memchr(s->p, '}', (size_t)(s->end - s->p)) : NULL;
    if (!eat(s, "{") || !close)
        return fail(s, "\\p without {Name}");
    if (eat(s, "^"))
        invert = !invert;
    const size_t n = (size_t)(close - s->p);
    if (n == 0 || n >= sizeof name)
        return fail(s, "property name of unsupported length");
    memcpy(name, s->p, n);
    name[n] = 0;
    const struct charset *x = property(s, name);
    if (!x)
        return NULL;
    s->p = close + 1;
    return invert ? charset_invert(s->a, x) : x;
}

/* Oniguruma's \w in a bracket lacks what it has outside (bpe_pcre.c). */
static const struct charset *class_escape(struct parser *s, char c, bool in_bracket)
{
    static const struct range hex[] = { { '0', '9' }, { 'A', 'F' }, { 'a', 'f' } };
    const struct charset *x = NULL;
    switch (c | 0x20) {
    case 's':
        x = property(s, "White_Space");
        break;
    case 'd':
        x = property(s, "Nd");
        break;
    case 'w':
        x = property(s, in_bracket ? "word" : "bare_word");
        break;
    case 'h':
        x = charset_of(s->a, hex, 3);
        break;
    }
    return x && c < 'a' ? charset_invert(s->a, x) : x;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

/* `least` to `most` hexadecimal digits. */
static bool parse_hex(struct parser *s, int least, int most, uint32_t *c)
{
    int n = 0;
    for (*c = 0; n < most && more(s) && hex_value(*s->p) >= 0; n++)
        *c = *c << 4 | (uint32_t)hex_value(*s->p++);
    return n >= least && *c <= CODE_POINT_MAX && !(*c >= 0xd800 && *c < 0xe000);
}

static bool code_escape(struct parser *s, char letter, uint32_t *c)
{
    if (letter == 'u')
        return parse_hex(s, 4, 4, c);
    if (eat(s, "{"))
        return parse_hex(s, 1, 8, c) && eat(s, "}");
    return parse_hex(s, 1, 2, c) && *c < 0x80;
}

/* An escape that stands for one character; the backslash has been read. False after fail(). */
static bool literal_escape(struct parser *s, uint32_t *c)
{
    static const char letters[] = "rntfvae", codes[] = "\r\n\t\f\v\a\x1b";
    const char letter = *s->p;
    const char *found = letter ? strchr(letters, letter) : NULL;
    if (found) {
        *c = (uint32_t)codes[found - letters];
        s->p++;
        return true;
    }
    if (letter == 'u' || letter == 'x') {
        s->p++;
        return code_escape(s, letter, c) || fail(s, "bad hexadecimal escape") != NULL;
    }
    if ((letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z')) {
        char what[40] = "unsupported escape \\?";
        what[strlen(what) - 1] = letter;
        return fail(s, what) != NULL;
    }
    *c = next_character(s);
    return true;
}

static bool is_letter(uint32_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Both cases of the ASCII letters in x, and what else folds to them. NULL when x has other characters. */
static const struct charset *fold_set(struct parser *s, const struct charset *x)
{
    if (!s->fold)
        return x;
    if (x->n && x->range[x->n - 1].last >= 0x80)
        return fail(s, "(?i) over characters beyond ASCII is not supported");
    const struct charset *y = x;
    for (uint32_t c = 0; c < 0x80; c++) {
        if (!is_letter(c) || !charset_has(x, c))
            continue;
        y = charset_union(s->a, y, charset_one(s->a, c ^ 0x20));
        if ((c | 0x20) == 's')
            y = charset_union(s->a, y, charset_one(s->a, 0x17f));
        if ((c | 0x20) == 'k')
            y = charset_union(s->a, y, charset_one(s->a, 0x212a));
    }
    return y;
}

/* Letters that Oniguruma folds together into one character (the sharp s and the ligatures). */
static bool folds_with_previous(const struct parser *s, const struct charset *x)
{
    static const char pairs[][3] = { "ss", "ff", "fi", "fl", "st" };
    for (int i = 0; s->fold && s->previous && i < 5; i++)
        if (charset_has(s->previous, (uint32_t)pairs[i][0]) && charset_has(x, (uint32_t)pairs[i][1]))
            return true;
    return false;
}

static struct rx *folded_node(struct parser *s, const struct charset *x)
{
    const struct charset *y = fold_set(s, x);
    if (!y)
        return NULL;
    if (folds_with_previous(s, y))
        return fail(s, "(?i) over letters that fold to one character is not supported");
    s->previous = s->fold ? y : NULL;
    return set_node(s->a, y);
}

/* One item of a bracket: a class in *set, or a character in *c. */
static bool bracket_item(struct parser *s, const struct charset **set, uint32_t *c)
{
    *set = NULL;
    if (!more(s))
        return fail(s, "character class without ]") != NULL;
    if (at(s, "[") || at(s, "&&"))
        return fail(s, "nested character class or && is not supported") != NULL;
    if (!eat(s, "\\")) {
        *c = next_character(s);
        return true;
    }
    if (!more(s))
        return fail(s, "backslash at the end") != NULL;
    if (strchr("sSdDwWhHpP", *s->p) && *s->p) {
        const char letter = *s->p++;
        *set = (letter | 0x20) == 'p' ? parse_property(s, letter == 'P') : class_escape(s, letter, true);
        return *set != NULL;
    }
    if (*s->p == 'b') {
        s->p++;
        *c = '\b';
        return true;
    }
    return literal_escape(s, c);
}

/* Adds an item, or the range that starts with it, to *all. */
static bool bracket_range(struct parser *s, const struct charset **all)
{
    const struct charset *set, *last_set;
    struct range r;
    if (!bracket_item(s, &set, &r.first))
        return false;
    r.last = r.first;
    const bool is_range = at(s, "-") && s->p + 1 < s->end && s->p[1] != ']';
    if (is_range && !set) {
        s->p++;
        if (!bracket_item(s, &last_set, &r.last))
            return false;
        if (last_set || r.last < r.first)
            return fail(s, "bad range in a character class") != NULL;
    } else if (is_range)
        return fail(s, "range from a class in a character class") != NULL;
    *all = charset_union(s->a, *all, set ? set : charset_of(s->a, &r, 1));
    return true;
}

static struct rx *parse_bracket(struct parser *s)
{
    const bool invert = eat(s, "^");
    const struct charset *all = charset_of(s->a, NULL, 0);
    if (at(s, "]"))
        return fail(s, "character class that starts with ]");
    while (!eat(s, "]"))
        if (!bracket_range(s, &all))
            return NULL;
    if (!invert)
        return folded_node(s, all);
    all = fold_set(s, all);
    return all ? set_node(s->a, charset_invert(s->a, all)) : NULL;
}

static struct rx *assertion(struct parser *s, char letter)
{
    struct rx *x = node(s, RX_ASSERT);
    x->assertion = letter;
    return x;
}

static struct rx *parse_escape(struct parser *s)
{
    uint32_t c;
    if (!more(s))
        return fail(s, "backslash at the end");
    if (strchr("AzZbB", *s->p) && *s->p)
        return assertion(s, *s->p++);
    if (strchr("sSdDwWhHpP", *s->p) && *s->p) {
        const char letter = *s->p++;
        const struct charset *x =
            (letter | 0x20) == 'p' ? parse_property(s, letter == 'P') : class_escape(s, letter, false);
        s->previous = NULL;
        return x ? set_node(s->a, x) : NULL;
    }
    return literal_escape(s, &c) ? folded_node(s, charset_one(s->a, c)) : NULL;
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
        return parse_bracket(s);
    if (eat(s, "\\"))
        return parse_escape(s);
    if (eat(s, "^"))
        return assertion(s, '^');
    if (eat(s, "$"))
        return assertion(s, '$');
    if (eat(s, ".")) {
        const struct charset *newline = charset_one(s->a, '\n');
        return set_node(s->a, charset_invert(s->a, s->dot_all ? charset_of(s->a, NULL, 0) : newline));
    }
    if (at(s, "*") || at(s, "+") || at(s, "?"))
        return fail(s, "repeat of nothing");
    return folded_node(s, charset_one(s->a, next_character(s)));
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
        *last = set_node(a, charset_one(a, utf8_get(text + i)));
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
