/* dfa.h - regular expressions as finite automata over classes of characters. A match is the one that a
 * backtracking engine prefers (leftmost, then by order of alternatives), found in one pass per attempt.
 * Lookahead over one character, $ and \z are part of the automaton: a transition says whether a match ends
 * before the character that it reads. */
#pragma once
#include "base/arena.h"
#include "data/regex.h"
#include "data/utf8.h"
enum { MOST_CLASSES = 250, DFA_DEAD = 0, DFA_START = 1, DFA_MATCH = 0x8000 };
/* Characters that no set tells apart are one class; class n stands for the end of the text. */
struct alphabet {
    int n;
    uint8_t ascii[128];
    uint32_t example[MOST_CLASSES]; /* a character of each class */
    uint16_t block[(CODE_POINT_MAX >> 8) + 1];
    const uint8_t (*classes)[256];
};
/* False when there are more than MOST_CLASSES. */
bool alphabet_make(struct arena *a, const struct charset *const *sets, int64_t n, struct alphabet *out);
static inline int alphabet_class(const struct alphabet *b, const char *s)
{
    if ((unsigned char)*s < 0x80)
        return b->ascii[(unsigned char)*s];
    const uint32_t c = utf8_get(s);
    return b->classes[b->block[c >> 8]][c & 0xff];
}
struct dfa {
    const struct alphabet *alphabet;
    int n_states; /* DFA_DEAD and DFA_START among them */
    const uint16_t
        *row; /* [n_states, alphabet->n + 1]: next state, | DFA_MATCH = a match ends before this class */
};
/* Appends the sets that the pattern needs to sets[*n], at most `most`; false when there are more. */
bool dfa_sets(const struct rx *x, struct arena *a, const struct charset **sets, int64_t *n, int64_t most);
/* NULL when the pattern needs more than an automaton has (look behind, atomic groups, empty matches, ...). */
const struct dfa *dfa_make(struct arena *a, const struct alphabet *b, const struct rx *x);
/* First match at or behind `from`; never empty. False when there is none. */
bool dfa_search(const struct dfa *d, const char *text, size_t bytes, size_t from, size_t *start, size_t *end);
static inline int dfa_step(const struct dfa *d, int state, int class)
{
    return d->row[state * (d->alphabet->n + 1) + class];
}
