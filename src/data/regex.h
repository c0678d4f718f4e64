/* regex.h - regular expressions of tokenizer.json, in Oniguruma's Ruby syntax as Hugging Face's library reads
 * them: $ and ^ are ends of lines, \s is White_Space, \w has marks and connectors, \h is a hexadecimal digit,
 * {n,m}+ is a repeat of a repeat. Every character class is resolved to a set of code points when parsing.
 * What is not covered (named groups, back references, class intersections, ...) is an error that names it. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "data/charset.h"
enum rx_kind {
    RX_EMPTY,
    RX_SET,    /* one character of a set */
    RX_CAT,    /* children one after the other */
    RX_ALT,    /* children in order of preference */
    RX_REPEAT, /* the only child, min to max times */
    RX_ATOMIC, /* (?>...) */
    RX_LOOK,   /* (?=...) and relatives */
    RX_ASSERT, /* ^ $ A z Z b B */
};
enum rx_greed { GREEDY, LAZY, POSSESSIVE };
struct rx {
    enum rx_kind kind;
    const struct charset *set;
    struct rx *child, *next; /* first child; next of the same parent */
    int min, max;            /* max -1 = no limit */
    enum rx_greed greed;
    bool behind, negative;
    char assertion;
};
/* NULL on error; e->text then says only what is wrong and where in the pattern. Bytes must be UTF-8. */
struct rx *rx_parse(struct arena *a, const char *pattern, size_t bytes, struct err *e);
struct rx *rx_literal(struct arena *a, const char *text,
                      size_t bytes);  /* every character stands for itself */
bool rx_nullable(const struct rx *x); /* may match nothing */
/* Property sets and searching, by PCRE2 (bpe_pcre.c). */
const struct charset *rx_property(struct arena *a, const char *name, struct err *e); /* NULL on error */
struct matcher;
struct matcher *matcher_new(struct arena *a, const struct rx *x, struct err *e); /* NULL on error */
void matcher_free(struct matcher *m);
/* Scratch memory of one thread; NULL never. */
struct matcher_scratch;
struct matcher_scratch *matcher_scratch_new(void);
void matcher_scratch_free(struct matcher_scratch *s);
/* First match at or behind `from`: 1 and *start, *end; 0 = none; -1 = PCRE2 gave up (e says why). */
int matcher_search(const struct matcher *m, struct matcher_scratch *s, const char *text, size_t bytes,
                   size_t from, size_t *start, size_t *end, struct err *e);
