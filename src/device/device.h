/* device.h - where the buffers of a rank lie and its kernels run: the CPU, or one CUDA device. All calls are
 * ordered with the kernels that were launched on .stream before; failures stop every rank. */
#pragma once
#include "base/err.h"
#include "base/num.h"
#include "base/rng.h"
#include "cuda/products.h"
#include "graph/op.h"
/* A binary tree of float32 sums over parts, blocks of 2^k neighbours first, each element by itself: the bits depend on
 * nothing but the parts. `parts` may be overwritten; out is part 0's place or apart from all of them. */
struct device_sum {
    void *parts, *out; /* [n_parts][stride], [n] */
    enum dtype type;   /* F32; BF16 on CUDA */
    int n_parts;
    int64_t stride, n; /* elements */
    bool add;          /* to what is in out, which is not part of `parts` then */
};
enum { DEVICE_MEMBERS = 64 };
/* The same sums of parts that are read where other ranks have them: addresses of reach_at. `out` may be one of them. */
struct device_sum_of {
    const void *of[DEVICE_MEMBERS];
    void *out;
    enum dtype type;
    int n_parts;
    int64_t n;
    bool add;
};
/* Rows of copies of tokens, sorted by segment; n_segments / members consecutive segments go to each member. Twins are rows of the
 * same token that go to the same member: the first of them travels alone. twin[i] of a first row: its number among the first
 * rows of its member, in their order, or with `chain` the next twin's row, 0 where there is none. Of any other row: ~ the
 * number of its first one, or with `chain` ~ the next twin's row. */
struct device_twins {
    const int32_t *row, *place,
        *end; /* [n_rows]: copy in each row, each * token + which; its inverse; [n_segments] */
    int32_t *twin,
        *n_first; /* out: [n_rows] (those behind the last end stay); [members]: how many are first */
    int64_t n_rows, n_segments, each;
    int members;
    bool chain;
};
/* Rows of segments that begin at multiples of `tile` (op.h: rows), and the same without the space between them. end
 * and from lie where kernels read: rows of segment i end at end[i], its first one is row from[i] of `packed`. With `twin`
 * (device_twins, no chain) first rows alone are packed: row i of segment s to from[s] + twin[i]; unpacked, each row is what
 * its first one was. */
struct device_move {
    char *rows, *packed;
    const int32_t *end, *from; /* [n_segments], end ascending */
    const int32_t *twin;       /* [n_rows], of each row of `rows`; NULL: all rows are moved */
    int64_t n_segments, tile, n_rows, row_bytes; /* rows that `rows` has; bytes: a multiple of 4 */
    bool pack; /* to `packed`; else from there, and rows between the end and the next tile become zeros */
};
/* Segments of rows that are read where members have them: row r of segment i, in begin[i] <= r < end[i], is row first[i] + r -
 * begin[i] of member i / each % members; rows behind the end, up to the next multiple of tile, become zeros. Rows between
 * segments stay as they are. With `twin` (device_twins with `chain`, each 1, whole segments) first rows alone are read, and
 * written to the places of all their twins. */
struct device_pull {
    char *rows;
    const void *of[DEVICE_MEMBERS];     /* rows of each member, addresses of reach_at */
    const int32_t *begin, *end, *first; /* [n_segments], ascending; where kernels read */
    const int32_t *twin;                /* [n_rows], of each row of `rows`; NULL: all rows are read */
    int64_t n_segments, each, tile, n_rows, row_bytes; /* rows that `rows` has; bytes: a multiple of 4 */
    int members;
};
/* For memory that another process may attach. */
struct device_ticket {
    unsigned char bytes[64];
};
enum { DEVICE_MARKS = 2 };
/* Lanes work beside each other, each in the order of its calls. LANE_MESSAGES is the first of those in which a rank waits for
 * one other rank: of activations that go out and come in, and of gradients (run/pass.h). LANE_HOST: copies from and to host memory (run/offload.h). */
