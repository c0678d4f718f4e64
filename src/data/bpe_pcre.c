/* bpe_pcre.c - the only file that includes PCRE2. It answers which characters have a property (its Unicode
 * tables are the only ones here; PCRE2 10.42 has Unicode 14, as Hugging Face's Oniguruma) and searches the few
 * patterns that do not become an automaton (dfa.h). Those are printed with every class as ranges of code
 * points, so that PCRE2's own meaning of \s, \w or [[:alpha:]] never matters. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/str.h"
#include "data/regex.h"
#include "data/utf8.h"
#include <pcre2.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
enum { MOST_PATTERN = 1 << 20, STACK_BYTES = 32 << 20, MOST_PROPERTIES = 1024 };
struct matcher {
    pcre2_code *code;
};
struct matcher_scratch {
    struct arena *a;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* Names that PCRE2 spells differently, or that mean something else there. */
static const char *const names[][2] = {
    { "letter", "\\p{L}" },
    { "uppercaseletter", "\\p{Lu}" },
    { "lowercaseletter", "\\p{Ll}" },
    { "titlecaseletter", "\\p{Lt}" },
    { "modifierletter", "\\p{Lm}" },
    { "otherletter", "\\p{Lo}" },
    { "mark", "\\p{M}" },
    { "nonspacingmark", "\\p{Mn}" },
    { "spacingmark", "\\p{Mc}" },
    { "enclosingmark", "\\p{Me}" },
    { "number", "\\p{N}" },
    { "decimalnumber", "\\p{Nd}" },
    { "letternumber", "\\p{Nl}" },
    { "othernumber", "\\p{No}" },
    { "punctuation", "\\p{P}" },
    { "symbol", "\\p{S}" },
    { "separator", "\\p{Z}" },
    { "spaceseparator", "\\p{Zs}" },
    { "other", "\\p{C}" },
    { "control", "\\p{Cc}" },
    { "any", "\\p{Any}" },
    { "digit", "\\p{Nd}" },
    { "alpha", "\\p{Alphabetic}" },
    { "alphabetic", "\\p{Alphabetic}" },
    { "upper", "\\p{Uppercase}" },
    { "uppercase", "\\p{Uppercase}" },
    { "lower", "\\p{Lowercase}" },
    { "lowercase", "\\p{Lowercase}" },
    { "space", "\\p{White_Space}" },
    { "whitespace", "\\p{White_Space}" },
    { "word", "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]" },
    /* A bare \w of Oniguruma's counts the superscripts and fractions of Latin-1 as word characters. */
    { "bare_word", "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}]" },
    /* char::is_numeric() of the library's Digits knows Unicode 15, whose new numbers are listed. */
    { "rust_numeric", "[\\p{N}\\x{11f50}-\\x{11f59}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}]" },
    /* \w of Rust's regex crate, with the letters and marks of Unicode 15: used for single_word. */
    { "rust_word",
      "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}\\x{cf3}\\x{ece}\\x{10efd}-\\x{10eff}"
      "\\x{1123f}-\\x{11241}\\x{11f00}-\\x{11f10}\\x{11f12}-\\x{11f3a}\\x{11f3e}-\\x{11f42}"
      "\\x{11f50}-\\x{11f59}\\x{1342f}\\x{13440}-\\x{13455}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"
      "\\x{1e030}-\\x{1e06d}\\x{1e08f}\\x{1e4d0}-\\x{1e4f9}\\x{2b739}\\x{31350}-\\x{323af}]" },
};

/* As PCRE2 spells it, or NULL. */
static const char *category(const char *name)
{
    static const char *const categories[] = { "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo",
                                              "Lt", "Lu", "M",  "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No",
                                              "P",  "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S",  "Sc",
                                              "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs" };
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++)
        if (strcasecmp(name, categories[i]) == 0)
            return categories[i];
    return NULL;
}

/* Case, blanks, hyphens and low lines do not matter in a name. */
static void plain_name(const char *name, char out[80])
{
    size_t n = 0;
    for (; *name && n < 79; name++)
        if (*name != ' ' && *name != '_' && *name != '-')
            out[n++] = (char)(*name >= 'A' && *name <= 'Z' ? *name | 0x20 : *name);
    out[n] = 0;
}

static void property_pattern(const char *name, char out[640])
{
    char plain[80];
    plain_name(name, plain);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(plain, names[i][0]) == 0 || strcmp(name, names[i][0]) == 0) {
            snprintf(out, 640, "%s+", names[i][1]);
            return;
        }
    if (category(name))
        snprintf(out, 640, "\\p{%s}+", category(name));
    else
        snprintf(out, 640, "\\p{sc:%s}+", plain); /* PCRE2's bare \p{Han} would take script extensions too */
}

