/* exec.h - walks the instruction lists of one rank; the only caller of kernels in training. One slab holds
 * every buffer; nothing is allocated after exec_new. Failures stop all ranks. Buffers lie on the device: the host
 * reads and writes them through exec_get and exec_put. */
#pragma once
#include "device/comm.h"
#include "device/device.h"
#include "sched/sched.h"
struct step_control {              /* set by the host before LIST_UPDATE */
    double lr, beta1, beta2, clip; /* clip 0 = off */
    int64_t step;                  /* 1-based */
    int64_t seed;                  /* of random rounding */
};
struct exec {
    struct program *program;
    const struct device *device;
    char *slab;
    char *inputs[DEVICE_MARKS], *kept[DEVICE_MARKS]; /* see exec_turns */
    double *
        norm_sums; /* host copies: of the norm's sums, of counts by member (route_counts()), of a round's segments */
    int32_t *counts, *ends;
    struct call *calls[LISTS];    /* by slot and instruction; pointers bound */
    int64_t slot, n_slots[LISTS]; /* of the micro-batch that is being run (sched.h) */
    struct pass *pass;            /* pass.h: messages */
    struct comm_group *replica[FLATS], *mirror[FLATS], *shard[FLATS], *expert, *tensor, *both_ends;
    struct step_control control;
    bool first,
        last; /* set by the host: the micro-batch is the first of a sum (instr_add), the last of its step */
    bool settled; /* pass_settled: the list has run PASS_SETTLED times (pass.h), as it has on all ranks */
    bool refuse;  /* set by the host: stop before the update, whatever the gradient */
    double grad_norm;
    int64_t bad_chunk; /* first chunk of the gradient that is not finite; -1 */
    char *moments;     /* offload.h: host memory; NULL: none is needed */
    bool moments_left; /* what the first micro-batch needs has been copied there once */
    int moments_place; /* the first of its places */
    struct late *late; /* communication that is put off (a test); NULL: nothing is */
    int late_from, late_to;
    int64_t rounds, most_rounds; /* of the exchange loop under way; most since cleared */
    int64_t sent_copies,
        sent_rows; /* of tokens to experts of other ranks, since cleared; rows that travelled for them */
    struct stretch
        *stretches[LISTS]; /* stretch.h; replays: they are recorded and replayed, must_replay: or else die */
    int n_stretches[LISTS], n_records;
    bool replays, must_replay;
    int64_t record_bytes;         /* device memory that the records took */
    int64_t *scratch;             /* 8 arrays of n_ranks for exchanges */
    double seconds[COST_CLASSES]; /* since cleared: on the host's clock, or the device's where it has one */
    double *spent[LISTS]; /* seconds by instruction, since cleared; NULL = not asked for (it makes every
                                   * instruction wait for the device) */
};
/* blocks: multiprocessors of a device that communication beside compute may take. */
void exec_new(struct arena *a, struct program *p, const struct device *d, int blocks, struct exec *x);
void exec_free(struct exec *x);
/* Bytes of the device that are taken outside the slab: context, libraries, code, other programs; -1 = on the host. */
int64_t exec_outside(const struct exec *x);
/* false only for LIST_UPDATE with a non-finite gradient: nothing was updated, bad_chunk tells where. */
bool exec_run(struct exec *x, enum list_kind which);
/* Instructions of a section only, with a slot of what micro-batches have apart. */
bool exec_run_section(struct exec *x, enum list_kind which, struct section s, int64_t slot);
void exec_launch(struct exec *x, enum list_kind which, int index, bool first); /* one RUN_OP or RUN_ZERO */
void *exec_at(const struct exec *x, struct ref r);                             /* NULL for no buffer */
void exec_put(struct exec *x, struct ref to, const void *from, int64_t bytes); /* from the host */
void exec_get(const struct exec *x, void *to, struct ref from, int64_t bytes); /* to the host; waits */
/* What goes in before a section and comes out behind it, each with one copy that nobody waits for: host copies of
 * program.inputs and program.kept, two of each (turn 0 and 1), so that the host reads one while the device works. */
void exec_turns(struct exec *x);                                /* once: makes them */
void *exec_input(const struct exec *x, int turn, struct ref r); /* where the host writes what becomes r */
const void *exec_kept(const struct exec *x, int turn, struct ref r);
/* Inputs, section, kept values. */
void exec_run_turn(struct exec *x, enum list_kind which, struct section s, int64_t slot, int turn);
void exec_reach(struct exec *x, int turn); /* until what exec_run_turn() asked for is there */
/* n elements of dtype t at r, as floats on the host, and back (rounded to nearest even). */
void exec_get_floats(const struct exec *x, float *to, struct ref r, enum dtype t, int64_t n);
void exec_put_floats(struct exec *x, struct ref r, enum dtype t, const float *from, int64_t n);
/* Adds to x->seconds what the device has done by now. */
void exec_count_times(struct exec *x);
double exec_now(void); /* seconds */