enum device_lane { LANE_COMPUTE, LANE_SIDE, LANE_MESSAGES, LANE_HOST = LANE_MESSAGES + 4, LANES };
struct device {
    const char *name; /* "cpu", "cuda" */
    enum backend backend;
    void *(*allocate)(size_t bytes);                       /* contents undefined; 256-byte aligned */
    void (*release)(void *memory);                         /* what allocate gave; waits first */
    void (*put)(void *to, const void *from, size_t bytes); /* from the host; `from` may be reused on return */
    void (*get)(void *to, const void *from, size_t bytes); /* to the host; there on return */
    void (*copy)(void *to, const void *from, size_t bytes);
    void (*zero)(void *at, size_t bytes);
    /* Called again and again while a rank waits here for the device, until it returns false. NULL where nobody waits. */
    void (*meanwhile)(bool (*work)(void));
    void (*wait)(void); /* for everything before but messages, which may need what comes behind */
    /* Memory of the host that copies are fastest to: pinned where the machine gives it. Zeros; dies as arena_slab. put
     * and get may be called by any thread. */
    void *(*host_allocate)(size_t bytes);
    void (*host_release)(void *memory); /* waits first */
    /* Copies of it that nobody waits for: whoever uses it waits for a mark behind the copy. Marks are places in the order
     * of calls; setting one again moves it. */
    void (*put_later)(void *to, const void *from, size_t bytes);
    void (*get_later)(void *to, const void *from, size_t bytes);
    void (*mark)(int which); /* 0 to DEVICE_MARKS - 1 */
    void (*reach)(int which);
    void *(*stream)(void); /* of the lane in use */
    /* Which lane the calls that follow, of this thread, belong to; at first that of compute. NULL where calls return when they are done. put
     * and get wait for their lane, what releases memory for all, marks and records are of the lane of compute. */
    void (*lane)(enum device_lane lane);
    /* From now on several lanes are used: kernels of compute that stay on a multiprocessor leave so many alone, which changes no
     * bit. Places in the lane in use, by number: what follows in another lane waits for the last time that one was set, and
     * for nothing where it never was. */
    void (*lanes)(int n_places, int blocks_left);
    void (*place)(int which);
    void (*behind)(int which);
    enum device_lane (*lane_now)(void); /* NULL: always that of compute */
    /* Memory that the ranks of a machine read from each other without the owner's help. share: a ticket for what allocate
     * gave; attach: what that ticket of another process stands for, NULL where it cannot be reached; fetch: bytes from
     * byte `at` on of it, as copy. see: host memory that all ranks map, before meet is called with words of it; meet: sets this
     * rank's word (of n) to `call`, and what follows waits until all words have come to it (in cyclic order). NULL: no
     * such thing. */
    bool (*share)(void *memory, struct device_ticket *t);
    void *(*attach)(const struct device_ticket *t);
    void (*detach)(void *attached);
    void (*fetch)(void *to, void *attached, int64_t at, size_t bytes);
    const void *(*reach_at)(void *attached, int64_t at); /* where kernels find it; NULL: they cannot */
    void (*pull)(const struct device_pull *p);
    void (*sum_of)(const struct device_sum_of *s);
    bool (*see)(void *host, size_t bytes);
    void (*meet)(uint32_t *const *word, int n, int mine, uint32_t call);
    /* What the time of the lane of compute goes to, waiting for the other one included: from here on to this kind, until the
     * next call. spent adds what has passed by now to seconds[kind], without a wait; NULL where the clock of the host tells. */
    void (*spend_on)(int kind);
    void (*spent)(double *seconds);
    /* Makes weights in place, with the low bits of the master (NULL: not wanted); NULL where the host does it. */
    void (*fill)(void *weight, void *low, enum master master, const struct rng_fill *f);
    void (*sum)(const struct device_sum *s);
    void (*move)(const struct device_move *m);
    void (*twins)(const struct device_twins *t);
    void (*identity)(unsigned char id[16]); /* no other device has it; NULL on the CPU */
    /* What is called between record_begin and record_end does not run but is recorded; replay runs it, any number of
     * times, with the addresses and sizes it had. Where that cannot be, record_end gives NULL and the reason, and
     * nothing happened. NULL where there is nothing to gain. */
    void (*record_begin)(void);
    void *(*record_end)(struct err *e);
    void (*replay)(void *record);
    void (*forget)(void *record); /* waits first */
    int64_t (*used)(void);        /* bytes of the device that are taken, by whomever; NULL: it is the host */
    int64_t (*memory)(void);      /* bytes that can be allocated now, a reserve for the driver apart */
};
extern const struct device device_cpu;
/* NULL in a program that was built without nvcc. */
extern const struct device *device_cuda(void) __attribute__((weak));
/* Kernels of compute capability 8.0 on any device; before device_cuda_open(). */
void device_cuda_portable(void) __attribute__((weak));
/* Takes the CUDA device of this rank (`local_rank` modulo their number); false and the reason when there is none.
 * Nothing is allocated on the device but its context. */
bool device_cuda_open(int local_rank, struct err *e) __attribute__((weak));
/* "NVIDIA H200, compute capability 9.0, 139.8 GiB, driver 13.0, ..." */
const char *device_cuda_description(void) __attribute__((weak));
