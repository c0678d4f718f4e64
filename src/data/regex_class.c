/* regex_class.c - sets of characters in patterns: brackets, escapes, properties, and what (?i) adds to them. */
#include "data/regex_impl.h"

struct rx *rx_set(struct arena *a, const struct charset *set)
{
    struct rx *x = ARENA_NEW(a, struct rx, 1);
    *x = (struct rx){ .kind = RX_SET, .set = set };
    return x;
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
    return c >= '0' && c <= '9'                     ? c - '0'
           : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                    : -1;
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
    if ((letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') ||
        (letter >= 'A' && letter <= 'Z')) {
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
    return rx_set(s->a, y);
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
    struct range r = { 0 };
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

struct rx *rx_parse_bracket(struct parser *s)
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
    return all ? rx_set(s->a, charset_invert(s->a, all)) : NULL;
}

struct rx *rx_parse_escape(struct parser *s)
{
    uint32_t c;
    if (strchr("sSdDwWhHpP", *s->p) && *s->p) {
        const char letter = *s->p++;
        const struct charset *x =
            (letter | 0x20) == 'p' ? parse_property(s, letter == 'P') : class_escape(s, letter, false);
        s->previous = NULL;
        return x ? rx_set(s->a, x) : NULL;
    }
    return literal_escape(s, &c) ? folded_node(s, charset_one(s->a, c)) : NULL;
}

struct rx *rx_parse_character(struct parser *s)
{
    return folded_node(s, charset_one(s->a, next_character(s)));
}

struct rx *rx_parse_dot(struct parser *s)
{
    const struct charset *newline = charset_one(s->a, '\n');
    s->previous = NULL;
    return rx_set(s->a, charset_invert(s->a, s->dot_all ? charset_of(s->a, NULL, 0) : newline));
}
