/* links.c - see links.h. A transfer is timed with much and with little: the difference is bytes, the rest messages. */
#include "run/links.h"
#include "device/comm.h"
#include "run/exec.h"

enum { REPEATS = 9, ROW_BYTES = 64 };

struct transfers {
    const struct device *device;
    struct comm_group *group;
    int n;        /* members */
    size_t bytes; /* of a member's message to all, at most */
    char *from, *to;
    struct comm_rows rows;
};

/* As long as what travels in a step. From a device through the host, 16 MB of each of four ranks stay in the caches of a
 * processor (2.2 to 2.9 GB/s); blocks of a reduction do not (64 to 256 MB: 1.5 GB/s). */
static size_t message_bytes(const struct device *d)
{
    return d->backend == CPU ? 16u << 20 : 64u << 20;
}

static void exchange(const struct transfers *t, int64_t rows_each)
{
    for (int m = 0; m < t->n; m++) {
        t->rows.send_rows[m] = t->rows.recv_rows[m] = rows_each;
        t->rows.send_at[m] = t->rows.recv_at[m] = m * rows_each;
    }
    comm_exchange(t->group, t->from, t->to, &t->rows, ROW_BYTES);
}

static void gather(const struct transfers *t, int64_t rows_each)
{
    comm_gather_in_place(t->group, t->to, (size_t)(rows_each * ROW_BYTES));
}

/* Of the quickest call, on the rank for which it was the slowest. */
static double seconds_of(const struct transfers *t, void (*call)(const struct transfers *, int64_t),
                         int64_t rows_each)
{
    double least = 1e9;
    for (int i = 0; i < REPEATS; i++) {
        t->device->wait();
        comm_barrier();
        const double start = exec_now();
        call(t, rows_each);
        t->device->wait();
        const double took = comm_max(exec_now() - start);
        least = took < least ? took : least;
    }
    return least;
}

/* Bytes per second; *latency_us: of a message, at most. */
static double rate_of(const struct transfers *t, void (*call)(const struct transfers *, int64_t),
                      double *latency_us)
{
    const int64_t rows = (int64_t)t->bytes / ROW_BYTES / t->n;
    const double little = seconds_of(t, call, 1), much = seconds_of(t, call, rows),
                 bytes = (double)(rows - 1) * ROW_BYTES * (t->n - 1), us = 1e6 * little / (t->n - 1);
    *latency_us = us > *latency_us ? us : *latency_us;
    return bytes / (much > 1.01 * little ? much - little : much);
}

static void measure(struct arena *a, const struct device *d, const char *name, int color, int n,
                    struct link *out)
{
    struct transfers t = {
        .device = d, .group = comm_split(a, name, color), .n = n, .bytes = message_bytes(d)
    };
    int64_t **arrays[4] = { &t.rows.send_rows, &t.rows.send_at, &t.rows.recv_rows, &t.rows.recv_at };
    for (int i = 0; i < 4; i++)
        *arrays[i] = ARENA_NEW(a, int64_t, n);
    t.from = d->allocate(t.bytes);
    t.to = d->allocate(t.bytes);
    comm_share(t.from, t.bytes);
    comm_share(t.to, t.bytes);
    d->zero(t.from, t.bytes);
    d->zero(t.to, t.bytes);
    *out = (struct link){ 0 };
    out->bytes_per_s[TRANSFER_EXCHANGE] = rate_of(&t, exchange, &out->latency_us);
    out->bytes_per_s[TRANSFER_GATHER] = rate_of(&t, gather, &out->latency_us);
    out->bytes_per_s[TRANSFER_REDUCE] =
        out->bytes_per_s[TRANSFER_EXCHANGE]; /* run/collect.c exchanges, then adds */
    comm_unshare(t.to);
    comm_unshare(t.from);
    d->release(t.from);
    d->release(t.to);
}

void links_measure(struct arena *a, const struct device *d, struct cluster *c)
{
    const int local = comm_local_ranks(), all = comm_ranks();
    c->ranks_per_node = local;
    comm_reserve(message_bytes(d));
    if (local > 1)
        measure(a, d, "ranks of a machine", comm_rank() / local, local, &c->inside);
    if (all > local)
        measure(a, d, "all ranks", 0, all, &c->between);
}