static pcre2_code *compile(const char *pattern, size_t bytes, struct err *e)
{
    int code;
    PCRE2_SIZE where;
    char text[200];
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)pattern, bytes,
                                  PCRE2_UTF | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK, &code, &where, NULL);
    if (!c) {
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        err_set(e, "PCRE2 does not take the pattern: %s", text);
        return NULL;
    }
    pcre2_jit_compile(c, PCRE2_JIT_COMPLETE); /* without JIT it is slower, not wrong */
    return c;
}

/* All scalar values in order, as UTF-8; made once for the life of the program. */
static struct {
    pthread_once_t once;
    char *text;
    size_t bytes;
} characters = { .once = PTHREAD_ONCE_INIT };

static void make_characters(void)
{
    characters.text = arena_slab(4 * ((size_t)CODE_POINT_MAX + 1));
    for (uint32_t c = 0; c <= CODE_POINT_MAX; c++)
        if (c < 0xd800 || c >= 0xe000)
            characters.bytes += (size_t)utf8_put(characters.text + characters.bytes, c);
}

static uint32_t last_before(const char *text, size_t end)
{
    do
        end--;
    while (((unsigned char)text[end] & 0xc0) == 0x80);
    return utf8_get(text + end);
}

/* The characters that a pattern of the form X+ matches. */
static const struct charset *collect(struct arena *out, pcre2_code *code)
{
    struct arena *a = arena_new("characters");
    size_t at = 0;
    int64_t n = 0, most = 4096;
    pthread_once(&characters.once, make_characters);
    const char *text = characters.text;
    const size_t bytes = characters.bytes;
    struct range *r = ARENA_NEW(a, struct range, most);
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    CHECK(data != NULL, "out of memory in PCRE2");
    int found = 1;
    while (n < most &&
           (found = pcre2_match(code, (PCRE2_SPTR)text, bytes, at, PCRE2_NO_UTF_CHECK, data, NULL)) > 0) {
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(data);
        r[n++] = (struct range){ utf8_get(text + o[0]), last_before(text, o[1]) };
        at = o[1];
    }
    CHECK(found == PCRE2_ERROR_NOMATCH, "PCRE2 says %d after %lld ranges", found, (long long)n);
    const struct charset *x = charset_of(out, r, n);
    pcre2_match_data_free(data);
    arena_free(a);
    return x;
}

/* Properties that were asked for before: they are the same for every tokenizer, and asking PCRE2 about a million
 * characters takes milliseconds. */
static struct {
    pthread_mutex_t lock;
    struct arena *arena;
    int n;
    const char *pattern[MOST_PROPERTIES];
    const struct charset *set[MOST_PROPERTIES];
} properties = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Under the lock. NULL: PCRE2 does not know it. */
static const struct charset *find_property(struct arena *a, const char *pattern)
{
    struct err ignored = { 0 };
    for (int i = 0; i < properties.n; i++)
        if (strcmp(properties.pattern[i], pattern) == 0)
            return properties.set[i];
    pcre2_code *code = compile(pattern, strlen(pattern), &ignored);
    if (!code)
        return NULL;
    const bool keep = properties.n < MOST_PROPERTIES;
    if (!properties.arena)
        properties.arena = arena_new("properties");
    const struct charset *x = collect(keep ? properties.arena : a, code);
    pcre2_code_free(code);
    if (keep) {
        properties.pattern[properties.n] = arena_strdup(properties.arena, pattern);
        properties.set[properties.n++] = x;
    }
    return x;
}

const struct charset *rx_property(struct arena *a, const char *name, struct err *e)
{
    char pattern[640];
    property_pattern(name, pattern);
    pthread_mutex_lock(&properties.lock);
    const struct charset *x = find_property(a, pattern);
    pthread_mutex_unlock(&properties.lock);
    if (!x)
        err_set(e, "unknown property {%s}", name);
    return x;
}

/* \x{...}, without printf: the letters alone are 650 ranges. */
static void print_code(struct str *s, uint32_t c)
{
    char text[12] = "\\x{";
    size_t n = 3;
    for (int shift = 20; shift >= 0; shift -= 4)
        if (c >> shift || shift == 0)
            text[n++] = "0123456789abcdef"[c >> shift & 15];
    text[n++] = '}';
    str_add_bytes(s, text, n);
}

static void print_set(struct str *s, const struct charset *x)
{
    if (x->n == 0) {
        str_add(s, "(?!)");
        return;
    }
    str_add(s, "[");
    for (int64_t i = 0; i < x->n; i++) {
        uint32_t first = x->range[i].first, last = x->range[i].last;
        if (first >= 0xd800 && first < 0xe000) /* surrogates are no characters; PCRE2 refuses them */
            first = 0xe000;
        if (last >= 0xd800 && last < 0xe000)
            last = 0xd7ff;
        if (first > last)
            continue;
        print_code(s, first);
        str_add(s, "-");
        print_code(s, last);
    }
    str_add(s, "]");
}

