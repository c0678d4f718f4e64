/* rows_walk.h - the virtual order of rows.h, walked: which rows of whom fall into a round. For rows.c and rows_move.c. */
#pragma once
#include "run/rows.h"
struct segment {        /* part of the rows (expert, sender) that falls into the round */
    int64_t begin, end; /* rows of the receiver's buffer */
    int64_t first;      /* first row in the sender's buffer */
};

/* Walks the virtual order of one receiver. rows_next_segment() gives its segments in order, empty ones included. */
struct walk {
    const struct rows *r;
    int64_t tile, low, high, at, per_member;
    int members, receiver;
};

/* Where the rows of a member for an expert begin, and how many they are. */
int64_t rows_before(const struct rows *r, int member, int64_t expert);
int64_t rows_of(const struct rows *r, int member, int64_t expert);
/* Rows of `from` for `to`, and those that travel once. */
int64_t rows_for(const struct rows *r, int from, int to);
int64_t rows_first_for(const struct rows *r, int from, int to);
/* The receiver's window in the round; *n_rounds (may be NULL) are those that it needs. */
struct walk rows_walk(const struct exec *x, const struct rows *r, int receiver, int64_t *n_rounds);
struct segment rows_next_segment(struct walk *w, int64_t local_expert, int sender);
/* One of the rounds that are under way together. */
struct rows rows_round(const struct exec *x, const struct rows *all, int which);
/* Kernels read rows where other ranks have them: one pass instead of a copy, this rank's own included, and a move. Beside products
 * copies are better, which take no multiprocessor. */
bool rows_are_pulled(const struct exec *x);
int64_t rows_in(const struct exec *x, struct ref r, int64_t row_bytes); /* of a buffer */
