/* str.h - string builder with a hard maximum. text is always terminated. */
#pragma once
#include "base/arena.h"
struct str {
    struct arena *arena;
    char *text;
    size_t bytes, capacity, max; /* bytes without the terminating 0 */
};
struct str str_new(struct arena *a, size_t max_bytes); /* CHECK fails beyond max_bytes */
void str_add(struct str *s, const char *text);
void str_add_bytes(struct str *s, const void *text, size_t bytes);
void str_addf(struct str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void str_add_json(struct str *s, const char *text,
                  size_t bytes); /* quoted and escaped; bytes must be UTF-8 */
void str_clear(struct str *s);
/* Levenshtein distance, for "did you mean"; and the nearest of n names (NULL if none within 1/2 of its length). */
int str_distance(const char *a, const char *b);
const char *str_nearest(const char *word, const char *const *names, int n);
