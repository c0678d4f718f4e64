/* access.h - what an instruction reads and writes in the slab. More is told than may be true, never less. */
#pragma once
#include "sched/sched.h"
enum { ACCESSES = 2 * OP_ARGS + INSTR_REFS + 1 };
struct access {
    int64_t begin, end; /* bytes of the buffer */
    int buffer;
    bool write; /* perhaps reads too */
};
/* Returns how many. */
int access_list(const struct program *p, const struct instr *in, struct access out[ACCESSES]);
/* Does one of them write what the other one reads or writes? */
bool access_conflict(const struct access *a, int n_a, const struct access *b, int n_b);
