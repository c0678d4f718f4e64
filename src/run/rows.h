/* rows.h - the exchange of token rows between the ranks of an expert group, in rounds.
 * The receiver's rows stand in a virtual order: by expert, then by sender, each such segment starting at a
 * multiple of the tile. Round j moves virtual rows [jR, (j+1)R), R = the plan's row capacity. Everybody
 * computes the same windows from the counts of all members, so nothing else is communicated, no row is ever
 * dropped, and the order in which a receiver sees its rows does not depend on R. Where a segment may not be cut
 * (plan_whole_segments), round j moves as many whole segments as fit into R.
 *
 * Rows that are copies of tokens' rows (RUN_SEND with copies) travel once to each member, if one round is enough: the sender
 * packs those that come first into the room where it receives, which is free until then; the receiver copies each to the
 * places of its twins. The numbers that this needs came with the counts, so again everybody decides the same. */
#pragma once
#include "run/exec.h"
struct rows {
    const struct instr *head;
    const int32_t *counts; /* [members, route_counts()]: where a member's rows for an expert end, among its
                            * sorted rows; how many of those for each member are the first of their token there */
    int64_t experts;       /* E */
    int members;
    bool once;                     /* a token's row travels once to each member: there is one round */
    int64_t loop, round, n_rounds; /* loop: the list takes plan_at_once() rounds each time; 0 outside */
};
void rows_route(struct exec *x, const struct instr *in);
void rows_begin(struct exec *x, const struct instr *head, struct rows *r);
bool rows_next(struct exec *x, struct rows *r); /* advances; false after the last round */
/* Is what the instruction makes (in->anew) still there from forward, whose loop had one turn as this one has? */
bool rows_are_left(const struct exec *x, const struct instr *in, const struct rows *r);
void rows_run(struct exec *x, const struct instr *in,
              const struct rows *r); /* one of the loop's RUN_SEND to RUN_UNPACK */
