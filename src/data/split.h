/* split.h - the pre-tokenizer: stages applied one after the other, each to the pieces of the one before.
 * Beside the pieces it knows *cuts*: places where the text can be divided before any stage runs, with the same
 * pieces on both sides. They are proved from the automata when the stages are compiled, not assumed. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "data/buffer.h"
#include "data/dfa.h"
#include "data/regex.h"
enum { MOST_STAGES = 32 };
enum behavior { ISOLATED, REMOVED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };
struct stage {
    const struct rx *pattern; /* NULL: pieces stay whole */
    enum behavior behavior;
    bool invert;
    bool add_prefix_space; /* before the pattern: a piece that does not start with ' ' gets one */
    const struct dfa *dfa;
    struct matcher *matcher; /* where dfa is NULL */
};
struct split {
    int n_stages;
    struct stage stage[MOST_STAGES];
    struct alphabet alphabet;
    /* cut[a][b]: between a character of class a and one of class b */
    bool cut[MOST_CLASSES][MOST_CLASSES];
};
/* Compiles the stages that the caller has filled in (pattern, behavior, invert, add_prefix_space). */
bool split_compile(struct arena *a, struct split *s, struct err *e);
void split_free(struct split *s); /* what is outside the arena */
/* Calls `take` for each piece, in order. Text is valid UTF-8. False when a pattern gave up (PCRE2 limits). */
typedef void split_take(void *context, const char *piece, size_t bytes);
struct split_scratch {
    struct matcher_scratch *matcher; /* made when first needed */
    struct buffer prefixed[MOST_STAGES];
};
bool split_run(const struct split *s, struct split_scratch *scratch, const char *text, size_t bytes,
               split_take *take, void *context, struct err *e);
void split_scratch_free(struct split_scratch *scratch);
