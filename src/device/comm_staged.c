/* comm_staged.c - bulk calls on memory of a device by MPI: through memory of the host, which is reserved. */
#include "base/err.h"
#include "device/comm_impl.h"
#include "device/device.h"

static char *staging[2];
static size_t staging_bytes;

char *comm_host_memory(char *old, size_t bytes)
{
    if (old)
        comm_device()->host_release(old);
    return comm_device()->host_allocate(bytes);
}

void staged_reserve(size_t bytes)
{
    if (bytes <= staging_bytes)
        return;
    for (int i = 0; i < 2; i++)
        staging[i] = comm_host_memory(staging[i], bytes);
    staging_bytes = bytes;
}

static void check_staging(const struct comm_group *g, size_t bytes)
{
    CHECK(bytes <= staging_bytes, "%s, group \"%s\": %zu bytes, %zu were reserved", comm_what(), g->name,
          bytes, staging_bytes);
}

/* Rows of a group's members in memory of the device, and where they stand in the staging, packed. */
struct pieces {
    const int64_t *rows, *at, *packed_at;
    int n;
    int64_t row_bytes;
};

/* They are in one lane: what waits for the last waits for all. */
static void copy_pieces(const struct pieces *p, const char *memory, char *packed, bool to_host)
{
    const struct device *d = comm_device();
    int n = p->n;
    while (n > 0 && p->rows[n - 1] == 0)
        n--;
    for (int m = 0; m < n; m++) {
        const bool last = m == n - 1;
        char *const there = (char *)memory + p->at[m] * p->row_bytes;
        char *const here = packed + p->packed_at[m] * p->row_bytes;
        const size_t bytes = (size_t)(p->rows[m] * p->row_bytes);
        if (bytes > 0 && to_host)
            (last ? d->get : d->get_later)(here, there, bytes);
        else if (bytes > 0)
            (last ? d->put : d->put_later)(there, here, bytes);
    }
}

/* Of each range as much at a time as the staging has room for. */
void staged_gather(const struct comm_group *g, void *all, const int64_t *cut)
{
    static int64_t rows[MAX_RANKS], at[MAX_RANKS], packed[MAX_RANKS + 1], mine[MAX_RANKS];
    enum { EVEN = 4096 };
    int64_t most = 0, each = (int64_t)staging_bytes / g->n / EVEN * EVEN;
    for (int m = 0; m < g->n; m++)
        most = cut[m + 1] - cut[m] > most ? cut[m + 1] - cut[m] : most;
    if (cut[g->n] - cut[0] <= (int64_t)staging_bytes)
        each = most;
    CHECK(each > 0 || most == 0, "%s, group \"%s\": a staging of %zu bytes", comm_what(), g->name,
          staging_bytes);
    for (int64_t done = 0; done < most; done += each) {
        for (int m = 0; m < g->n; m++) {
            const int64_t left = cut[m + 1] - cut[m] - done;
            at[m] = cut[m] + done;
            rows[m] = left < 0 ? 0 : left < each ? left : each;
            packed[m + 1] = packed[m] + rows[m];
            mine[m] = 0;
        }
        mine[g->index] = rows[g->index];
        rows[g->index] = 0; /* stands there */
        copy_pieces(&(struct pieces){ mine, at, packed, g->n, 1 }, all, staging[0], true);
        mpi_gather_ranges(g, staging[0], packed);
        copy_pieces(&(struct pieces){ rows, at, packed, g->n, 1 }, all, staging[0], false);
    }
}

/* Rows packed member by member; at[m] is where those of m begin. Returns all bytes. */
static size_t pack(const int64_t *rows, int64_t *at, int n, int64_t row_bytes)
{
    int64_t sum = 0;
    for (int m = 0; m < n; m++) {
        at[m] = sum;
        sum += rows[m];
    }
    return (size_t)(sum * row_bytes);
}

void staged_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *r,
                     int64_t row_bytes)
{
    static int64_t send_rows[MAX_RANKS], recv_rows[MAX_RANKS], send_at[MAX_RANKS], recv_at[MAX_RANKS];
    for (int m = 0; m < g->n; m++) {
        send_rows[m] = m == g->index ? 0 : r->send_rows[m];
        recv_rows[m] = m == g->index ? 0 : r->recv_rows[m];
    }
    check_staging(g, pack(send_rows, send_at, g->n, row_bytes));
    check_staging(g, pack(recv_rows, recv_at, g->n, row_bytes));
    copy_pieces(&(struct pieces){ send_rows, r->send_at, send_at, g->n, row_bytes }, send, staging[0], true);
    const struct comm_rows packed = { send_rows, send_at, recv_rows, recv_at };
    mpi_exchange(g, staging[0], staging[1], &packed, row_bytes);
    copy_pieces(&(struct pieces){ recv_rows, r->recv_at, recv_at, g->n, row_bytes }, recv, staging[1], false);
}