static void print(struct str *s, const struct rx *x);

static void print_children(struct str *s, const struct rx *x, const char *between)
{
    for (const struct rx *c = x->child; c; c = c->next) {
        print(s, c);
        if (c->next)
            str_add(s, between);
    }
}

static void print_repeat(struct str *s, const struct rx *x)
{
    static const char *const greed[] = { "", "?", "+" };
    str_add(s, "(?:");
    print(s, x->child);
    str_addf(s, "){%d,", x->min);
    if (x->max >= 0)
        str_addf(s, "%d", x->max);
    str_addf(s, "}%s", greed[x->greed]);
}

/* \b as the definition says, with the \w of the library instead of PCRE2's. */
static void print_boundary(struct str *s, bool invert)
{
    const char *w = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}]";
    if (invert)
        str_addf(s, "(?:(?<=%s)(?=%s)|(?<!%s)(?!%s))", w, w, w, w);
    else
        str_addf(s, "(?:(?<=%s)(?!%s)|(?<!%s)(?=%s))", w, w, w, w);
}

static void print(struct str *s, const struct rx *x)
{
    if (s->bytes > MOST_PATTERN) /* matcher_new() says so */
        return;
    switch (x->kind) {
    case RX_EMPTY:
        break;
    case RX_SET:
        print_set(s, x->set);
        break;
    case RX_CAT:
        print_children(s, x, "");
        break;
    case RX_ALT:
        str_add(s, "(?:");
        print_children(s, x, "|");
        str_add(s, ")");
        break;
    case RX_REPEAT:
        print_repeat(s, x);
        break;
    case RX_ATOMIC:
        str_add(s, "(?>");
        print_children(s, x, "");
        str_add(s, ")");
        break;
    case RX_LOOK:
        str_addf(s, "(?%s%s", x->behind ? "<" : "", x->negative ? "!" : "=");
        print_children(s, x, "");
        str_add(s, ")");
        break;
    case RX_ASSERT:
        if (x->assertion == 'b' || x->assertion == 'B')
            print_boundary(s, x->assertion == 'B');
        else
            str_addf(s, x->assertion == '^' || x->assertion == '$' ? "%c" : "\\%c", x->assertion);
    }
}

struct matcher *matcher_new(struct arena *a, const struct rx *x, struct err *e)
{
    struct arena *scratch = arena_new("pattern");
    struct str s = str_new(scratch, 64 * (size_t)MOST_PATTERN);
    str_add(&s, "(*LF)"); /* only \n ends a line */
    print(&s, x);
    const bool fits = s.bytes <= MOST_PATTERN || err_set(e, "pattern too long");
    pcre2_code *code = fits ? compile(s.text, s.bytes, e) : NULL;
    arena_free(scratch);
    if (!code)
        return NULL;
    struct matcher *m = ARENA_NEW(a, struct matcher, 1);
    m->code = code;
    return m;
}

void matcher_free(struct matcher *m)
{
    if (m)
        pcre2_code_free(m->code);
}

struct matcher_scratch *matcher_scratch_new(void)
{
    struct arena *a = arena_new("matcher");
    struct matcher_scratch *s = ARENA_NEW(a, struct matcher_scratch, 1);
    *s = (struct matcher_scratch){ a, pcre2_match_data_create(1, NULL), pcre2_match_context_create(NULL),
                                   pcre2_jit_stack_create(1 << 15, STACK_BYTES, NULL) };
    CHECK(s->data && s->context, "out of memory in PCRE2");
    if (s->stack)
        pcre2_jit_stack_assign(s->context, NULL, s->stack);
    return s;
}

void matcher_scratch_free(struct matcher_scratch *s)
{
    if (!s)
        return;
    pcre2_match_data_free(s->data);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    arena_free(s->a);
}

int matcher_search(const struct matcher *m, struct matcher_scratch *s, const char *text, size_t bytes,
                   size_t from, size_t *start, size_t *end, struct err *e)
{
    char why[200];
    const int n =
        pcre2_match(m->code, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK, s->data, s->context);
    if (n == PCRE2_ERROR_NOMATCH)
        return 0;
    if (n <= 0) {
        pcre2_get_error_message(n, (PCRE2_UCHAR *)why, sizeof why);
        err_set(e, "a pre_tokenizer pattern fails on this text: %s", why);
        return -1;
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(s->data);
    *start = o[0];
    *end = o[1];
    return 1;
}
