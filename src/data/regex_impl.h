/* regex_impl.h - the parser of patterns, shared by regex_parse.c (structure) and regex_class.c (characters). */
#pragma once
#include "data/regex.h"
#include "data/utf8.h"
#include <string.h>
struct parser {
    struct arena *a;
    struct err *e;
    const char *start, *p, *end;
    bool fold, dot_all; /* (?i), (?m) */
    int depth;
    const struct charset *previous; /* the folded set just before, for folds of two characters */
};

/* NULL, with an error that says where. */
static inline void *fail(struct parser *s, const char *what)
{
    err_set(s->e, "%s at byte %d of the pattern", what, (int)(s->p - s->start));
    return NULL;
}

static inline bool more(const struct parser *s)
{
    return s->p < s->end;
}

static inline bool at(const struct parser *s, const char *word)
{
    const size_t n = strlen(word);
    return (size_t)(s->end - s->p) >= n && memcmp(s->p, word, n) == 0;
}

/* Reads the word when it is there. */
static inline bool eat(struct parser *s, const char *word)
{
    if (!at(s, word))
        return false;
    s->p += strlen(word);
    return true;
}

/* regex_class.c: one set of characters each; NULL with an error. */
struct rx *rx_parse_bracket(struct parser *s);   /* behind the [ */
struct rx *rx_parse_escape(struct parser *s);    /* behind the backslash; not for assertions */
struct rx *rx_parse_character(struct parser *s); /* that stands for itself */
struct rx *rx_parse_dot(struct parser *s);       /* behind it */
struct rx *rx_set(struct arena *a, const struct charset *set);
